"""Properties of values by which rows can be told apart: of a text its length, of a time its hour.

All work on the arrays of `data.Column.values`: float64 for numbers and times (seconds since 1970,
NaN where missing), objects for categories and texts (None where missing).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from mlflow_exec.evaluation.arrays import Floats, Mask, Values

WORD = re.compile(r"\w+")
_DAY_S = 86_400
# 1970-01-01 was a Thursday; Monday is 0, as in datetime.weekday.
_FIRST_WEEKDAY = 3


def as_numbers(values: Values) -> Floats:
    """Return numbers and times as they are.

    Raises:
        ValueError: They are texts or categories.
    """
    return np.asarray(values, dtype=np.float64)


def is_missing(values: Values) -> Mask:
    """Return which values are missing."""
    if values.dtype == object:
        return np.fromiter((value is None for value in values), dtype=np.bool_, count=len(values))
    return np.asarray(np.isnan(values), dtype=np.bool_)


def words_of(text: str) -> list[str]:
    """Return the words of a text, in lower case."""
    return WORD.findall(text.lower())


def _share(belongs: Callable[[str], bool]) -> Callable[[str], float]:
    return lambda text: sum(map(belongs, text)) / len(text) if text else 0.0


def _is_punctuation(character: str) -> bool:
    return not (character.isalnum() or character.isspace())


_OF_TEXTS: dict[str, tuple[str, Callable[[str], float]]] = {
    "length": ("length of {}", len),
    "words": ("number of words of {}", lambda text: len(WORD.findall(text))),
    "upper_share": ("share of capitals in {}", _share(str.isupper)),
    "digit_share": ("share of digits in {}", _share(str.isdigit)),
    "punctuation_share": ("share of punctuation in {}", _share(_is_punctuation)),
}
_OF_TIMES: dict[str, tuple[str, Callable[[Floats], Floats]]] = {
    "hour": ("hour of {}", lambda seconds: seconds // 3600 % 24),
    "weekday": ("weekday of {}", lambda seconds: (seconds // _DAY_S + _FIRST_WEEKDAY) % 7),
}
OF_TEXTS = tuple(_OF_TEXTS)
OF_TIMES = tuple(_OF_TIMES)


def numbers_of(values: Values, name: str, value: Any = None) -> Floats:
    """Return a property of each value, NaN where the value is missing.

    Args:
        values: Of a column of texts or times.
        name: One of `OF_TEXTS` or `OF_TIMES`, or ``word``: 1 where the text has the word `value`.
        value: The word.
    """
    if name in _OF_TIMES:
        return _OF_TIMES[name][1](as_numbers(values))
    if name == "word":
        pattern = re.compile(rf"\b{re.escape(str(value))}\b", re.IGNORECASE)
        found = (np.nan if v is None else float(pattern.search(v) is not None) for v in values)
    else:
        measure = _OF_TEXTS[name][1]
        found = (np.nan if v is None else float(measure(v)) for v in values)
    return np.fromiter(found, dtype=np.float64, count=len(values))


def property_title(column: str, name: str, value: Any = None) -> str:
    """Return how people call a property of a column; the column's name where there is none."""
    if not name:
        return column
    if name == "word":
        return f"{column} has the word {str(value)!r}"
    return (_OF_TEXTS.get(name) or _OF_TIMES[name])[0].format(column)

"""Small changes of values after which a prediction should be the same."""

from __future__ import annotations

import string
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlflow_exec.evaluation.arrays import Floats, Integers, Mask
from mlflow_exec.evaluation.data import Column

Rng = np.random.Generator

# Giskard 2.19 has 5 % of the letters, a typo in every third word: that changes what is said.
_TYPOS = 0.02
_TYPING = np.array(list(string.ascii_lowercase))
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
# So many standard deviations a number moves at most: 1 % of a year is the spread of many data.
_FARTHEST = 0.05
# Above this float64 cannot tell whole numbers apart.
_LARGEST_WHOLE = 2.0**53


@dataclass(frozen=True)
class OfNumbers:
    """A change of numbers.

    Attributes:
        title: For people, after "when".
        apply: Takes numbers, their standard deviation, and a generator.
    """

    title: str
    apply: Callable[[Floats, float, Rng], Floats]


@dataclass(frozen=True)
class OfTexts:
    """A change of a text.

    Attributes:
        title: For people, after "when" and the column.
        apply: Takes a text and a generator.
    """

    title: str
    apply: Callable[[str, Rng], str]


def _noise(numbers: Floats, deviation: float, rng: Rng) -> Floats:
    return np.asarray(numbers + rng.normal(0.0, 0.01 * deviation, len(numbers)))


def _typos(text: str, rng: Rng) -> str:
    letters = list(text)
    if len(letters) < 10:
        return text
    for _ in range(max(int((rng.random(len(letters)) < _TYPOS).sum()), 1)):
        at = int(rng.integers(0, len(letters) - 1))
        kind = int(rng.integers(0, 4))
        if kind == 0:
            letters.insert(at, str(rng.choice(_TYPING)))
        elif kind == 1 and len(letters) > 2:
            del letters[at]
        elif kind == 2:
            letters[at] = str(rng.choice(_TYPING))
        else:
            letters[at], letters[at + 1] = letters[at + 1], letters[at]
    return "".join(letters)


OF_NUMBERS: dict[str, OfNumbers] = {
    "times_0.99": OfNumbers("numbers are 1 % lower", lambda numbers, sd, rng: numbers * 0.99),
    "times_1.01": OfNumbers("numbers are 1 % higher", lambda numbers, sd, rng: numbers * 1.01),
    "noise": OfNumbers("numbers have noise of 1 % of their standard deviation", _noise),
}
OF_TEXTS: dict[str, OfTexts] = {
    "lower": OfTexts("is in small letters", lambda text, rng: text.lower()),
    "punctuation": OfTexts(
        "has no punctuation", lambda text, rng: text.translate(_NO_PUNCTUATION)
    ),
    "title": OfTexts("has a capital in front of each word", lambda text, rng: text.title()),
    "typos": OfTexts("has a few typos", _typos),
    "upper": OfTexts("is in capitals", lambda text, rng: text.upper()),
    "whitespace": OfTexts(
        "has more blanks", lambda text, rng: f"  {'  '.join(text.split(' '))} "
    ),
}


def can_change(column: Column, series: pd.Series) -> bool:
    """Whether a column of numbers can be changed and stay of its type."""
    finite = column.values[np.isfinite(column.values)]
    types, dtype = pd.api.types, series.dtype
    return (
        # Not spans of time, nor decimals of a fixed number of digits.
        any(test(dtype) for test in (types.is_integer_dtype, types.is_float_dtype,
                                     types.is_object_dtype))
        and len(finite) > 0
        and float(np.abs(finite).max()) < _LARGEST_WHOLE
    )  # fmt: skip


def changed_numbers(
    column: Column, positions: Integers, rows: pd.Series, perturbation: OfNumbers, rng: Rng
) -> tuple[pd.Series, Mask]:
    """Return a column's changed numbers, and which of them are others.

    Whole numbers stay whole, nothing moves far or out of the range that the data has, and missing
    and infinite values stay: rows that no model has seen the like of are no test.

    Args:
        column: Of the data.
        positions: Of some rows.
        rows: Its values there, as they were given.
        perturbation: What to do.
        rng: For noise.
    """
    every = column.values[np.isfinite(column.values)]
    numbers = column.values[positions]
    finite = np.isfinite(numbers)
    changed = numbers.copy()
    given, deviation = numbers[finite], float(every.std())
    moved = perturbation.apply(given, deviation, rng)
    moved = np.clip(moved, given - _FARTHEST * deviation, given + _FARTHEST * deviation)
    if (every == np.round(every)).all():
        moved = np.round(moved)
    changed[finite] = np.clip(moved, every.min(), every.max())
    different = finite & (changed != numbers)
    if not different.any():
        return rows, different
    if rows.dtype == object:  # others stay as they are, such as whole numbers that no float is
        changed = np.where(different, changed, rows.to_numpy())
    return pd.Series(changed, index=rows.index).astype(rows.dtype), different


def changed_texts(
    rows: pd.Series, perturbation: OfTexts, rng: Rng, tick: Callable[[], None]
) -> tuple[pd.Series, Mask]:
    """Return changed texts, and which of them are others; missing ones stay.

    Args:
        rows: Texts.
        perturbation: What to do.
        rng: For typos.
        tick: Called for each text: a long one takes milliseconds.
    """
    given = rows.to_numpy(dtype=object)
    there = np.asarray(pd.notna(rows), dtype=np.bool_)
    changed = given.copy()
    for position in np.flatnonzero(there):
        tick()
        changed[position] = perturbation.apply(str(given[position]), rng)
    different = there & np.asarray(changed != given, dtype=np.bool_)
    return pd.Series(changed, index=rows.index).astype(rows.dtype), different

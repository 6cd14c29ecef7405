"""Rows as hashes: whether rows are equal, also between two data sets, in a fraction of a second."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd

from mlflow_exec.evaluation.arrays import Values
from mlflow_exec.evaluation.data import Column, Data, Kind

_FACTOR = np.uint64(0x100000001B3)  # that of FNV, by which the order of columns counts
_MISSING = "\0missing"


def row_hashes(
    data: Data,
    other: Data | None = None,
    rng: np.random.Generator | None = None,
    names: Sequence[str] | None = None,
) -> Values:
    """Return a hash of 64 bits for each row: equal where all values are.

    Args:
        data: The rows.
        other: Another data set with the same columns whose hashes are to be compared: numbers
            in one column that are texts in the other are read as numbers.
        rng: Shuffles each column for itself: rows as they were if columns had nothing to do with
            each other.
        names: The columns, in an order; all where it is None.
    """
    others = {} if other is None else {column.name: column for column in other.columns}
    hashes = np.zeros(len(data), dtype=np.uint64)
    own = {column.name: column for column in data.columns}
    for column in (own[name] for name in names or own):
        there = others.get(column.name)
        hashed = _hashed(_comparable(data, column), as_text=there is not None and (
            _is_number(column) != _is_number(there)))  # fmt: skip
        if rng is not None:
            hashed = rng.permutation(hashed)
        hashes = hashes * _FACTOR + hashed
    return hashes


def n_repeated(hashes: Values) -> int:
    """Return how many rows are equal to an earlier one."""
    return len(hashes) - len(np.unique(hashes))


def _is_number(column: Column) -> bool:
    return column.values.dtype != object


def _comparable(data: Data, column: Column) -> Values:
    """Return values that can be hashed; those of opaque columns are not in `Column.values`."""
    if column.kind is not Kind.OPAQUE:
        return column.values
    return np.array([*map(_text_of, data.frame.iloc[:, column.position]), None], dtype=object)[:-1]


def _text_of(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.shape} {value.tobytes()!r}"
    if isinstance(value, dict):
        return repr(sorted((str(key), _text_of(item)) for key, item in value.items()))
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes)):
        return repr([_text_of(item) for item in value])
    return repr(value)


def _hashed(values: Values, *, as_text: bool) -> Values:
    if values.dtype != object and not as_text:
        plain = np.where(np.isnan(values), np.nan, values + 0.0)  # one NaN, and no -0.0
        return np.asarray(pd.util.hash_array(plain, categorize=False))
    # Each different value once; True and 1 are different categories, but equal to Python.
    codes, found = pd.factorize(np.asarray(values, dtype=object), use_na_sentinel=True)
    write = _number_or_text if as_text else str
    # By bytes, as half a pair of surrogates is no text of UTF-8, but may be in a file.
    raw = (write(value).encode("utf-8", "surrogatepass") for value in found)
    texts = np.array([*(text.decode("latin-1") for text in raw), _MISSING], dtype=object)
    return np.asarray(pd.util.hash_array(texts, categorize=False)[codes])


def _number_or_text(value: object) -> str:
    """Return numbers and their texts as one: 1, 1.0, and "1"."""
    try:
        return repr(float(value))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return str(value)

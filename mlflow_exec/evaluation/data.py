"""The data of a scan: features as columns with kinds, and labels.

Models get rows as they were given; the scan computes on `Column.values`, which are plain arrays.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from mlflow_exec.errors import ScanError
from mlflow_exec.evaluation.arrays import Floats, Integers, Mask, Values
from mlflow_exec.evaluation.outputs import refuse_odd

# Texts are told from categories by what they are like: few different values are categories.
_MAX_CATEGORIES = 100
_MAX_CATEGORY_SHARE = 0.2
MIN_ROWS = 20


class Kind(Enum):
    """What the values of a column are."""

    NUMERIC = "numeric"
    CATEGORY = "category"
    TEXT = "text"
    DATETIME = "datetime"
    CONSTANT = "constant"  # one value, or only missing ones: nothing to tell rows apart by
    OPAQUE = "opaque"  # lists, arrays, bytes: for the model only


@dataclass(frozen=True, eq=False)
class Column:
    """A feature.

    Attributes:
        name: Unique among the columns of the data.
        position: Where it is in the features.
        kind: What its values are.
        values: float64 for numbers and times (seconds since 1970 in UTC, NaN where missing);
            objects for categories and texts (None where missing); empty for opaque ones.
    """

    name: str
    position: int
    kind: Kind
    values: Values

    @cached_property
    def categories(self) -> tuple[Integers, tuple[Any, ...]]:
        """Codes (-1 where missing) and the values they mean, the most frequent one first."""
        codes, values = pd.factorize(self.values, use_na_sentinel=True)
        order = np.argsort(-np.bincount(codes[codes >= 0], minlength=len(values)), kind="stable")
        rank = np.empty(len(values) + 1, dtype=np.int64)
        rank[order] = np.arange(len(values))
        rank[-1] = -1
        return rank[codes], tuple(values[position] for position in order)


class Data:
    """Features and labels of the rows to scan, and perhaps the rows that the model learnt from.

    Attributes:
        columns: The features, in order.
        labels: One per row, as given; None where there are none.
        reference: The second data set, for the checks that compare two; it has the same columns.
    """

    def __init__(
        self,
        features: Any,
        labels: Any = None,
        *,
        feature_names: Sequence[str] | None = None,
        reference: Data | None = None,
    ) -> None:
        """Take a DataFrame, or an array or list of rows; nothing is copied but what is converted.

        Args:
            features: The rows.
            labels: As many, or None.
            feature_names: Of an array's columns.
            reference: Rows that the model learnt from, or of an earlier time.

        Raises:
            ScanError: There are no rows or columns, or numbers do not match.
        """
        self._is_frame = isinstance(features, pd.DataFrame)
        frame = features if self._is_frame else _framed(features, feature_names)
        if not len(frame) or not len(frame.columns):
            raise ScanError(
                f"data: there is nothing to scan; given {len(frame)} rows of {len(frame.columns)} "
                "columns; give at least one feature and some rows"
            )
        self._given_names = frame.columns
        self.frame = frame.set_axis(unique_names(frame.columns), axis=1)
        self.columns = tuple(
            _column(name, position, self.frame[name])
            for position, name in enumerate(self.frame.columns)
        )
        self.labels = None if labels is None else _labels(labels, len(frame))
        self.reference = reference

    def __len__(self) -> int:
        return len(self.frame)

    def column(self, name: str) -> Column:
        """Return the feature of that name.

        Raises:
            ScanError: There is none.
        """
        for column in self.columns:
            if column.name == name:
                return column
        known = ", ".join(c.name for c in self.columns[:20])
        raise ScanError(f"data: there is no column {name!r}. Known: {known}")

    def of_kind(self, *kinds: Kind) -> list[Column]:
        """Return the features of those kinds."""
        return [column for column in self.columns if column.kind in kinds]

    def rows(self, positions: Integers | slice | Mask) -> pd.DataFrame:
        """Return some rows as a frame with unique names, to change; give it to `for_model` then."""
        return self.frame.iloc[positions].copy()

    def for_model(self, rows: pd.DataFrame) -> Any:
        """Return rows of `rows` as the model expects them: as they were given to this class."""
        if not self._is_frame:
            return rows.to_numpy()
        return rows.set_axis(self._given_names, axis=1)


def unique_names(names: Iterable[Any]) -> list[str]:
    """Return the names as texts, repeated ones with their number: ``a``, ``a (2)``."""
    taken: set[str] = set()
    result = []
    for given in names:
        name, count = str(given), 1
        while name in taken:
            count += 1
            name = f"{given} ({count})"
        taken.add(name)
        result.append(name)
    return result


def _labels(given: Any, n_rows: int) -> Values:
    try:
        labels = np.asarray(given)
    except ValueError as error:  # lists of different lengths
        raise ScanError(f"data: one label per row is needed: {error}") from error
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != n_rows:
        shape = "" if labels.ndim == 1 else f", an array of shape {labels.shape},"
        raise ScanError(
            f"data: one label per row is needed; given {labels.size} labels{shape} "
            f"for {n_rows} rows"
        )
    refuse_odd(labels, "data: labels")
    return labels


def _framed(rows: Any, names: Sequence[str] | None) -> pd.DataFrame:
    array = np.asarray(rows)
    if array.ndim != 2:
        raise ScanError(
            f"data: a table is needed, rows of columns; given an array of shape {array.shape}"
        )
    return pd.DataFrame(array, columns=names or [f"feature_{n + 1}" for n in range(array.shape[1])])


def _column(name: str, position: int, series: pd.Series) -> Column:
    kind, values = _typed(series)
    if kind is not Kind.OPAQUE and _is_constant(values):
        kind = Kind.CONSTANT
    return Column(name, position, kind, values)


def _typed(series: pd.Series) -> tuple[Kind, Values]:
    dtype = series.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        return Kind.CATEGORY, _objects(series)
    if pd.api.types.is_bool_dtype(dtype):
        return Kind.CATEGORY, _objects(series)
    if pd.api.types.is_complex_dtype(dtype):
        return Kind.OPAQUE, np.empty(0, dtype=object)
    if pd.api.types.is_numeric_dtype(dtype):
        values = series.to_numpy(dtype=np.float64, na_value=np.nan)
        return Kind.NUMERIC, values
    if pd.api.types.is_datetime64_any_dtype(dtype):
        return Kind.DATETIME, _seconds(series)
    if pd.api.types.is_timedelta64_dtype(dtype):
        return Kind.NUMERIC, series.dt.total_seconds().to_numpy(dtype=np.float64)
    return _of_objects(_objects(series))


def _seconds(series: pd.Series) -> Floats:
    series = pd.to_datetime(series)  # days of Arrow
    if getattr(series.dt, "tz", None) is not None:
        series = series.dt.tz_convert("UTC").dt.tz_localize(None)
    times = series.to_numpy(dtype="datetime64[us]")
    seconds = times.astype(np.int64) / 1e6
    seconds[np.isnat(times)] = np.nan
    return np.asarray(seconds, dtype=np.float64)


def _objects(series: pd.Series) -> Values:
    objects = np.asarray(series.astype(object).to_numpy(), dtype=object).copy()
    objects[series.isna().to_numpy()] = None
    return np.asarray(objects)


def _of_objects(objects: Values) -> tuple[Kind, Values]:
    there = [value for value in objects if value is not None]
    kinds = {type(value) for value in there}
    if kinds <= {int, float} and kinds:
        return Kind.NUMERIC, np.fromiter(map(_float, objects), np.float64, len(objects))
    if not kinds <= {str, bool, int, float}:
        if all(issubclass(kind, (np.generic, str, int, float)) for kind in kinds):
            plain = [v.item() if isinstance(v, np.generic) else v for v in objects]
            return _of_objects(np.array([*plain, None], dtype=object)[:-1])
        return _of_hashable(objects)
    if kinds != {str}:  # numbers and texts: as categories they can at least be told apart
        return Kind.CATEGORY, objects
    n_different = len(set(there))
    few = n_different <= max(min(_MAX_CATEGORIES, _MAX_CATEGORY_SHARE * len(objects)), 2)
    return (Kind.CATEGORY if few else Kind.TEXT), objects


def _float(number: float | None) -> float:
    try:
        return np.nan if number is None else float(number)
    except OverflowError:  # a whole number of more than 308 digits
        return np.inf if number > 0 else -np.inf  # type: ignore[operator]


def _of_hashable(objects: Values) -> tuple[Kind, Values]:
    """Dates, decimals and the like are told apart by their text; lists and arrays are not."""
    if any(isinstance(v, (list, dict, set, tuple, np.ndarray, bytes)) for v in objects):
        return Kind.OPAQUE, np.empty(0, dtype=object)
    texts = [None if v is None else str(v) for v in objects]
    return Kind.CATEGORY, np.array([*texts, None], dtype=object)[:-1]


def _is_constant(values: Values) -> bool:
    if values.dtype == object:
        return len(set(values)) <= 1
    there = values[~np.isnan(values)]
    return not len(there) or (len(there) == len(values) and bool(there.min() == there.max()))

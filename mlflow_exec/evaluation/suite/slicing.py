"""The slices of a suite: those it names, and those by a feature's values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timezone
from itertools import pairwise
from typing import Any

import numpy as np

from mlflow_exec.errors import ScanError
from mlflow_exec.evaluation.arrays import Mask
from mlflow_exec.evaluation.data import Column, Data, Kind
from mlflow_exec.evaluation.search import slice_mask
from mlflow_exec.evaluation.slices import Condition
from mlflow_exec.evaluation.suite.settings import SliceCondition

_MAX_VALUES = 10  # numbers with more different ones are cut into quarters


def named_slice(data: Data, conditions: Sequence[SliceCondition]) -> Mask:
    """Return the rows for which all conditions of a named slice hold."""
    return slice_mask(data, tuple(_condition(data, given) for given in conditions))


def slices_by(data: Data, name: str) -> dict[str, Mask]:
    """Return the slices by a feature: one per value, or quarters of the rows.

    Raises:
        ScanError: The feature has no values to go by.
    """
    column = data.column(name)
    if column.kind not in (Kind.CATEGORY, Kind.NUMERIC, Kind.DATETIME):
        raise ScanError(f"{name!r} is {column.kind.value}, and has no values to go by")
    conditions = _values(column) or _quarters(column)
    return {str(condition): condition.mask(column.values) for condition in conditions}


def _values(column: Column) -> list[Condition]:
    if column.kind is Kind.CATEGORY:
        values: Sequence[Any] = column.categories[1]
    else:
        values = [float(v) for v in np.unique(column.values[~np.isnan(column.values)])]
        if len(values) > _MAX_VALUES:
            return []
    return [Condition(column.name, value=value, kind=column.kind.value) for value in values]


def _quarters(column: Column) -> list[Condition]:
    cuts = [float(cut) for cut in np.unique(np.nanquantile(column.values, [0.25, 0.5, 0.75]))]
    return [
        Condition(column.name, low=low, high=high, kind=column.kind.value)
        for low, high in pairwise([None, *cuts, None])
    ]


def _condition(data: Data, given: SliceCondition) -> Condition:
    column = data.column(given.column)
    is_number = column.values.dtype != object and column.kind is not Kind.OPAQUE
    is_range = given.low is not None or given.high is not None
    if column.kind is Kind.OPAQUE or (is_range and not is_number):
        raise ScanError(f"{given.column!r} is {column.kind.value}: this tells nothing of it")
    kind = "category"
    if is_number:
        kind = "datetime" if column.kind is Kind.DATETIME else "numeric"
    value = _number(given.value) if kind == "datetime" else given.value
    return Condition(given.column, low=_number(given.low), high=_number(given.high), value=value,
                     missing=given.missing, kind=kind)  # fmt: skip


def _number(given: Any) -> float | None:
    """Return a bound as columns have it: times are seconds since 1970 in UTC."""
    if isinstance(given, date) and not isinstance(given, datetime):
        given = datetime(given.year, given.month, given.day)
    if isinstance(given, datetime):
        given = given if given.tzinfo else given.replace(tzinfo=timezone.utc)
        return float(given.timestamp())
    return None if given is None else float(given)

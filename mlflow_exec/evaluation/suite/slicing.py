"""The slices of a suite: those it names, and those by a feature's values."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timezone
from itertools import pairwise
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd

from mlflow_exec.errors import ScanError
from mlflow_exec.evaluation.arrays import Mask
from mlflow_exec.evaluation.data import Column, Data, Kind
from mlflow_exec.evaluation.search import slice_mask
from mlflow_exec.evaluation.slices import Condition
from mlflow_exec.evaluation.suite.settings import SliceCondition

_MAX_VALUES = 10  # numbers with more different ones are cut into quarters


def misfit(data: Data, given: SliceCondition) -> str | None:
    """Return in words why a condition does not fit its feature, whose values are of another type.

    Args:
        data: It has the feature.
        given: A condition of a named slice.
    """
    column = data.column(given.column)
    if column.kind is Kind.OPAQUE:
        return f"{column.name!r} has lists, arrays or bytes: no condition tells anything of it"
    types = _types(data, column)
    bounds = {"low": given.low, "high": given.high, "value": given.value}
    for name, bound in bounds.items() if types else ():
        if bound is None:
            continue
        shown = f"given {name}: {bound!r}" if isinstance(bound, str) else f"given {name}: {bound}"
        if name != "value" and column.values.dtype == object:
            return f"{column.name!r} is no number and no time, so it has no ranges; {shown}"
        if _type(bound) not in types:
            wanted = " or ".join(sorted(types))
            return f"{column.name!r} is compared with {wanted}; {shown}, {_type(bound)}"
    return None


def _types(data: Data, column: Column) -> set[str]:
    """Return in words of which types a column's values are; empty where all of them are missing."""
    if column.values.dtype == object:
        return {_type(value) for value in column.values if value is not None}
    # A constant column does not tell by its kind whether it is a time.
    is_time = pd.api.types.is_datetime64_any_dtype(data.frame[column.name].dtype)
    return {"a date"} if is_time else {"a number"}


def _type(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "true or false"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, Number):
        return "a number"
    return "a date" if isinstance(value, date) else f"a {type(value).__name__}"


def named_slice(data: Data, conditions: Sequence[SliceCondition]) -> Mask:
    """Return the rows for which all conditions of a named slice hold."""
    return slice_mask(data, tuple(_condition(data, given) for given in conditions))


def slices_by(data: Data, name: str) -> dict[str, Mask]:
    """Return the slices by a feature: one per value, or quarters of the rows; and what is missing.

    Raises:
        ScanError: The feature has no values to go by.
    """
    column = data.column(name)
    if column.kind not in (Kind.CATEGORY, Kind.NUMERIC, Kind.DATETIME):
        raise ScanError(f"{name!r} is {column.kind.value}, and has no values to go by")
    conditions = _values(column) or _quarters(column)
    conditions.append(Condition(name, missing=True, kind=column.kind.value))
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
    # Cuts are values themselves: between two infinite ones there is no number.
    at = np.nanquantile(column.values, [0.25, 0.5, 0.75], method="lower")
    cuts = [float(cut) for cut in np.unique(at)]
    return [
        Condition(column.name, low=low, high=high, kind=column.kind.value)
        for low, high in pairwise([None, *cuts, None])
    ]


def _condition(data: Data, given: SliceCondition) -> Condition:
    column = data.column(given.column)
    kind = "category"
    if column.values.dtype != object:
        kind = "datetime" if "a date" in _types(data, column) else "numeric"
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

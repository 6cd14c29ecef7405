"""Plots that findings have in common, as data."""

from __future__ import annotations

import numpy as np

from mlflow_exec.evaluation.arrays import Floats, Integers
from mlflow_exec.evaluation.axes import binned, cuts
from mlflow_exec.evaluation.data import Data, Kind
from mlflow_exec.evaluation.findings import MISSING, Plot
from mlflow_exec.evaluation.properties import numbers_of, property_title
from mlflow_exec.evaluation.slices import Condition, Slice

_BARS = 12


def slice_plot(data: Data, slice_: Slice, figures: Floats, y_title: str) -> Plot | None:
    """Return bars of the mean of a figure over the column of a slice's first condition.

    Of a slice of several conditions they are of the rows where the other ones hold.

    Args:
        data: The scanned data.
        slice_: Its bars are highlighted.
        figures: One per row; rows with NaN are left out.
        y_title: What the figure is, with its unit.
    """
    condition = slice_.conditions[0]
    groups, labels, inside = _groups(data, condition)
    known = ~np.isnan(figures)
    rows, others = known & (groups >= 0), slice_.conditions[1:]
    for other in others:
        rows &= other.mask(data.column(other.column).values)
    if not rows.any() or len(labels) < 2:
        return None
    counts = np.bincount(groups[rows], minlength=len(labels))
    sums = np.bincount(groups[rows], figures[rows], len(labels))
    means = np.divide(sums, counts, out=np.full(len(labels), np.nan), where=counts > 0)
    drawn = [n for n in range(len(labels)) if counts[n] or inside[n]]
    name = property_title(condition.column, condition.property_name, condition.value)
    if others:
        name += f", where {' and '.join(map(str, others))}"
    return Plot(
        "bars", name, y_title, tuple(labels[n] for n in drawn),
        {y_title: tuple(float(means[n]) for n in drawn)},
        highlighted=tuple(at for at, n in enumerate(drawn) if inside[n]),
        reference=float(figures[known].mean()),
    )  # fmt: skip


def _groups(data: Data, condition: Condition) -> tuple[Integers, list[str], list[bool]]:
    """Return the group of each row (-1: none), the groups' names, and which are in the slice."""
    column = data.column(condition.column)
    if column.kind in (Kind.CATEGORY, Kind.TEXT) and not condition.property_name:
        codes, values = column.categories
        kept = values[: _BARS - 1]
        groups = np.where(codes < 0, len(kept), np.where(codes < len(kept), codes, -1))
        labels = [*(str(value) for value in kept), MISSING]
        inside = [value == condition.value and not condition.missing for value in kept]
        return groups, labels, [*inside, condition.missing]
    if condition.missing or (condition.property_name and condition.low is condition.high is None):
        held = condition.mask(column.values)
        return held.astype(np.int64), ["no", "yes"], [False, True]
    numbers = column.values
    if condition.property_name:
        numbers = numbers_of(numbers, condition.property_name, condition.value)
    bounds = [bound for bound in (condition.low, condition.high) if bound is not None]
    edges = np.union1d(cuts(numbers, _BARS - len(bounds)), bounds)
    lows, highs = [None, *map(float, edges)], [*map(float, edges), None]
    parts = [Condition("", low=low, high=high, kind=condition.kind)
             for low, high in zip(lows, highs, strict=True)]  # fmt: skip
    return binned(numbers, edges), [part.interval() for part in parts], [
        _within(part, condition) for part in parts]  # fmt: skip


def _within(part: Condition, whole: Condition) -> bool:
    low_ok = whole.low is None or (part.low is not None and part.low >= whole.low)
    return low_ok and (whole.high is None or (part.high is not None and part.high <= whole.high))


def percent(share: float) -> str:
    """Return a share for people: ``7.5 %``."""
    return f"{100 * share:.1f} %"

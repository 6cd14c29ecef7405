"""Rates of groups by fairlearn's metrics, with intervals that hold for the most different pair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mlflow_exec.evaluation.arrays import Integers, Mask
from mlflow_exec.evaluation.axes import binned, cuts
from mlflow_exec.evaluation.data import Column, Kind
from mlflow_exec.evaluation.findings import MISSING, Plot
from mlflow_exec.evaluation.statistics import difference_of_shares, proportions

_MAX_GROUPS = 20
_QUARTERS = 4
_FEW_NUMBERS = 10


@dataclass(frozen=True, eq=False)
class Rates:
    """A rate of each group, and its largest difference.

    Attributes:
        metric: ``demographic_parity_difference`` or ``equalized_odds_difference``.
        title: For people, with a place for the class.
        y_title: What the rate is.
        difference: By fairlearn: the highest rate less the lowest.
        interval: Of the difference, corrected for the choice of the pair.
        p_value: That the pair's rates are equal, corrected likewise.
        by_labels: The same difference of the labels; None for rates that are given the label.
        groups: Positions of the groups that have rows for this rate.
        names: Theirs.
        rates: Theirs.
        first: The place of the group with the highest rate.
        last: That of the group with the lowest.
    """

    metric: str
    title: str
    y_title: str
    difference: float
    interval: tuple[float, float]
    p_value: float
    by_labels: float | None
    groups: tuple[int, ...]
    names: tuple[str, ...]
    rates: tuple[float, ...]
    first: int
    last: int

    @property
    def highest(self) -> float:
        """The highest rate."""
        return self.rates[self.first]

    @property
    def lowest(self) -> float:
        """The lowest rate."""
        return self.rates[self.last]

    def plot(self, feature: str, label: str) -> Plot:
        """Return bars of the rates; the label is that of the class."""
        title = f"{self.y_title.format(label=label)} in %"
        bars = {title: tuple(100 * rate for rate in self.rates)}
        return Plot("bars", feature, title, self.names, bars, highlighted=(self.first, self.last))


def groups_of(column: Column, min_rows: int) -> tuple[Integers, tuple[str, ...]]:
    """Return the group of each row, -1 where it is left out, and the groups' names.

    Numbers with many values are cut into quarters; missing values are a group. There are none of a
    column whose values cannot be told apart.
    """
    numeric = column.kind in (Kind.NUMERIC, Kind.DATETIME)
    if column.kind is Kind.OPAQUE:
        return np.empty(0, dtype=np.int64), ()
    codes, values = column.categories
    if numeric and len(values) > _FEW_NUMBERS:
        edges = cuts(column.values, _QUARTERS)
        codes = binned(column.values, edges)
        texts = [f"{edge:g}" for edge in edges]
        names = [f"< {texts[0]}", *(f">= {text}" for text in texts)] if texts else ["all"]
    else:
        names = [f"{value:g}" if numeric else str(value) for value in values]
    codes = np.where(codes < 0, len(names), codes)
    names.append(MISSING)
    counts = np.bincount(codes, minlength=len(names))
    frequent = np.argsort(-counts, kind="stable")[:_MAX_GROUPS]
    kept = np.sort(frequent[counts[frequent] >= min_rows])
    place = np.full(len(names), -1, dtype=np.int64)
    place[kept] = np.arange(len(kept))
    return place[codes], tuple(names[position] for position in kept)


def rates_of(
    said: Mask, labels: Mask | None, groups: Integers, names: tuple[str, ...], alpha: float
) -> list[Rates]:
    """Return the rates of one class by groups.

    Args:
        said: Whether the class is predicted.
        labels: Whether it is right; None where that is not known.
        groups: Of `groups_of`.
        names: Theirs.
        alpha: Of the intervals.
    """
    from fairlearn.metrics import false_positive_rate, selection_rate, true_positive_rate

    found = []
    by_labels = None if labels is None else _frame(selection_rate, labels, labels, groups)
    told = None if by_labels is None or len(by_labels) < 2 else float(np.ptp(by_labels))
    every = np.ones(len(said), dtype=np.bool_)
    parity = _rates(
        "demographic_parity_difference", "{label} is predicted", "rows predicted as {label}",
        selection_rate, said, said if labels is None else labels, groups, names, every, alpha, told,
    )  # fmt: skip
    found += parity
    if labels is None:
        return found
    # Equalized odds: the larger of both differences, each at half the level.
    odds = [
        rates for title, metric, rows in (
            ("{label} is found where it is right", true_positive_rate, labels),
            ("{label} is predicted wrongly", false_positive_rate, ~labels),
        ) for rates in _rates(
            "equalized_odds_difference", title, "rows predicted as {label}", metric, said, labels,
            groups, names, rows, alpha / 2, None)
    ]  # fmt: skip
    if odds:
        found.append(max(odds, key=lambda rates: rates.difference))
    return found


def _rates(
    metric: str, title: str, y_title: str, of: Callable[..., Any], said: Mask, labels: Mask,
    groups: Integers, names: tuple[str, ...], rows: Mask, alpha: float, told: float | None,
) -> list[Rates]:  # fmt: skip
    inside = rows & (groups >= 0)
    counts = np.bincount(groups[inside], minlength=len(names))
    used = np.flatnonzero(counts >= 2)
    if len(used) < 2:
        return []
    taken = np.isin(groups, used)
    shares = _frame(of, said[taken], labels[taken], groups[taken])
    first, last = int(np.argmax(shares)), int(np.argmin(shares))
    hits = np.bincount(groups[inside & said], minlength=len(names))[used]
    n = counts[used]
    pairs = len(used) * (len(used) - 1) / 2
    chosen = (int(hits[first]), int(n[first]), int(hits[last]), int(n[last]))
    return [Rates(
        metric, title, y_title, float(shares[first] - shares[last]),
        difference_of_shares(*chosen, alpha / pairs),
        # Either could be the higher one.
        min(2 * pairs * proportions(*chosen), 1.0), told,
        tuple(map(int, used)), tuple(names[g] for g in used), tuple(map(float, shares)),
        first, last,
    )]  # fmt: skip


def _frame(of: Callable[..., Any], said: Mask, labels: Mask, groups: Integers) -> Any:
    """Return a metric of fairlearn by group, in the order of the groups' positions."""
    from fairlearn.metrics import MetricFrame

    rows = groups >= 0
    # Equal rows once, with their number as weight: a frame takes a second for 100,000 rows.
    cells = np.bincount(groups[rows] * 4 + labels[rows] * 2 + said[rows])
    there = np.flatnonzero(cells)
    frame = MetricFrame(
        metrics=of, y_true=there // 2 % 2, y_pred=there % 2, sensitive_features=there // 4,
        sample_params={"sample_weight": cells[there]},
    )  # fmt: skip
    return frame.by_group.to_numpy(dtype=np.float64)

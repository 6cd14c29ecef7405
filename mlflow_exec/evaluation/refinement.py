"""Finer bounds for a slice that was found on bins."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlflow_exec.evaluation.arrays import Floats, Integers, Mask
from mlflow_exec.evaluation.axes import Axis, binned, cuts
from mlflow_exec.evaluation.intervals import Best, Limits, intervals
from mlflow_exec.evaluation.scores import Scorer
from mlflow_exec.evaluation.slices import Condition

_BINS = 200
_ROUNDS = 4


@dataclass(frozen=True)
class Refined:
    """A slice with fine bounds.

    Attributes:
        best: What it was made of.
        conditions: One per axis.
        score: Never below that of `best`.
    """

    best: Best
    conditions: tuple[Condition, ...]
    score: float


def refined(
    best: Best, axes: list[Axis], taken: Integers, limits: Limits, scorer: Scorer
) -> Refined:
    """Return the slice with the bounds among 200 quantiles that score best.

    One axis after the other, while the other conditions hold, until nothing is won. The p-value is
    that of the coarse slice, so that a choice among so many bounds costs nothing of it.
    """
    conditions = [axes[axis].condition(first, end) for axis, first, end in best.bins]
    held = [
        _holds(condition, axes[axis], first, end, taken)
        for condition, (axis, first, end) in zip(conditions, best.bins, strict=True)
    ]
    ordered = [n for n, (axis, _, _) in enumerate(best.bins) if axes[axis].is_ordered]
    score = best.score
    for _ in range(_ROUNDS if len(best.bins) > 1 else 1):
        before = score
        for number in ordered:
            axis, first, end = best.bins[number]
            others = np.ones(len(taken), dtype=np.bool_)
            for other, mask in enumerate(held):
                if other != number:
                    others &= mask
            better = _bounds(axes[axis], taken, others, limits, scorer)
            if better is not None and better[1] > score:
                conditions[number], score = better
                held[number] = _holds(conditions[number], axes[axis], first, end, taken)
        if score <= before:
            break
    return Refined(best, tuple(conditions), score)


def _holds(
    condition: Condition, axis: Axis, first: int, end: int, taken: Integers
) -> Mask:
    if not axis.is_ordered:
        codes = axis.codes[taken]
        return np.asarray((codes >= first) & (codes < end))
    numbers = axis.numbers[taken]
    held = ~np.isnan(numbers)
    if condition.low is not None:
        held &= numbers >= condition.low
    if condition.high is not None:
        held &= numbers < condition.high
    return held


def _bounds(
    axis: Axis, taken: Integers, others: Mask, limits: Limits, scorer: Scorer
) -> tuple[Condition, float] | None:
    numbers = axis.numbers[taken]
    edges = cuts(numbers[others], _BINS)
    if not len(edges):
        return None
    n_bins = len(edges) + 1
    codes = np.where(others, binned(numbers, edges), -1)
    codes[codes < 0] = n_bins
    firsts, ends = intervals(n_bins)
    counts, sums = (_sums(codes, losses, n_bins, firsts, ends) for losses in (None, scorer.losses))
    valid = np.flatnonzero(limits.hold(counts))
    if not len(valid):
        return None
    counts = counts[valid]
    scores = scorer.scores(sums[valid], counts, scorer.prepared(counts))
    chosen = valid[int(scores.argmax())]
    first, end = int(firsts[chosen]), int(ends[chosen])
    if first == 0 and end == n_bins:
        return None
    low = float(edges[first - 1]) if first else None
    condition = axis.range(low, float(edges[end - 1]) if end < n_bins else None)
    return condition, float(scores.max())


def _sums(
    codes: Integers, losses: Floats | None, n_bins: int, firsts: Integers, ends: Integers
) -> Floats:
    running = np.concatenate([[0.0], np.cumsum(np.bincount(codes, losses, n_bins + 1)[:n_bins])])
    return np.asarray(running[ends] - running[firsts], dtype=np.float64)

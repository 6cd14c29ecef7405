"""Scores of all intervals of an axis' bins, and of all rectangles of two axes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from mlflow_exec.evaluation.arrays import Floats, Integers, Mask, Values
from mlflow_exec.evaluation.axes import BINS, Axis
from mlflow_exec.evaluation.scores import Scorer

BINS_OF_PAIRS = 12
AXES_OF_PAIRS = 15


@dataclass(frozen=True)
class Limits:
    """How many rows a slice may have."""

    least: int
    most: int

    def hold(self, counts: Values) -> Mask:
        """Return which numbers of rows are within them."""
        return np.asarray((counts >= self.least) & (counts <= self.most))


@dataclass(frozen=True)
class Best:
    """A slice as bins: for each of its axes the axis' position, the first bin, and the end."""

    score: float
    bins: tuple[tuple[int, int, int], ...]


def intervals(n_bins: int) -> tuple[Integers, Integers]:
    """Return the first bins and the ends of all intervals."""
    first, end = np.triu_indices(n_bins)
    return first.astype(np.int64), end.astype(np.int64) + 1


def _allowed(axis: Axis, n_bins: int, firsts: Integers, ends: Integers) -> Mask:
    """Return which intervals are slices: neighbours of an ordered axis, but not all of it."""
    if axis.is_ordered:
        return np.asarray((ends <= n_bins) & (ends - firsts < n_bins))
    return np.asarray((ends <= n_bins) & (ends == firsts + 1))


class Singles:
    """All slices on one axis each, among some rows."""

    def __init__(self, axes: list[Axis], taken: Integers, limits: Limits, scorer: Scorer) -> None:
        self._scorer = scorer
        # Rows in no bin are counted in one behind the last.
        self._codes = [np.where(axis.codes < 0, BINS, axis.codes)[taken] for axis in axes]
        self._firsts, self._ends = intervals(BINS)
        allowed = np.array([_allowed(a, a.n_bins, self._firsts, self._ends) for a in axes])
        counts = self._sums(None)
        self._shape = counts.shape
        self._valid = np.flatnonzero(allowed & limits.hold(counts))
        self._counts = counts.ravel()[self._valid]
        self._prepared = scorer.prepared(self._counts)

    def scores(self, losses: Floats) -> Floats:
        """Return the score of each interval (axes x intervals); -inf where it is no slice."""
        sums = self._sums(losses).ravel()[self._valid]
        scores = np.full(self._shape, -np.inf)
        scores.ravel()[self._valid] = self._scorer.scores(sums, self._counts, self._prepared)
        return scores

    def best(self, scores: Floats) -> Best | None:
        """Return the slice with the best of these scores."""
        axis, interval = np.unravel_index(int(scores.argmax()), self._shape)
        score = float(scores[axis, interval])
        if not score > 0:
            return None
        first, end = int(self._firsts[interval]), int(self._ends[interval])
        return Best(score, ((int(axis), first, end),))

    def _sums(self, losses: Floats | None) -> Floats:
        totals = np.array([np.bincount(codes, losses, BINS + 1)[:BINS] for codes in self._codes])
        running = np.zeros((len(totals), BINS + 1))
        np.cumsum(totals, axis=1, out=running[:, 1:])
        return np.asarray(running[:, self._ends] - running[:, self._firsts])


@dataclass(frozen=True, eq=False)
class _Coarse:
    """An axis in fewer bins: where each begins among the fine ones, and the bin of each row."""

    starts: Integers
    codes: Integers
    allowed: Mask


class Pairs:
    """All slices on two axes of the most promising ones, among some rows."""

    def __init__(self, axes: list[Axis], taken: Integers, limits: Limits, scorer: Scorer) -> None:
        self._axes, self._taken, self._limits, self._scorer = axes, taken, limits, scorer
        self._firsts, self._ends = intervals(BINS_OF_PAIRS)
        bins = np.arange(BINS_OF_PAIRS)
        inside = (bins >= self._firsts[:, None]) & (bins < self._ends[:, None])
        self._indicator = inside.astype(np.float32)
        self._coarse: dict[int, _Coarse] = {}
        self._prepared: dict[tuple[int, int], tuple[Integers, Values, Values]] = {}

    def best(self, losses: Floats, singles: Floats, most: int = 1) -> list[Best]:
        """Return the best rectangles, one per pair of the axes with the best single slices."""
        order = np.argsort(-singles.max(axis=1), kind="stable")[:AXES_OF_PAIRS]
        found: list[tuple[float, tuple[int, int], int]] = []
        for pair in combinations(sorted(map(int, order)), 2):
            if self._axes[pair[0]].column == self._axes[pair[1]].column:
                continue
            valid, counts, prepared = self._of(pair)
            if not len(valid):
                continue
            sums = self._sums(pair, losses).ravel()[valid]
            scores = self._scorer.scores(sums, counts, prepared)
            at = int(scores.argmax())
            found.append((float(scores[at]), pair, int(valid[at])))
        found.sort(key=lambda one: -one[0])
        return [
            Best(score, self._bins(pair, rectangle))
            for score, pair, rectangle in found[:most]
            if score > 0
        ]

    def _of(self, pair: tuple[int, int]) -> tuple[Integers, Values, Values]:
        if pair not in self._prepared:
            one, other = (self._of_axis(position) for position in pair)
            counts = self._sums(pair, None)
            allowed = one.allowed[:, None] & other.allowed[None, :]
            valid = np.flatnonzero(allowed & self._limits.hold(counts))
            kept = counts.ravel()[valid]
            self._prepared[pair] = (valid, kept, self._scorer.prepared(kept))
        return self._prepared[pair]

    def _of_axis(self, position: int) -> _Coarse:
        if position not in self._coarse:
            axis = self._axes[position]
            codes = np.where(axis.codes < 0, BINS, axis.codes)[self._taken]
            n_bins = min(axis.n_bins, BINS_OF_PAIRS)
            if axis.is_ordered and axis.n_bins > BINS_OF_PAIRS:
                counts = np.bincount(codes, minlength=BINS + 1)[: axis.n_bins]
                before = np.concatenate([[0], np.cumsum(counts)[:-1]])
                group = before * BINS_OF_PAIRS // max(int(counts.sum()), 1)
                starts = np.unique(group, return_index=True)[1].astype(np.int64)
                n_bins = len(starts)
            else:
                starts = np.arange(n_bins, dtype=np.int64)
            coarse = np.searchsorted(starts, codes, side="right") - 1
            if not axis.is_ordered:
                coarse = np.where(codes >= n_bins, BINS_OF_PAIRS, coarse)
            coarse = np.where(codes == BINS, BINS_OF_PAIRS, coarse)
            allowed = _allowed(axis, n_bins, self._firsts, self._ends)
            self._coarse[position] = _Coarse(starts, coarse, allowed)
        return self._coarse[position]

    def _sums(self, pair: tuple[int, int], losses: Floats | None) -> Floats:
        one, other = (self._of_axis(position) for position in pair)
        width = BINS_OF_PAIRS + 1
        cells = np.bincount(one.codes * width + other.codes, losses, width * width)
        table = cells.reshape(width, width)[:-1, :-1].astype(np.float32)
        return np.asarray(self._indicator @ table @ self._indicator.T, dtype=np.float64)

    def _bins(self, pair: tuple[int, int], rectangle: int) -> tuple[tuple[int, int, int], ...]:
        chosen = divmod(rectangle, len(self._firsts))
        bins = []
        for position, interval in zip(pair, chosen, strict=True):
            starts = self._of_axis(position).starts
            first, end = int(self._firsts[interval]), int(self._ends[interval])
            behind = self._axes[position].n_bins if end >= len(starts) else int(starts[end])
            if not self._axes[position].is_ordered:
                behind = end
            bins.append((position, int(starts[first]), behind))
        return tuple(bins)

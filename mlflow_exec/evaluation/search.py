"""The search for slices whose rows have higher losses than the others.

All intervals of bins of all axes are looked at, and all rectangles of two axes: a tree on the loss
would take the best cut first, and misses a slice in the middle of a range. A search over thousands
of slices finds high losses in any data by chance, so the best score is compared with the best ones
of the same search over shuffled losses (Kulldorff 1997), whose distribution is that of extreme
values (Gumbel; Abrams, Kulldorff and Kleinman, 2010). The p-value is that of the whole search: it
needs no other correction, and no rows are lost to a split into halves.

When a slice is found its rows are left out, with the bins next to them, and the search goes on: so
the same fault is not told again in other words, nor are rows beyond a bound that is a little off.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import erfc

import numpy as np

from mlflow_exec.evaluation.arrays import Floats, Integers, Mask
from mlflow_exec.evaluation.axes import Axis, axes_of
from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.intervals import Best, Limits, Pairs, Singles
from mlflow_exec.evaluation.refinement import Refined, refined
from mlflow_exec.evaluation.sampling import at_most
from mlflow_exec.evaluation.scores import MeanScorer, Scorer, scorer_of
from mlflow_exec.evaluation.slices import Condition, Slice

SHUFFLES = 60
MAX_ROWS = 20_000
_FINER = 0.8  # of the least size: bounds between bins can make a slice a little smaller
_CHOICES = 78  # intervals of the twelve bins of a second axis
_REFINED = 20  # pairs of axes: bounds of wide bins hide slices that lie across them
_LEAST_SCALE = 0.5


@dataclass(frozen=True)
class SliceSize:
    """How large a slice has to be: Giskard 2.19 has the same limits.

    Attributes:
        min_share: Of the rows.
        min_rows: The least, in few rows.
        max_share: Of the rows; what holds for nearly all is no slice.
    """

    min_share: float = 0.05
    min_rows: int = 20
    max_share: float = 0.95

    def limits(self, n_rows: int) -> Limits:
        """Return the limits among so many rows."""
        least = max(int(np.ceil(self.min_share * n_rows)), self.min_rows)
        return Limits(least, int(self.max_share * n_rows))


@dataclass(frozen=True, eq=False)
class Found:
    """A slice with higher losses than chance explains.

    Attributes:
        slice: Over all rows of the data.
        score: Of the search (see `scores`).
        p_value: Of the whole search: how often the best slice of shuffled losses scores as high.
        level: That of an interval for this slice alone which holds, at alpha, for whichever slice
            the search had taken: what was chosen for its high losses has lower ones, in truth.
    """

    slice: Slice
    score: float
    p_value: float
    level: float


class SliceSearch:
    """Searches the slices of one data set; the axes are made once."""

    def __init__(
        self, data: Data, size: SliceSize | None = None, tick: Callable[[], None] = lambda: None
    ) -> None:
        self.data = data
        self.size = size or SliceSize()
        self.axes = axes_of(data, self.size.min_rows, tick)

    def worst(
        self,
        losses: Floats,
        rng: np.random.Generator,
        *,
        rows: Mask | None = None,
        alpha: float = 0.05,
        pairs: bool = True,
        most: int = 10,
        scattered: bool = False,
        tick: Callable[[], None] = lambda: None,
    ) -> list[Found]:
        """Return the slices with significantly higher losses, in the order they were found.

        Args:
            losses: One per row of the data; higher is worse.
            rng: For the shuffles, and for the choice of `MAX_ROWS` rows where there are more.
            rows: Only these take part, such as those that the model gets wrong; the limits of
                size are for their number.
            alpha: The level of p-values up to which slices are returned.
            pairs: Whether to search on two axes together, too.
            most: How many are returned at most.
            scattered: Whether losses, with a mean of about zero, scatter more in some places than
                in others: then chance is a wild bootstrap (Mammen, 1993) in place of shuffles.
            tick: Called now and then; what it raises ends the search.
        """
        taken = np.arange(len(losses)) if rows is None else np.flatnonzero(rows)
        taken = at_most(taken, MAX_ROWS, rng)
        limits = self.size.limits(len(taken))
        pairs = pairs and len(self.axes) > 1
        found: list[Found] = []
        chance: _Chance | None = None
        while len(found) < most and self.axes and _has_slices(losses[taken], limits):
            tick()
            scorer = (MeanScorer if scattered else scorer_of)(losses[taken])
            chance = chance or _chance(
                self.axes, taken, limits, scorer, pairs, scattered, rng, tick
            )
            one, p_value = self._best(taken, limits, scorer, chance, alpha)
            if one is None or p_value > alpha:
                break
            slice_ = Slice(one.conditions, slice_mask(self.data, one.conditions))
            gumbel = chance.pair if chance.pair and len(one.conditions) > 1 else chance.single
            level = _level(gumbel, alpha / (1 if chance.pair is None else 2))
            found.append(Found(slice_, one.score, p_value, level))
            taken = taken[~_near(slice_, one.best, self.axes, taken)]
        return found

    def _best(
        self, taken: Integers, limits: Limits, scorer: Scorer, chance: _Chance, alpha: float
    ) -> tuple[Refined | None, float]:
        """Return the best slice among some rows, and the p-value of the search."""
        least = max(int(_FINER * limits.least), self.size.min_rows)
        finer = Limits(least, limits.most)

        def refine(best: Best) -> Refined:
            return refined(best, self.axes, taken, finer, scorer)

        singles = Singles(self.axes, taken, limits, scorer)
        scores = singles.scores(scorer.losses)
        best = singles.best(scores)
        p_single, p_pair = _p_value(best, chance.single), 1.0
        pairs: list[Best] = []
        if chance.pair is not None:
            pairs = Pairs(self.axes, taken, limits, scorer).best(scorer.losses, scores, _REFINED)
            # Two searches, so each has half of the level.
            p_single = min(2 * p_single, 1.0)
            p_pair = min(2 * _p_value(pairs[0] if pairs else None, chance.pair), 1.0)
        p_value = min(p_single, p_pair)
        if p_value > alpha or best is None:
            return None, 1.0
        single = refine(best)
        if p_pair > alpha:
            return single, p_single
        pair = max((refine(one) for one in pairs), key=lambda one: one.score)
        if p_single > alpha:
            return pair, p_pair
        # Both are there: the second condition has to win as much as the best of so many would by
        # chance, which is the logarithm of their number (doubled, as scores are).
        wins = pair.score - single.score > 2 * np.log(len(self.axes) * _CHOICES)
        return (pair, p_pair) if wins else (single, p_single)


def slice_mask(data: Data, conditions: tuple[Condition, ...]) -> Mask:
    """Return for which rows of a data set all conditions hold."""
    mask = np.ones(len(data), dtype=np.bool_)
    for condition in conditions:
        mask &= condition.mask(data.column(condition.column).values)
    return mask


def _near(slice_: Slice, best: Best, axes: list[Axis], taken: Integers) -> Mask:
    """Return which rows are in the bins of a slice, or next to them."""
    inside = slice_.mask[taken]
    near = np.ones(len(taken), dtype=np.bool_)
    for position, _, _ in best.bins:
        codes, margin = axes[position].codes[taken], int(axes[position].is_ordered)
        near &= (codes >= codes[inside].min() - margin) & (codes <= codes[inside].max() + margin)
        near &= codes >= 0
    return near | inside


def _has_slices(losses: Floats, limits: Limits) -> bool:
    return len(losses) >= 2 * limits.least and float(np.ptp(losses)) > 0


@dataclass(frozen=True)
class _Chance:
    """The distribution of the best scores where losses have nothing to do with the axes.

    Attributes:
        single: Place and scale of Gumbel's distribution, for slices on one axis.
        pair: The same for slices on two; None where they are not searched.
    """

    single: tuple[float, float]
    pair: tuple[float, float] | None


def _chance(
    axes: list[Axis], taken: Integers, limits: Limits, scorer: Scorer, with_pairs: bool,
    scattered: bool, rng: np.random.Generator, tick: Callable[[], None],
) -> _Chance:  # fmt: skip
    """Search over shuffled losses."""
    singles = Singles(axes, taken, limits, scorer)
    pairs = Pairs(axes, taken, limits, scorer)
    highest: list[float] = []
    of_pairs: list[float] = []
    for _ in range(SHUFFLES):
        tick()
        shuffled = _resigned(scorer.losses, rng) if scattered else rng.permutation(scorer.losses)
        scores = singles.scores(shuffled)
        best = singles.best(scores)
        highest.append(best.score if best else 0.0)
        if with_pairs:
            of_pairs += [one.score for one in pairs.best(shuffled, scores)] or [0.0]
    return _Chance(_gumbel(highest), _gumbel(of_pairs) if with_pairs else None)


def _resigned(losses: Floats, rng: np.random.Generator) -> Floats:
    """Return losses where they are, times numbers with a mean of 0 and moments 2 and 3 of 1."""
    golden = (1 + np.sqrt(5)) / 2
    factors = np.where(rng.random(len(losses)) < golden / np.sqrt(5), 1 - golden, golden)
    drawn = (losses - losses.mean()) * factors
    return np.asarray(drawn - drawn.mean() + losses.mean(), dtype=np.float64)


def _gumbel(scores: list[float]) -> tuple[float, float]:
    """Return place and scale of the distribution of the highest scores, by their moments."""
    halved = np.array(scores) / 2
    scale = max(float(halved.std(ddof=1)) * np.sqrt(6) / np.pi, _LEAST_SCALE)
    return float(halved.mean()) - float(np.euler_gamma) * scale, scale


def _p_value(best: Best | None, gumbel: tuple[float, float]) -> float:
    if best is None:
        return 1.0
    place, scale = gumbel
    return float(-np.expm1(-np.exp(-(best.score / 2 - place) / scale)))


def _level(gumbel: tuple[float, float], alpha: float) -> float:
    """Return the two-sided level, for one slice, of the score that a search exceeds with alpha."""
    place, scale = gumbel
    score = 2 * (place - scale * np.log(-np.log1p(-alpha)))
    return float(erfc(np.sqrt(max(score, 0.0) / 2)))

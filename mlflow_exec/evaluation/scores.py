"""How far the mean of a slice is above that of the rest: scores of many slices at once.

A score is twice the logarithm of a likelihood ratio, which is the square of a z value, with the
sign of the difference. For losses that are 0 or 1 it is that of two binomials (as in Kulldorff, "A
spatial scan statistic", 1997): unlike a z value it is not blown up by small slices with rare
errors. For other losses it is the square of the z value of sampling without replacement.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from mlflow_exec.evaluation.arrays import Floats, Values

# What is further out counts as this quantile, so that one row does not make a slice.
_WINSORIZED = 0.995


class Scorer(Protocol):
    """Scores slices by their sum of losses."""

    losses: Floats

    def prepared(self, counts: Values) -> Values:
        """Return what of the scores depends on the slices' numbers of rows only."""
        ...

    def scores(self, sums: Values, counts: Values, prepared: Values) -> Floats:
        """Return the scores of slices with these sums of losses and numbers of rows."""
        ...


def scorer_of(losses: Floats) -> Scorer:
    """Return what fits the losses."""
    if ((losses == 0) | (losses == 1)).all():
        return BinaryScorer(losses)
    return MeanScorer(losses)


class BinaryScorer:
    """For losses that are 0 or 1."""

    def __init__(self, losses: Floats) -> None:
        self.losses = losses
        self._n, self._total = len(losses), round(float(losses.sum()))
        numbers = np.arange(self._n + 1, dtype=np.float64)
        numbers[1:] *= np.log(numbers[1:])
        self._table = numbers
        self._constant = (
            self._table[self._total]
            + self._table[self._n - self._total]
            - self._table[self._n]
        )

    def prepared(self, counts: Values) -> Values:
        """See `Scorer`."""
        inside = counts.astype(np.intp)
        found = self._table[inside] + self._table[self._n - inside] + self._constant
        return np.asarray(found)

    def scores(self, sums: Values, counts: Values, prepared: Values) -> Floats:
        """See `Scorer`."""
        table, wrong, inside = self._table, sums.astype(np.intp), counts.astype(np.intp)
        left = self._total - wrong
        doubled = 2 * (
            table[wrong] + table[inside - wrong] + table[left]
            + table[self._n - inside - left] - prepared
        )  # fmt: skip
        higher = wrong * self._n > inside * self._total
        return np.asarray(np.where(higher, doubled, -doubled), dtype=np.float64)


class MeanScorer:
    """For any losses; far ones are drawn in."""

    def __init__(self, losses: Floats) -> None:
        low, high = np.quantile(losses, [1 - _WINSORIZED, _WINSORIZED])
        self.losses = np.clip(losses, low, high)
        self._n, self._mean = len(losses), float(self.losses.mean())
        self._variance = float(self.losses.var()) * self._n / max(self._n - 1, 1)

    def prepared(self, counts: Values) -> Values:
        """See `Scorer`."""
        variance = self._variance * counts * (self._n - counts) / self._n
        inverse = np.divide(1.0, variance, out=np.zeros_like(variance), where=variance > 0)
        return np.asarray(np.sqrt(inverse))

    def scores(self, sums: Values, counts: Values, prepared: Values) -> Floats:
        """See `Scorer`."""
        z = (sums - counts * self._mean) * prepared
        return np.asarray(z * np.abs(z), dtype=np.float64)

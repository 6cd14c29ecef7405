"""How far two distributions are apart: a test that they differ, and figures of how much it matters.

With many rows any two data sets differ, so the p-value says little; the figure is the population
stability index (PSI; Siddiqi, Credit Risk Scorecards, 2006): the sum over ten bins of
(q - p) ln(q / p).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from mlflow_exec.evaluation.arrays import Floats, Integers, Values
from mlflow_exec.evaluation.findings import MISSING
from mlflow_exec.evaluation.statistics import cramers_v, independence

_BINS = 10
_QUANTILES = 1_000
_PARTS = np.arange(1, _BINS) / _BINS
_CATEGORIES = 20  # or values; other categories are counted together
_DRAWS = 400
_OTHERS = "(others)"


@dataclass(frozen=True, eq=False)
class Change:
    """What became of a quantity between two data sets.

    Attributes:
        psi: Population stability index, less what two samples of this size have by chance.
        interval: Of the index.
        p_value: That both are of one distribution: Kolmogorov and Smirnov for numbers, G test for
            categories.
        labels: Of the bins or categories.
        before: Shares of the bins in the reference.
        after: Those in the data.
        sizes: More figures by stable names: `ks` (the largest difference of the distribution
            functions) and `wasserstein` (in standard deviations of the reference) of numbers,
            `cramers_v` of categories.
    """

    psi: float
    interval: tuple[float, float]
    p_value: float
    labels: tuple[str, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    sizes: dict[str, float] = field(default_factory=dict)


def change_of_numbers(
    before: Floats, after: Floats, rng: np.random.Generator, alpha: float,
    text: Callable[[float], str] = lambda number: f"{number:.4g}",
) -> Change:  # fmt: skip
    """Compare numbers; a missing one counts as the largest, in a bin of its own.

    Args:
        before: Those of the reference.
        after: Those of the data.
        rng: For the interval.
        alpha: Its level.
        text: A bin's bound for people.
    """
    one, other = (np.sort(sample[~np.isnan(sample)]) for sample in (before, after))
    edges, labels = _bins(one, other, text)
    counts = [
        _counts_of_bins(there, edges, len(sample) - len(there))
        for there, sample in ((one, before), (other, after))
    ]
    every = np.sort(np.concatenate([one, other]), kind="stable")  # which merges
    below = [
        np.searchsorted(there, every, side="right") / len(sample)
        for there, sample in ((one, before), (other, after))
    ]
    ks = float(np.abs(below[0] - below[1]).max()) if len(every) else 0.0
    sizes = {"ks": ks} | _wasserstein(one[np.isfinite(one)], other[np.isfinite(other)])
    size = max(round(len(before) * len(after) / (len(before) + len(after))), 1)
    p_value = float(stats.kstwo.sf(ks, size)) if ks else 1.0
    return _change(counts[0], counts[1], [*labels, MISSING], p_value, sizes, rng, alpha)


def change_of_categories(
    before: Values, after: Values, rng: np.random.Generator, alpha: float
) -> Change:
    """Compare categories by their texts; None is a category, rare ones are counted together."""
    size = len(before)
    codes, found = pd.factorize(
        np.concatenate([before, after]).astype(object), use_na_sentinel=True
    )
    texts, groups = np.unique([*map(str, found)], return_inverse=True)
    n_texts = len(texts)
    codes = np.where(codes < 0, n_texts, np.append(groups, 0)[codes])
    frequent = np.argsort(-np.bincount(codes, minlength=n_texts + 1)[:n_texts], kind="stable")
    kept = frequent[:_CATEGORIES]
    place = np.full(n_texts + 1, len(kept))  # the others
    place[kept] = np.arange(len(kept))
    place[n_texts] = len(kept) + 1
    n_groups = len(kept) + 2
    counts = [
        np.bincount(place[part], minlength=n_groups) for part in (codes[:size], codes[size:])
    ]
    table = np.array(counts, dtype=np.float64)
    labels = [*(str(texts[position]) for position in kept), _OTHERS, MISSING]
    sizes = {"cramers_v": cramers_v(table)}
    return _change(counts[0], counts[1], labels, independence(table), sizes, rng, alpha)


def _bins(
    one: Floats, other: Floats, text: Callable[[float], str]
) -> tuple[Floats, list[str]]:
    """Return the bounds of bins and what people call these: a bin for each of a few values."""
    different, values = _distinct(one), _distinct(other)
    if len(different) <= _CATEGORIES and len(values) <= _CATEGORIES:
        both = np.union1d(different, values)
        return both[1:], [text(float(value)) for value in both] or [_OTHERS]
    if not len(one):
        edges = np.empty(0)
    elif len(different) <= _BINS:
        edges = np.append(different, np.nextafter(different[-1], np.inf))
    else:
        edges = _distinct(one[np.ceil(_PARTS * len(one)).astype(np.int64) - 1])
    texts = [text(float(edge)) for edge in edges]
    return edges, [f"< {texts[0]}", *(f">= {edge}" for edge in texts)] if texts else [_OTHERS]


def _distinct(ordered: Floats) -> Floats:
    return ordered[np.append(True, ordered[1:] != ordered[:-1])] if len(ordered) else ordered


def _counts_of_bins(ordered: Floats, edges: Floats, n_missing: int) -> Integers:
    bounds = [0, *np.searchsorted(ordered, edges, side="left"), len(ordered)]
    return np.array([*np.diff(bounds), n_missing], dtype=np.int64)


def _wasserstein(one: Floats, other: Floats) -> dict[str, float]:
    """Return the mean distance of quantiles in standard deviations of the first, if it has any."""
    scale = float(one.std()) if len(one) and len(other) else 0.0
    if not scale:
        return {}
    at = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    quantiles = [there[(at * len(there)).astype(np.int64)] for there in (one, other)]
    return {"wasserstein": float(np.abs(quantiles[0] - quantiles[1]).mean()) / scale}


def _change(
    before: Integers, after: Integers, labels: list[str], p_value: float,
    sizes: dict[str, float], rng: np.random.Generator, alpha: float,
) -> Change:  # fmt: skip
    used = np.flatnonzero(before + after)
    before, after = before[used], after[used]
    raw = float(_psi(before, after))
    # Draws from what was found are as much farther apart as that is from the truth: the basic
    # bootstrap takes that off, and with it what two samples of one distribution have by chance.
    drawn = _psi(_drawn(before, rng), _drawn(after, rng))
    low, high = np.quantile(drawn, [alpha / 2, 1 - alpha / 2])
    corrected = max(2 * raw - float(drawn.mean()), 0.0)
    interval = (max(2 * raw - float(high), 0.0), max(2 * raw - float(low), corrected))
    shares = [tuple(map(float, counts / counts.sum())) for counts in (before, after)]
    return Change(
        corrected, interval, p_value, tuple(labels[n] for n in used), shares[0], shares[1], sizes
    )


def _drawn(counts: Integers, rng: np.random.Generator) -> Floats:
    """Return counts as of other samples, a row each.

    Only shares matter, so the counts are those of Poisson, here by Anscombe's root of them: numpy's
    own draws of such counts (and of multinomial ones) differ from version to version.
    """
    roots = np.sqrt(counts) + rng.normal(0.0, 0.5, (_DRAWS, len(counts)))
    return np.asarray(np.maximum(roots**2 - 0.25, 0.0) * (counts > 0))


def _psi(before: Values, after: Values) -> Floats:
    # Half a row in each bin, so that an empty one is no infinity.
    p, q = before + 0.5, after + 0.5
    p, q = p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)
    return np.asarray(((q - p) * np.log(q / p)).sum(axis=-1))

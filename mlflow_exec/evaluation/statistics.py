"""The statistics of the checks: tests, intervals, and the correction for many of them.

All p-values are of one side, "worse than", unless they say otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

from mlflow_exec.evaluation.arrays import Floats, Mask

# Below this expected number in a cell, Fisher's exact test; above, the G test (Giskard: 30).
_FEW = 30


def proportions(worse: int, n: int, worse_others: int, n_others: int) -> float:
    """Return the p-value that the share `worse` of `n` is higher than that of the others.

    Fisher's exact test for small numbers, else the G test with the sign of the difference.
    """
    table = np.array([[worse, n - worse], [worse_others, n_others - worse_others]])
    if n == 0 or n_others == 0 or table.min() < 0:
        return 1.0
    if table.min() <= _FEW:
        return float(stats.fisher_exact(table, alternative="greater").pvalue)
    both = float(stats.chi2_contingency(table, lambda_="log-likelihood").pvalue)
    return both / 2 if worse / n > worse_others / n_others else 1 - both / 2


def independence(table: Floats) -> float:
    """Return the p-value of the G test that rows and columns of a table of counts are unrelated."""
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    if min(table.shape) < 2:
        return 1.0
    return float(stats.chi2_contingency(table, lambda_="log-likelihood").pvalue)


def cramers_v(table: Floats) -> float:
    """Return how strongly rows and columns of a table go together: 0 not at all, 1 always.

    Args:
        table: Of counts, or of shares.
    """
    table = table[table.sum(axis=1) > 0][:, table.sum(axis=0) > 0]
    if min(table.shape) < 2:
        return 0.0
    expected = table.sum(axis=1, keepdims=True) * table.sum(axis=0) / table.sum()
    smaller = min(table.shape) - 1
    return float(np.sqrt(((table - expected) ** 2 / expected).sum() / table.sum() / smaller))


def permutation(
    statistic: Callable[[Floats], float], values: Floats, rng: np.random.Generator, n: int = 999
) -> float:
    """Return the p-value that `statistic` is as high for shuffled values; 1 / (n + 1) at least."""
    observed = statistic(values)
    as_high = sum(statistic(rng.permutation(values)) >= observed for _ in range(n))
    return (as_high + 1) / (n + 1)


def wilson(successes: int, n: int, alpha: float = 0.05) -> tuple[float, float]:
    """Return Wilson's interval of a share: right for small samples and shares near 0 and 1."""
    if n == 0:
        return 0.0, 1.0
    z = float(stats.norm.ppf(1 - alpha / 2))
    share, squared = successes / n, z * z / n
    middle = (share + squared / 2) / (1 + squared)
    half = z * np.sqrt(share * (1 - share) / n + squared / (4 * n)) / (1 + squared)
    return max(float(middle - half), 0.0), min(float(middle + half), 1.0)


def difference_of_shares(
    one: int, n_one: int, other: int, n_other: int, alpha: float = 0.05
) -> tuple[float, float]:
    """Return the interval of the first share minus the second, by Newcombe's hybrid of Wilson's."""
    first, second = one / max(n_one, 1), other / max(n_other, 1)
    (low, high), (other_low, other_high) = wilson(one, n_one, alpha), wilson(other, n_other, alpha)
    difference = first - second
    below = np.hypot(first - low, other_high - second)
    above = np.hypot(high - first, second - other_low)
    return float(difference - below), float(difference + above)


def difference_of_means(
    one: Floats, other: Floats, alpha: float = 0.05
) -> tuple[float, float]:
    """Return Welch's interval of the first mean minus the second; infinite for single values."""
    if len(one) < 2 or len(other) < 2:
        return -np.inf, np.inf
    parts = np.array([one.var(ddof=1) / len(one), other.var(ddof=1) / len(other)])
    difference = float(one.mean() - other.mean())
    if not parts.sum():
        return difference, difference
    freedom = parts.sum() ** 2 / (parts**2 / np.array([len(one) - 1, len(other) - 1])).sum()
    half = float(stats.t.ppf(1 - alpha / 2, freedom) * np.sqrt(parts.sum()))
    return difference - half, difference + half


def area_under_roc(scores: Floats, belongs: Mask) -> tuple[float, float]:
    """Return the area under the ROC curve and its standard error.

    DeLong, DeLong and Clarke-Pearson, 1988.

    Args:
        scores: Higher ones for rows that belong to the class, if they tell anything.
        belongs: Which rows do: two of them at least, and two that do not.
    """
    n, n_others = int(belongs.sum()), int((~belongs).sum())
    ranks = stats.rankdata(scores)
    below = (ranks[belongs] - stats.rankdata(scores[belongs])) / n_others
    above = 1 - (ranks[~belongs] - stats.rankdata(scores[~belongs])) / n
    variance = below.var(ddof=1) / n + above.var(ddof=1) / n_others
    return float(below.mean()), float(np.sqrt(variance))


def bootstrap(
    statistic: Callable[..., float], samples: Sequence[Floats], rng: np.random.Generator,
    alpha: float = 0.05, n: int = 500,
) -> tuple[float, float]:  # fmt: skip
    """Return the percentile interval of a statistic of arrays whose rows belong together."""
    size = len(samples[0])
    drawn = np.empty(n)
    for turn in range(n):
        rows = rng.integers(0, size, size)
        drawn[turn] = statistic(*(sample[rows] for sample in samples))
    low, high = np.nanquantile(drawn, [alpha / 2, 1 - alpha / 2])
    return float(low), float(high)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return adjusted p-values: those up to alpha have a rate of false discoveries of alpha.

    Benjamini and Hochberg, 1995.
    """
    count = len(p_values)
    if not count:
        return []
    given = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(given)
    scaled = given[order] * count / np.arange(1, count + 1)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return [float(value) for value in adjusted]

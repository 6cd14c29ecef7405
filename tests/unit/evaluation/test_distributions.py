"""How far two distributions are apart, against what is known of normal ones and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from mlflow_exec.evaluation.distributions import change_of_categories, change_of_numbers


def test_samples_of_one_distribution_have_no_index() -> None:
    rng = np.random.default_rng(1)
    pairs = rng.normal(size=(100, 2, 100))
    found = [change_of_numbers(pair[0], pair[1], rng, 0.05) for pair in pairs]
    assert np.mean([change.psi for change in found]) < 0.08  # 0.18 as it is usually computed
    assert np.mean([change.interval[0] > 0 for change in found]) <= 0.05


def test_the_test_is_that_of_kolmogorov_and_smirnov() -> None:
    rng = np.random.default_rng(2)
    before, after = rng.normal(size=400), rng.normal(0.2, 1.3, size=300)
    change = change_of_numbers(before, after, rng, 0.05)
    expected = stats.ks_2samp(before, after, method="asymp")
    assert change.p_value == pytest.approx(expected.pvalue, rel=1e-6)
    assert change.sizes["ks"] == pytest.approx(expected.statistic)
    distance = stats.wasserstein_distance(before, after) / before.std()
    assert change.sizes["wasserstein"] == pytest.approx(distance, abs=0.02)


def test_a_missing_value_counts() -> None:
    rng = np.random.default_rng(3)
    before, after = rng.normal(size=500), rng.normal(size=500)
    after[:100] = np.nan
    change = change_of_numbers(before, after, rng, 0.05)
    assert change.labels[-1] == "(missing)"
    assert change.after[-1] == pytest.approx(0.2)
    assert change.p_value < 1e-6


def test_many_categories_are_counted_together() -> None:
    rng = np.random.default_rng(4)
    values = np.array([f"c{n}" for n in range(60)], dtype=object)
    before, after = rng.choice(values, 3000), rng.choice(values, 3000)
    after[:300] = None
    change = change_of_categories(before, after, rng, 0.05)
    assert len(change.labels) == 22
    assert change.labels[-2:] == ("(others)", "(missing)")
    assert sum(change.before) == pytest.approx(1)
    assert change.p_value < 1e-6

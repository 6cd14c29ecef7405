"""The statistics of the checks, against those of SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from mlflow_exec.evaluation.arrays import Floats, Mask
from mlflow_exec.evaluation.findings import Finding, Severity
from mlflow_exec.evaluation.scan import certain_ones
from mlflow_exec.evaluation.statistics import area_under_roc, benjamini_hochberg


def with_p(p_value: float | None) -> Finding:
    return Finding("a_check", Severity.MINOR, f"{p_value}", "ece", 0.2, p_value=p_value)


def test_p_values_are_adjusted_as_by_scipy() -> None:
    given = np.random.default_rng(1).random(30) ** 3
    assert benjamini_hochberg(list(given)) == pytest.approx(stats.false_discovery_control(given))
    assert benjamini_hochberg([]) == []


def test_what_would_be_certain_alone_is_not_among_many() -> None:
    [alone] = certain_ones([with_p(0.03)], 0.05)
    assert alone.adjusted_p == pytest.approx(0.03)
    assert certain_ones([with_p(0.03), with_p(0.5)], 0.05) == []
    kept = certain_ones([with_p(None), with_p(0.5), with_p(0.01)], 0.05)
    assert [(f.p_value, f.adjusted_p) for f in kept] == [(None, None), (0.01, 0.02)]


def test_the_area_is_that_of_scikit_learn_and_its_error_that_of_draws() -> None:
    rng = np.random.default_rng(2)

    def drawn() -> tuple[Floats, Mask]:
        belongs = np.arange(200) < 60
        return (rng.normal(size=200) + belongs).round(1), belongs  # with ties

    areas = [area_under_roc(*drawn()) for _ in range(300)]
    scores, belongs = drawn()
    assert area_under_roc(scores, belongs)[0] == pytest.approx(roc_auc_score(belongs, scores))
    spread = np.std([area for area, _ in areas])
    assert np.mean([error for _, error in areas]) == pytest.approx(spread, rel=0.15)

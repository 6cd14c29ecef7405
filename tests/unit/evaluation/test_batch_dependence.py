"""The check `batch_dependence`: what the model says depends on the other rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlflow_exec.evaluation.findings import Severity
from tests.unit.evaluation.planted import is_rich, people, scanned

CHECK = "batch_dependence"
FEATURES = people(300, 1)
SEEDS = [1, *(pytest.param(seed, marks=pytest.mark.large) for seed in range(2, 51))]


def scaled_by_the_batch(rows: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Predicts by the distance to the mean of what it is asked with."""
    return np.asarray(rows["height"] > rows["height"].mean()).astype(int)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_model_that_scales_by_its_batch_is_found(seed: int) -> None:
    features = people(300, seed)
    labels = scaled_by_the_batch(features)
    [finding] = scanned(features, labels, scaled_by_the_batch, CHECK, seed=seed).findings
    assert finding.severity is Severity.MAJOR
    assert finding.figure > 0.3
    assert finding.examples


def test_a_regression_that_depends_on_its_batch_is_found() -> None:
    def predict(rows: pd.DataFrame) -> Any:
        return rows["height"] - rows["height"].mean()

    labels = FEATURES["height"].to_numpy()
    [finding] = scanned(FEATURES, labels, predict, CHECK).findings
    assert finding.figure == 1.0


@pytest.mark.parametrize("noise", [0.0, 1e-9])
def test_rounding_is_no_difference(noise: float) -> None:
    def predict(rows: pd.DataFrame) -> Any:
        return rows["height"] * (1 + noise * len(rows))

    result = scanned(FEATURES, FEATURES["height"].to_numpy(), predict, CHECK)
    assert (result.findings, result.skipped) == ((), ())


def test_a_model_of_chance_is_not_told_here() -> None:
    rng = np.random.default_rng(2)
    result = scanned(
        FEATURES, is_rich(FEATURES), lambda rows: rng.integers(0, 2, len(rows)), CHECK
    )
    assert result.findings == ()

"""The check `stochasticity`: another answer to the same rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.findings import Result, Severity
from mlflow_exec.evaluation.model import Model
from mlflow_exec.evaluation.scan import scan
from mlflow_exec.evaluation.settings import ScanSettings
from tests.unit.evaluation.planted import is_rich, people, scanned

CHECK = "stochasticity"
FEATURES = people(500, 1)


def of_chance(seed: int) -> Result:
    """A model that draws its answers."""
    rng = np.random.default_rng(seed)
    return scanned(
        FEATURES, is_rich(FEATURES), lambda rows: rng.integers(0, 2, len(rows)), CHECK
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_model_of_chance_is_found(seed: int) -> None:
    [finding] = of_chance(seed).findings
    assert finding.severity is Severity.MAJOR
    assert finding.figure == pytest.approx(0.5, abs=0.1)
    assert len(finding.examples) == 5


@pytest.mark.large
def test_a_model_of_chance_is_found_with_all_of_50_seeds() -> None:
    assert all(of_chance(seed).count(Severity.MAJOR) for seed in range(50))


def test_a_model_of_chance_is_found_by_its_numbers() -> None:
    rng = np.random.default_rng(4)
    heights = FEATURES["height"].to_numpy()
    result = scanned(FEATURES, heights, lambda rows: rng.normal(170, 10, len(rows)), CHECK)
    [finding] = result.findings
    assert finding.severity is Severity.MAJOR


def test_other_probabilities_of_the_same_classes_are_medium() -> None:
    rng = np.random.default_rng(5)

    def predict(rows: pd.DataFrame) -> Any:
        shown = np.where(is_rich(rows) == 1, 0.9, 0.1) + rng.normal(0, 0.01, len(rows))
        return np.column_stack([1 - shown, shown])

    [finding] = scanned(FEATURES, is_rich(FEATURES), predict, CHECK).findings
    assert finding.severity is Severity.MEDIUM
    assert finding.figure > 0.95
    assert finding.details["share_of_other_predictions"] == 0.0


def test_the_same_answers_are_no_finding() -> None:
    result = scanned(FEATURES, is_rich(FEATURES), is_rich, CHECK)
    assert (result.findings, result.skipped) == ((), ())


def test_rounding_is_no_difference() -> None:
    rng = np.random.default_rng(6)
    heights = FEATURES["height"].to_numpy()
    result = scanned(
        FEATURES, heights, lambda rows: rows["height"] * (1 + rng.normal(0, 1e-8)), CHECK
    )
    assert result.findings == ()


def test_predictions_without_a_model_are_skipped() -> None:
    data = Data(FEATURES, is_rich(FEATURES))
    model = Model(None, data, predictions=is_rich(FEATURES))
    [skipped] = scan(data, model, ScanSettings(checks=[CHECK])).skipped
    assert skipped.expected
    assert "no model to ask" in skipped.reason

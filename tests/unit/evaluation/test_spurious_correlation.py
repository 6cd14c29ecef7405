"""The check `spurious_correlation`: slices that the model goes by, and the labels do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlflow_exec.evaluation.findings import Severity
from tests.unit.evaluation.planted import is_rich, overlap, people, scanned

CHECK = "spurious_correlation"


def rich_or_of_kiel(features: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Goes by the city, whatever the income."""
    return np.where(features["city"] == "Kiel", 1, is_rich(features))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_city_that_the_model_goes_by_is_found(seed: int) -> None:
    features = people(2_000, seed)
    labels = is_rich(features)
    result = scanned(features, labels, rich_or_of_kiel, CHECK)
    [finding] = result.findings
    assert overlap(finding, (features["city"] == "Kiel").to_numpy()) == 1.0
    assert finding.severity is Severity.MEDIUM
    assert finding.compared_to == pytest.approx(0.0, abs=0.1)
    assert finding.details["class"] == "1"
    assert finding.details["theils_u"] > finding.details["theils_u_of_labels"]
    assert 0 <= finding.details["cramers_v_of_labels"] < finding.details["cramers_v"] < 1


def test_a_model_that_goes_by_nothing_else_is_major() -> None:
    features = people(2_000, 4)
    labels = np.random.default_rng(5).integers(0, 2, 2_000)
    worst, *others = scanned(
        features, labels, lambda asked: (asked["city"] == "Ulm").astype(int), CHECK
    ).findings
    assert (worst.severity, str(worst.slice)) == (Severity.MAJOR, "city = 'Ulm'")
    assert worst.details["theils_u"] == pytest.approx(1.0)
    assert worst.details["cramers_v"] == pytest.approx(1.0)
    assert {f.details["class"] for f in others} == {"0"}  # of the other cities


def test_what_the_labels_show_is_not_spurious() -> None:
    features = people(2_000, 6)
    result = scanned(features, rich_or_of_kiel(features), rich_or_of_kiel, CHECK)
    assert (result.findings, result.skipped) == ((), ())


def test_a_model_that_chooses_the_likelier_class_is_right_to() -> None:
    features = people(3_000, 7)
    best = is_rich(features)
    wrong = np.random.default_rng(8).random(3_000) < 0.25
    labels = np.where(wrong, 1 - best, best)
    assert scanned(features, labels, is_rich, CHECK).findings == ()


def test_probabilities_count_as_they_are() -> None:
    features = people(3_000, 9)
    shown = np.where(is_rich(features) == 1, 0.55, 0.45)
    labels = (np.random.default_rng(10).random(3_000) < shown).astype(int)
    table = np.column_stack([1 - shown, shown])
    assert scanned(features, labels, lambda asked: table[asked.index], CHECK).findings == ()


def test_a_regression_is_skipped() -> None:
    features = people(100, 11)
    [skipped] = scanned(
        features, features["height"], lambda asked: asked["height"], CHECK
    ).skipped
    assert (skipped.reason, skipped.expected) == ("it is for classifications", True)

"""The check `calibration`: confidence and accuracy of all rows."""

from __future__ import annotations

import numpy as np
import pytest

from mlflow_exec.evaluation.findings import Result, Severity
from tests.unit.evaluation.planted import people, scanned
from tests.unit.evaluation.planted_confidence import confident

CHECK = "calibration"


def of_chance(seed: int) -> Result:
    """A model whose probabilities have nothing to do with the rows."""
    features = people(1_000, seed)
    rng = np.random.default_rng([seed, 2])
    table = rng.dirichlet(np.full(3, 0.5), 1_000)
    labels = rng.integers(0, 3, 1_000)
    return scanned(features, labels, lambda asked: table[asked.index], CHECK)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_model_of_chance_is_found(seed: int) -> None:
    [finding] = of_chance(seed).findings
    assert finding.severity is Severity.MAJOR
    assert finding.details["accuracy"] == pytest.approx(1 / 3, abs=0.06)


@pytest.mark.large
def test_a_model_of_chance_is_found_with_95_percent_of_50_seeds() -> None:
    found = [of_chance(seed).count(Severity.MAJOR) for seed in range(50)]
    assert sum(found) >= 48


def test_probabilities_as_they_are_give_no_finding() -> None:
    planted = confident(3_000, 1)
    result = planted.scanned(planted.probability, CHECK)
    assert (result.findings, result.skipped) == ((), ())


@pytest.mark.large
def test_probabilities_as_they_are_are_found_as_seldom_as_alpha_says() -> None:
    made = [confident(500, seed) for seed in range(200)]
    found = sum(len(one.scanned(one.probability, CHECK).findings) for one in made)
    assert found <= 18, found  # 10 are expected; 19 and more have a probability below 0.01


def test_the_error_is_told_without_what_chance_adds() -> None:
    planted = confident(4_000, 2)
    everywhere = np.ones(4_000, dtype=np.bool_)
    far = np.abs(planted.probability - 0.5) < 0.35  # so that all can be 0.1 surer
    features, labels = planted.features[far].reset_index(drop=True), planted.labels[far]
    shown = planted.surer(0.1, everywhere)[far]
    table = np.column_stack([1 - shown, shown])
    [finding] = scanned(features, labels, lambda asked: table[asked.index], CHECK).findings
    assert finding.figure == pytest.approx(0.1, abs=0.025)
    assert finding.interval is not None
    assert 0 < finding.interval[0] < 0.1 < finding.interval[1]
    assert finding.title.startswith("the model is too sure of itself")


def test_few_rows_do_not_make_the_error_larger() -> None:
    rng = np.random.default_rng(6)
    features, figures = people(400, 6), []
    for _ in range(20):
        right = rng.uniform(0.5, 0.7, 400)  # of the class 1, which is always said
        labels = (rng.random(400) < right).astype(int)
        table = np.column_stack([0.8 - right, 0.2 + right])
        [finding] = scanned(features, labels, lambda asked, t=table: t[asked.index], CHECK).findings
        figures.append(finding.figure)
    assert np.mean(figures) == pytest.approx(0.2, abs=0.015)  # with what chance adds: 0.23


def test_a_model_that_is_too_unsure_is_never_major() -> None:
    planted = confident(3_000, 3)
    shown = np.where(planted.probability > 0.5, 0.5001, 0.4999)
    [finding] = planted.scanned(shown, CHECK).findings
    assert finding.severity is Severity.MEDIUM
    assert finding.title.startswith("the model is too unsure of itself")
    assert all(
        (shown[row] > 0.5) == (planted.labels[row] == 1) for row in finding.examples
    )


def test_classes_told_as_zero_and_one_are_a_confidence_of_one() -> None:
    planted = confident(3_000, 4)
    [finding] = planted.scanned(np.round(planted.probability), CHECK).findings
    assert finding.details["confidence"] == 1.0
    assert finding.figure == pytest.approx(1 - finding.details["accuracy"], abs=0.01)


def test_it_needs_labels() -> None:
    planted = confident(100, 5)
    table = np.column_stack([1 - planted.probability, planted.probability])
    [skipped] = scanned(
        planted.features, None, lambda asked: table[asked.index], CHECK, classes=(0, 1)
    ).skipped
    assert (skipped.reason, skipped.expected) == ("the data has no labels", True)

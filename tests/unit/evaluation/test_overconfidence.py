"""The check `overconfidence`: slices where the model is surer than it is right."""

from __future__ import annotations

import numpy as np
import pytest

from mlflow_exec.evaluation.findings import Severity
from tests.unit.evaluation.planted import is_rich, overlap, people, scanned
from tests.unit.evaluation.planted_confidence import confident

CHECK = "overconfidence"


# How many rows it takes: of 3,000 a search at this level finds the range in nine of ten seeds, of
# 2,000, with 100 to 200 rows of which half have no room for 0.2 more, in three of four.
N_ROWS = 4_000


def found_in(seed: int) -> float:
    """The best overlap of a finding with rows whose confidence is 0.2 too high."""
    planted = confident(N_ROWS, seed)
    result = planted.scanned(planted.surer(0.2), CHECK)
    return max((overlap(finding, planted.rows) for finding in result.findings), default=0.0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_range_with_too_much_confidence_is_found(seed: int) -> None:
    assert found_in(seed) >= 0.6


@pytest.mark.large
def test_such_a_range_is_found_with_95_percent_of_50_seeds() -> None:
    overlaps = [found_in(seed) for seed in range(50)]
    assert sum(one >= 0.6 for one in overlaps) >= 48, sorted(overlaps)[:5]


def test_a_finding_tells_confidence_and_accuracy() -> None:
    planted = confident(4_000, 4)
    shown = planted.surer(0.25, (planted.features["city"] == "Jena").to_numpy())
    [finding] = planted.scanned(shown, CHECK).findings
    assert str(finding.slice) == "city = 'Jena'"
    details = finding.details
    assert details["confidence"] - details["accuracy"] == pytest.approx(finding.figure)
    assert finding.interval is not None
    assert 0.05 < finding.interval[0] < finding.figure < finding.interval[1]
    assert finding.severity is Severity.MEDIUM
    assert details["confident_errors"] > details["confident_errors_elsewhere"] + 0.1
    assert all(shown[row] > 0.5 for row in finding.examples if planted.labels[row] == 0)


def test_what_is_certain_makes_a_finding_major() -> None:
    planted = confident(4_000, 4)
    shown = planted.surer(0.5, (planted.features["city"] == "Jena").to_numpy())
    [finding] = planted.scanned(shown, CHECK).findings
    assert str(finding.slice) == "city = 'Jena'"
    assert finding.severity is Severity.MAJOR


@pytest.mark.large
def test_probabilities_as_they_are_are_found_as_seldom_as_alpha_says() -> None:
    made = [confident(1_000, seed) for seed in range(200)]
    found = sum(bool(one.scanned(one.probability, CHECK).findings) for one in made)
    assert found <= 18, found  # 10 are expected; 19 and more have a probability below 0.01


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_confidence_that_is_as_good_everywhere_is_no_finding(factor: float) -> None:
    planted = confident(2_000, 5)
    result = planted.scanned(planted.sharper(factor), CHECK)
    assert (result.findings, result.skipped) == ((), ())


def test_a_model_that_tells_classes_only_is_skipped() -> None:
    features = people(100, 6)
    [skipped] = scanned(features, is_rich(features), is_rich, CHECK).skipped
    assert skipped.expected
    assert "tells no probabilities" in skipped.reason


def test_a_model_that_is_always_sure_is_skipped() -> None:
    planted = confident(100, 7)
    [skipped] = planted.scanned(np.round(planted.probability), CHECK).skipped
    assert skipped.reason == "the model is equally sure of all rows"

"""The check `underconfidence`: slices where the model is right more often than it says."""

from __future__ import annotations

import numpy as np
import pytest

from mlflow_exec.evaluation.findings import Severity
from tests.unit.evaluation.planted import is_rich, overlap, people, scanned
from tests.unit.evaluation.planted_confidence import confident

CHECK = "underconfidence"


def found_in(seed: int) -> float:
    """The best overlap of a finding with rows whose confidence is 0.25 too low."""
    planted = confident(4_000, seed)
    findings = planted.scanned(planted.surer(-0.25), CHECK).findings
    found = [f for f in findings if f.metric == "missing_confidence"]
    assert all(f.severity is not Severity.MAJOR for f in found)
    return max((overlap(finding, planted.rows) for finding in found), default=0.0)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_range_with_too_little_confidence_is_found(seed: int) -> None:
    assert found_in(seed) >= 0.6


@pytest.mark.large
def test_such_a_range_is_found_with_95_percent_of_50_seeds() -> None:
    overlaps = [found_in(seed) for seed in range(50)]
    assert sum(one >= 0.6 for one in overlaps) >= 48, sorted(overlaps)[:5]


def test_rows_where_classes_overlap_are_good_to_know() -> None:
    planted = confident(3_000, 4)
    [finding] = planted.scanned(planted.probability, CHECK).findings
    assert (finding.metric, finding.severity) == ("share_of_undecided_rows", Severity.MINOR)
    assert finding.slice is not None
    assert {condition.column for condition in finding.slice.conditions} == {"income"}
    assert finding.details["accuracy"] < 0.7


def test_a_model_that_is_unsure_everywhere_is_no_finding_of_slices() -> None:
    planted = confident(2_000, 5)
    shown = 0.5 + (planted.sharper(0.5) - 0.5) * 0.9
    shown = np.where(np.abs(shown - 0.5) < 0.02, 0.55, shown)  # none is undecided
    result = planted.scanned(shown, CHECK)
    assert (result.findings, result.skipped) == ((), ())


def test_of_three_classes_the_second_counts() -> None:
    features = people(1_000, 6)
    rows = (features["city"] == "Kiel").to_numpy()
    table = np.where(rows[:, None], [0.45, 0.44, 0.11], [0.45, 0.28, 0.27])
    labels = np.random.default_rng(7).choice(3, 1_000, p=[0.4, 0.3, 0.3])
    table = table + np.random.default_rng(8).uniform(0, 0.001, 1_000)[:, None] * [1, 0, -1]
    found = scanned(features, labels, lambda asked: table[asked.index], CHECK).findings
    assert [str(f.slice) for f in found] == ["city = 'Kiel'"]
    assert (found[0].figure, found[0].compared_to) == (1.0, 0.0)


def test_a_model_that_tells_classes_only_is_skipped() -> None:
    features = people(100, 9)
    [skipped] = scanned(features, is_rich(features), is_rich, CHECK).skipped
    assert "tells no probabilities" in skipped.reason

"""The check `performance_bias`: slices where the model is worse."""

from __future__ import annotations

import numpy as np
import pytest

from mlflow_exec.evaluation.findings import Severity
from tests.unit.evaluation.planted import is_rich, overlap, people, scanned, worse_slice

CHECK = "performance_bias"


@pytest.mark.parametrize("seed", [1, 2])
def test_a_planted_slice_is_found(seed: int) -> None:
    planted = worse_slice(6_000, seed)  # for how many rows it takes, see test_search.py
    result = scanned(planted.features, planted.labels, is_rich, CHECK)
    assert max(overlap(finding, planted.rows) for finding in result.findings) >= 0.6


def test_a_slice_of_two_features_is_told_with_both() -> None:
    features = people(5_000, 4)
    rows = ((features["city"] == "Bonn") & (features["age"] >= 66)).to_numpy()
    wrong = np.random.default_rng(5).random(len(rows)) < np.where(rows, 0.35, 0.1)
    labels = np.where(wrong, 1 - is_rich(features), is_rich(features))
    [finding] = scanned(features, labels, is_rich, CHECK).findings
    assert finding.slice is not None
    assert {condition.column for condition in finding.slice.conditions} == {"age", "city"}
    assert overlap(finding, rows) >= 0.8
    assert finding.severity is Severity.MAJOR
    assert finding.title.startswith("accuracy is ")


def test_the_same_noise_everywhere_is_no_finding() -> None:
    planted = worse_slice(2_000, 7, worse=0.0)
    assert scanned(planted.features, planted.labels, is_rich, CHECK).findings == ()


def test_a_regression_is_worse_where_its_errors_are_larger() -> None:
    features = people(3_000, 8)
    rng = np.random.default_rng(9)
    rows = (features["city"] == "Jena").to_numpy()
    labels = features["height"].to_numpy() + rng.normal(0, 1, 3_000) * np.where(rows, 3.0, 1.0)
    result = scanned(features, labels, lambda given: given["height"].to_numpy(), CHECK)
    [finding] = result.findings
    assert (finding.metric, str(finding.slice)) == ("mae", "city = 'Jena'")
    assert finding.severity is Severity.MAJOR
    assert finding.compared_to is not None
    assert 2 < finding.figure / finding.compared_to < 4


def test_the_same_seed_gives_the_same_findings() -> None:
    planted = worse_slice(2_000, 2)
    one, other = (scanned(planted.features, planted.labels, is_rich, CHECK) for _ in range(2))
    assert [(f.title, f.p_value) for f in one.findings] == [
        (f.title, f.p_value) for f in other.findings
    ]


def test_few_rows_of_a_class_are_weighed_up() -> None:
    features = people(4_000, 10)
    rare = np.random.default_rng(11).random(4_000) < 0.1
    rows = (features["city"] == "Kiel").to_numpy() & rare  # all of the rare class there are missed
    predicted = np.where(rare & ~rows, 1, 0)
    found = scanned(features, rare.astype(int), lambda given: predicted[given.index], CHECK)
    assert [f.metric for f in found.findings] == ["balanced_accuracy"]
    assert str(found.findings[0].slice) == "city = 'Kiel'"

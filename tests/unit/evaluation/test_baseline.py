"""The check `baseline`: a model that knows nothing."""

from __future__ import annotations

import numpy as np
import pytest

from mlflow_exec.evaluation.findings import Result, Severity
from tests.unit.evaluation.planted import is_rich, people, scanned
from tests.unit.evaluation.planted_confidence import confident

CHECK = "baseline"


def of_chance(seed: int, n_classes: int) -> Result:
    """A model that says the same of a row each time, and that has nothing to do with the label."""
    features = people(1_000, seed)
    rng = np.random.default_rng([seed, 3])
    said, labels = rng.integers(0, n_classes, (2, 1_000))
    return scanned(features, labels, lambda asked: said[asked.index], CHECK)


@pytest.mark.parametrize("n_classes", [2, 5])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_model_of_chance_is_found(seed: int, n_classes: int) -> None:
    [finding] = of_chance(seed, n_classes).findings
    assert finding.severity is Severity.MAJOR
    assert finding.interval is not None
    assert finding.interval[0] < 0.05 < finding.interval[1] + 0.1


@pytest.mark.large
def test_a_model_of_chance_is_found_with_95_percent_of_50_seeds() -> None:
    assert sum(of_chance(seed, 2).count(Severity.MAJOR) for seed in range(50)) >= 48


def test_a_regression_of_chance_is_found() -> None:
    features = people(1_000, 4)
    said = np.random.default_rng(5).normal(170, 10, 1_000)
    [finding] = scanned(features, features["height"], lambda a: said[a.index], CHECK).findings
    assert finding.severity is Severity.MAJOR
    assert finding.figure < 0


def test_the_same_answer_to_all_rows_has_no_skill() -> None:
    features = people(1_000, 6)
    rare = (np.random.default_rng(7).random(1_000) < 0.1).astype(int)
    [finding] = scanned(features, rare, lambda asked: np.zeros(len(asked), int), CHECK).findings
    assert (finding.figure, finding.interval) == (0.0, (0.0, 0.0))


def test_probabilities_count_where_one_class_is_always_said() -> None:
    planted = confident(1_000, 8)
    result = planted.scanned(planted.probability * 0.4, CHECK)
    assert (result.findings, result.skipped) == ((), ())


def test_a_model_that_knows_something_is_no_finding() -> None:
    features = people(1_000, 9)
    rng = np.random.default_rng(10)
    labels = np.where(rng.random(1_000) < 0.35, 1 - is_rich(features), is_rich(features))
    assert scanned(features, labels, is_rich, CHECK).findings == ()
    heights = features["height"].to_numpy() + rng.normal(0, 8, 1_000)
    assert scanned(features, heights, lambda asked: asked["height"], CHECK).findings == ()


def test_few_rows_do_not_prove_that_a_model_knows_nothing() -> None:
    features = people(40, 11)
    labels, said = np.tile([0, 1], 20), np.repeat([0, 1], 20)
    [finding] = scanned(features, labels, lambda asked: said[asked.index], CHECK).findings
    assert finding.severity is Severity.MEDIUM


def test_one_class_is_skipped() -> None:
    features = people(100, 12)
    [skipped] = scanned(
        features, np.ones(100, int), lambda asked: np.ones(len(asked), int), CHECK
    ).skipped
    assert skipped.expected
    assert skipped.reason.startswith("there is nothing to tell apart")

"""The check `label_issues`: rows whose label is probably wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from mlflow_exec.evaluation.checks.label_issues import confident_classes
from mlflow_exec.evaluation.findings import Severity
from tests.unit.evaluation.planted import is_rich, people, scanned

CHECK = "label_issues"
SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.large) for seed in range(3, 50))]


def digits(seed: int) -> tuple[Any, pd.DataFrame, np.ndarray[Any, Any]]:
    """A model of digits, and rows that it did not learn from."""
    features, labels = datasets.load_digits(return_X_y=True, as_frame=True)
    learnt, test, y_learnt, y = train_test_split(features, labels, test_size=0.4, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    return model.fit(learnt, y_learnt), test, np.asarray(y)


@pytest.mark.parametrize("seed", SEEDS)
def test_wrong_labels_are_found(seed: int) -> None:
    model, features, labels = digits(seed)
    rng = np.random.default_rng(seed)
    wrong = rng.random(len(labels)) < 0.1
    given = np.where(wrong, (labels + rng.integers(1, 10, len(labels))) % 10, labels)
    [finding] = scanned(features, given, model.predict_proba, CHECK).findings
    assert finding.figure == pytest.approx(wrong.mean(), abs=0.05)
    assert wrong[list(finding.examples)].all()


def test_many_wrong_labels_are_medium() -> None:
    model, features, labels = digits(0)
    given = np.where(np.arange(len(labels)) % 6 == 0, (labels + 1) % 10, labels)
    [finding] = scanned(features, given, model.predict_proba, CHECK).findings
    assert finding.severity is Severity.MEDIUM


def test_the_pairs_of_classes_are_told() -> None:
    model, features, labels = digits(0)
    swapped = {7: 1, 3: 8, 0: 6, 4: 9}
    given = np.array([swapped.get(y, y) if n % 3 == 0 else y for n, y in enumerate(labels)])
    [finding] = scanned(features, given, model.predict_proba, CHECK).findings
    pairs = {(pair["label"], pair["likely"]) for pair in finding.details["pairs"][:4]}
    assert pairs == {("1", "7"), ("8", "3"), ("6", "0"), ("9", "4")}


def test_a_model_that_is_sure_and_wrong_is_no_fault_of_the_labels() -> None:
    features, labels = datasets.load_digits(return_X_y=True)
    model = DecisionTreeClassifier(min_samples_leaf=2, random_state=0)
    model.fit(features[:600], labels[:600])
    [finding] = scanned(features[600:], labels[600:], model.predict_proba, CHECK).findings
    assert finding.figure > 0.1
    assert finding.severity is Severity.MINOR


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["wine", "breast_cancer", "digits"])
def test_right_labels_of_real_data_are_no_more_than_minor(name: str, seed: int) -> None:
    features, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    learnt, test, y_learnt, y = train_test_split(features, labels, test_size=0.4, random_state=seed)
    model = RandomForestClassifier(30, random_state=seed).fit(learnt, y_learnt)
    result = scanned(test, y, model.predict_proba, CHECK)
    assert result.skipped == ()
    assert all(finding.severity is Severity.MINOR for finding in result.findings)


def test_the_classes_are_those_of_confident_learning() -> None:
    # Thresholds are the mean of a class' own probabilities: 0.6 and 0.7.
    probabilities = np.array([[0.9, 0.1], [0.3, 0.7], [0.35, 0.65], [0.25, 0.75]])
    likely, confident = confident_classes(np.array([0, 0, 1, 1]), probabilities)
    assert confident.tolist() == [True, True, False, True]
    assert likely[confident].tolist() == [0, 1, 1]


def test_classes_that_overlap_are_no_issue() -> None:
    features, rng = people(3000, 1), np.random.default_rng([1, 1])
    truth = rng.uniform(0, 1, 3000)
    features["height"] = truth
    labels = (rng.random(3000) < truth).astype(int)
    result = scanned(features, labels, lambda rows: np.column_stack(
        [1 - rows["height"], rows["height"]]), CHECK)  # fmt: skip
    assert (result.findings, result.skipped) == ((), ())


def test_a_model_that_is_sure_of_everything_tells_nothing() -> None:
    model = DecisionTreeClassifier().fit(*datasets.load_wine(return_X_y=True))
    features, labels = datasets.load_wine(return_X_y=True)
    [skipped] = scanned(features, labels, model.predict_proba, CHECK).skipped
    assert skipped.reason.startswith("the model is sure of every row")


def test_a_model_that_says_the_same_always_tells_nothing() -> None:
    features = people(100, 3)
    [skipped] = scanned(
        features, is_rich(features), lambda rows: np.tile([0.4, 0.6], (len(rows), 1)), CHECK
    ).skipped
    assert skipped.reason.startswith("the model is right no more often than ")


def test_labels_without_probabilities_are_skipped() -> None:
    features = people(100, 2)
    [skipped] = scanned(features, is_rich(features), is_rich, CHECK).skipped
    assert "no probabilities" in skipped.reason

"""The model of a scan is the one that is served, of the task that it has, whatever labels are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from mlflow_exec.errors import ScanError
from mlflow_exec.evaluation.arrays import Integers
from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.inputs import model_of
from mlflow_exec.evaluation.model import Model
from mlflow_exec.evaluation.outputs import Task
from mlflow_exec.evaluation.settings import ScanSettings

N_ROWS = 3_000
RNG = np.random.default_rng(0)
FEATURES = pd.DataFrame({"a": np.sort(RNG.normal(size=N_ROWS)), "b": RNG.normal(size=N_ROWS)})
LABELS = np.asarray(FEATURES["a"] + RNG.normal(0, 0.3, N_ROWS) > 0).astype(int)
MARKS = np.clip(np.round(5 + 2 * FEATURES["a"] + FEATURES["b"]), 1, 9).astype(int).to_numpy()


class Logged:
    """An estimator as `mlflow.pyfunc.load_model` returns it."""

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def predict(self, rows: Any) -> Any:
        return self.raw.predict(rows)

    def get_raw_model(self) -> Any:
        return self.raw


def of_estimator(raw: Any, labels: Any, features: Any = FEATURES) -> Model:
    return model_of(Logged(raw), Data(features, labels), ScanSettings())


def accuracy(model: Model) -> float:
    return float((np.asarray(model.outputs.codes) == np.asarray(model.labels)).mean())


def test_the_model_is_judged_by_the_classes_that_it_serves() -> None:
    """Its rows are sorted: all of the first 1,000 are the same class by any threshold."""
    strict = FixedThresholdClassifier(
        LogisticRegression(), threshold=0.999, response_method="predict_proba"
    ).fit(FEATURES, LABELS)
    model = of_estimator(strict, LABELS)
    assert accuracy(model) == strict.score(FEATURES, LABELS) < 0.7
    assert model.outputs.probabilities is None
    n_others = int((strict.predict(FEATURES) != strict.estimator_.predict(FEATURES)).sum())
    assert f"not the one that the model tells in {n_others} of {N_ROWS} rows" in (
        model.lacks_probabilities
    )


def test_one_row_of_another_class_is_enough_to_refuse_the_probabilities() -> None:
    proba = np.column_stack([1 - LABELS, LABELS]) * 0.8 + 0.1
    told = LABELS.copy()
    told[-1] = 1 - told[-1]
    data = Data(FEATURES, LABELS)

    def model(said: Integers) -> Model:
        return Model(
            lambda rows: said[rows.index], data, classes=[0, 1],
            probabilities=lambda rows: proba[rows.index],
        )  # fmt: skip

    kept, refused = model(LABELS), model(told)
    assert kept.outputs.probabilities is not None
    assert refused.outputs.probabilities is None
    assert (accuracy(kept), accuracy(refused)) == (1.0, 1 - 1 / N_ROWS)


def test_probabilities_that_fail_on_some_rows_are_not_asked_for() -> None:
    def fails(rows: pd.DataFrame) -> Any:
        raise ValueError("no")

    data = Data(FEATURES, LABELS)
    model = Model(
        lambda rows: LABELS[rows.index], data, classes=[0, 1], probabilities=fails
    )
    assert model.outputs.probabilities is None
    assert model.lacks_probabilities.endswith(f": it failed on {N_ROWS} rows: ValueError: no")
    assert accuracy(model) == 1.0


def test_an_estimator_settles_the_task() -> None:
    many = RNG.integers(0, 60, N_ROWS)
    features = FEATURES.assign(many=many)
    tree = of_estimator(DecisionTreeClassifier().fit(features, many), many, features)
    assert (tree.task, len(tree.classes)) == (Task.CLASSIFICATION, 60)
    line = of_estimator(LinearRegression().fit(FEATURES, MARKS), MARKS)
    assert (line.task, line.classes) == (Task.REGRESSION, ())
    scaled = make_pipeline(StandardScaler(), LinearRegression()).fit(FEATURES, LABELS)
    assert of_estimator(scaled, LABELS).task is Task.REGRESSION
    # It has classes, and no probabilities.
    vectors = of_estimator(LinearSVC().fit(FEATURES, LABELS), LABELS)
    assert (vectors.task, vectors.classes) == (Task.CLASSIFICATION, (0, 1))


def asked(labels: Any, answer: Any, **settings: Any) -> Model:
    answers = np.asarray(answer)
    return Model(lambda rows: answers[rows.index], Data(FEATURES, labels), **settings)


@pytest.mark.parametrize(("labels", "answer", "task"), [
    (MARKS, 5 + 2 * FEATURES["a"], Task.REGRESSION),
    (MARKS.astype(float), 5 + 2 * FEATURES["a"], Task.REGRESSION),
    (MARKS, MARKS.astype(float), Task.CLASSIFICATION),
    (LABELS, 1 / (1 + np.exp(-FEATURES["a"])), Task.CLASSIFICATION),
    (LABELS, 2 * FEATURES["a"], Task.REGRESSION),
    (LABELS, np.where(FEATURES["a"] > 2, np.nan, LABELS), Task.CLASSIFICATION),
    (FEATURES["a"], np.zeros(N_ROWS, dtype=int), Task.REGRESSION),
    (None, FEATURES["a"], Task.REGRESSION),
], ids=["marks", "marks as floats", "marks told", "a probability", "a score", "missing answers",
        "whole answers", "no labels"])  # fmt: skip
def test_answers_with_fractions_are_numbers_whatever_the_labels_are(
    labels: Any, answer: Any, task: Task
) -> None:
    assert asked(labels, answer).task is task


TRUTHS = LABELS.astype(bool)
WRITTEN: dict[str, tuple[Any, Any]] = {
    "texts and floats": (LABELS.astype(str), LABELS.astype(float)),
    "texts and numbers": (LABELS.astype(str), LABELS),
    "numbers and texts": (LABELS, LABELS.astype(str)),
    "numbers and texts of floats": (LABELS, LABELS.astype(float).astype(str)),
    "texts of floats and numbers": (LABELS.astype(float).astype(str), LABELS),
    "truths and texts": (TRUTHS, TRUTHS.astype(str)),
    "texts and truths": (TRUTHS.astype(str), TRUTHS),
    "truths and numbers": (TRUTHS, LABELS),
    "nullable and texts": (pd.array(LABELS, dtype="Int64"), LABELS.astype(str)),
    "one of two classes": (LABELS, np.array(["1"] * N_ROWS)),
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_labels_and_answers_are_one_however_they_are_written(kind: str) -> None:
    labels, answer = WRITTEN[kind]
    model = asked(labels, answer)
    assert len(model.classes) == 2
    right = LABELS.mean() if kind == "one of two classes" else 1.0
    assert accuracy(model) == pytest.approx(right)
    # As the labels have them.
    assert set(model.outputs.values) <= set(np.asarray(labels).tolist())


def test_classes_that_are_written_alike_stay_apart() -> None:
    codes = np.where(LABELS, "01", "1")
    model = asked(codes, codes)
    assert (model.classes, accuracy(model)) == (("01", "1"), 1.0)


@pytest.mark.parametrize(("labels", "answer", "settings", "says"), [
    (np.where(LABELS, "good", "bad"), LABELS, {}, "it says 0, 1; labels are 'bad', 'good'"),
    (LABELS, np.full(N_ROWS, 5), {}, "it says 5; labels are 0, 1"),
    (np.where(LABELS, "good", "bad"), np.tile([0.2, 0.8], (N_ROWS, 1)), {"classes": [0, 1]},
     "it says 0, 1; labels are 'bad', 'good'"),
    (np.where(LABELS, "good", "bad"), LABELS * 0.5 + 0.2, {"classes": [0, 1]},
     "it says 0, 1; labels are 'bad', 'good'"),
    (TRUTHS, FEATURES["a"], {}, "labels are False, True"),
], ids=["labels", "another class", "probabilities", "a probability", "scores"])  # fmt: skip
def test_answers_of_which_none_is_a_label_are_refused(
    labels: Any, answer: Any, settings: Any, says: str
) -> None:
    with pytest.raises(ScanError, match="none of its answers is a label") as refused:
        asked(labels, answer, **settings)
    assert says in str(refused.value)


def test_a_model_that_is_wrong_for_all_rows_is_judged_where_its_classes_are_known() -> None:
    model = asked(np.ones(N_ROWS, dtype=int), np.zeros(N_ROWS, dtype=int), classes=[0, 1])
    assert accuracy(model) == 0.0

"""What a model answered to some rows, beside the labels; and its metrics by name."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import get_scorer

from mlflow_exec.errors import ScanError
from mlflow_exec.evaluation.arrays import Floats, Integers, Mask, Values
from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.model import Model
from mlflow_exec.evaluation.outputs import Answer, Outputs, Task, encoded
from mlflow_exec.evaluation.outputs import numbers as numbers_of
from mlflow_exec.evaluation.performance import log_loss
from mlflow_exec.evaluation.suite.names import OWN, less_is_better


@dataclass(frozen=True, eq=False)
class Answers:
    """Labels and predictions of the same rows.

    Attributes:
        labels: Positions of classes, or numbers.
        predictions: In the same form.
        probabilities: Rows x classes, where the model tells them.
        n_classes: 0 of a regression.
        lacks_probabilities: Why there are none, in a classification.
    """

    labels: Values
    predictions: Values
    probabilities: Floats | None = None
    n_classes: int = 0
    lacks_probabilities: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def on(self, rows: Mask | Integers) -> Answers:
        """Return those of some rows."""
        table = None if self.probabilities is None else self.probabilities[rows]
        return replace(
            self, labels=self.labels[rows], predictions=self.predictions[rows], probabilities=table
        )

    def metric(self, name: str) -> float:
        """Return a metric.

        Raises:
            ScanError: It cannot be computed for these rows; the message says why.
        """
        if not len(self):
            raise ScanError("there are no rows")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what is undefined is NaN, and told as such
                figure = float(self._own(name) if name in OWN else self._scored(name))
        except (ValueError, TypeError, AttributeError) as error:
            raise ScanError(str(error).strip().splitlines()[0]) from error
        if not np.isfinite(figure):
            raise ScanError(f"it is {figure:g} for these rows")
        return figure

    def _own(self, name: str) -> float:
        if name == "log_loss":
            if self.probabilities is None:
                raise ScanError(self.lacks_probabilities)
            return log_loss(self.probabilities, self.labels)
        if self.n_classes:
            raise ScanError("it is for regressions")
        errors = np.abs(self.predictions - self.labels)
        if name == "mape":
            return float((errors / np.maximum(np.abs(self.labels), np.finfo(float).eps)).mean())
        squared = float((errors**2).mean())
        return {"mae": float(errors.mean()), "mse": squared, "rmse": float(np.sqrt(squared))}[name]

    def _scored(self, name: str) -> float:
        known = (_KnownClasses if self.n_classes else _KnownNumbers)(self)
        return float(get_scorer(name)(known, np.arange(len(self)), self.labels))


class _Known(BaseEstimator):  # type: ignore[misc]
    """Has scikit-learn's scorers judge answers that are known: its rows are their positions."""

    def __init__(self, answers: Any = None) -> None:
        self.answers = answers

    def predict(self, rows: Integers) -> Values:
        return np.asarray(self.answers.predictions[rows])


class _KnownNumbers(RegressorMixin, _Known):  # type: ignore[misc]
    pass


class _KnownClasses(ClassifierMixin, _Known):  # type: ignore[misc]
    """The positive one of two classes is the second."""

    def __init__(self, answers: Any = None) -> None:
        super().__init__(answers)
        self.classes_ = np.arange(answers.n_classes if answers is not None else 0)

    def predict_proba(self, rows: Integers) -> Floats:
        if self.answers.probabilities is None:
            raise ValueError(self.answers.lacks_probabilities)
        return np.asarray(self.answers.probabilities[rows], dtype=np.float64)


def answers_of(model: Model, labels: Values, outputs: Outputs) -> Answers:
    """Return the labels of a model's classes beside what it says."""
    if model.task is Task.REGRESSION:
        return Answers(labels, outputs.values)
    codes = np.asarray(outputs.codes)
    why = model.lacks_probabilities
    return Answers(labels, codes, outputs.probabilities, len(model.classes), why)


def labels_of(model: Model, data: Data) -> Values:
    """Return the labels of other rows in the form of `Model.labels`.

    Raises:
        ScanError: There are none, or they are not of the model.
    """
    if data.labels is None:
        raise ScanError("reference: it has no labels")
    if model.task is Task.REGRESSION:
        return numbers_of(Answer(data.labels), "reference: labels")
    codes = encoded(data.labels, model.classes)
    if (codes < 0).any():
        unknown = data.labels[codes < 0][0]
        raise ScanError(
            f"reference: its label {unknown!r} is none of the model's classes; name all of them by "
            "the setting 'classes'"
        )
    return codes


def loss_metric(answers: Answers) -> str:
    """Return the metric that tells most about small changes of the answers."""
    if not answers.n_classes:
        return "rmse"
    return "accuracy" if answers.probabilities is None else "log_loss"


def gain(metric: str, figure: float, other: float) -> float:
    """Return by how much a figure is better than another."""
    return other - figure if less_is_better(metric) else figure - other

"""What a suite measures beside the model's answers: a dummy's, and the time of an answer."""

from __future__ import annotations

import time

import numpy as np
from sklearn.dummy import DummyClassifier, DummyRegressor

from mlflow_exec.errors import ScanError
from mlflow_exec.evaluation.checks.base import Context
from mlflow_exec.evaluation.outputs import Task
from mlflow_exec.evaluation.suite.answers import Answers, labels_of

_OF_REGRESSIONS = ("mean", "median")


def dummy_answers(context: Context, strategy: str | None) -> Answers:
    """Return what a model would answer that knows the labels' frequencies only.

    It learns from the reference where there is one with labels, else from the data.

    Raises:
        ScanError: The strategy is not for this task.
    """
    model, data = context.model, context.data
    learnt = context.labels
    if data.reference is not None and data.reference.labels is not None:
        learnt = labels_of(model, data.reference)
    is_regression = model.task is Task.REGRESSION
    strategy = strategy or ("mean" if is_regression else "prior")
    if (strategy in _OF_REGRESSIONS) != is_regression:
        raise ScanError(f"the strategy {strategy!r} is not for a {model.task.value}")
    nothing, rows = np.zeros((len(learnt), 1)), np.zeros((len(data), 1))
    if is_regression:
        fitted = DummyRegressor(strategy=strategy).fit(nothing, learnt)
        return Answers(context.labels, np.asarray(fitted.predict(rows), dtype=np.float64))
    fitted = DummyClassifier(strategy=strategy, random_state=context.seed).fit(nothing, learnt)
    table = np.zeros((len(data), len(model.classes)))
    table[:, fitted.classes_] = fitted.predict_proba(rows)
    return Answers(context.labels, fitted.predict(rows), table, len(model.classes))


def times_ms(context: Context, n_rows: int, repeats: int) -> list[float]:
    """Return how long the model took for so many rows, each time; the first one is left out."""
    rows = context.data.rows(np.arange(n_rows) % len(context.data))
    context.model.predict(rows)
    found = []
    for _ in range(repeats):
        context.tick()
        begun = time.perf_counter()
        context.model.predict(rows)
        found.append((time.perf_counter() - begun) * 1000)
    return found

"""How good a model is on some rows: figures by stable names."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlflow_exec.evaluation.arrays import Floats, Integers
from mlflow_exec.evaluation.outputs import Task

if TYPE_CHECKING:
    from mlflow_exec.evaluation.checks.base import Context


def metrics_of(context: Context) -> dict[str, float]:
    """Return the model's figures on all rows; none where there are no labels."""
    if context.model.labels is None:
        return {}
    errors = context.errors
    if context.model.task is Task.REGRESSION:
        squared = float((errors**2).mean())
        figures = {"mae": float(errors.mean()), "rmse": float(np.sqrt(squared))}
        variance = float(np.var(context.labels))
        return figures | ({"r2": 1 - squared / variance} if variance else {})
    codes: Integers = context.labels
    figures = {"accuracy": 1 - float(errors.mean())}
    figures["balanced_accuracy"] = 1 - float(np.mean(errors_by_class(errors, codes)))
    if context.model.outputs.probabilities is not None:
        figures["log_loss"] = log_loss(context.probabilities, codes)
    return figures


def log_loss(probabilities: Floats, codes: Integers) -> float:
    """Return the mean surprise of the right classes, in nats."""
    right = probabilities[np.arange(len(codes)), codes]
    return float(-np.log(np.maximum(right, 1e-15)).mean())


def errors_by_class(errors: Floats, codes: Integers) -> Floats:
    """Return the mean error of each class that there are rows of."""
    counts = np.bincount(codes)
    sums = np.bincount(codes, errors)
    return np.asarray(sums[counts > 0] / counts[counts > 0], dtype=np.float64)

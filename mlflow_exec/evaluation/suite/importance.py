"""Permutation importance: what it costs to shuffle a feature (Breiman 2001)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mlflow_exec.evaluation.arrays import Values
from mlflow_exec.evaluation.checks.base import Context
from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.suite.answers import answers_of, gain, loss_metric


@dataclass(frozen=True)
class Sampling:
    """How importance is measured.

    Attributes:
        metric: What shuffling costs; None for the one that tells most.
        repeats: How often each feature is shuffled.
        max_rows: How many rows are drawn.
    """

    metric: str | None
    repeats: int
    max_rows: int


def importances(
    context: Context, data: Data, labels: Values, sampling: Sampling
) -> dict[str, float]:
    """Return how much worse the model is when a feature is shuffled; the most important first.

    Args:
        context: Of the scan.
        data: Its rows, or others with the same features.
        labels: In the form of `Model.labels`.
        sampling: How it is measured.

    Raises:
        OutOfTimeError: The scan's time is over.
        ScanError: The model fails, or the metric cannot be computed.
    """
    rng = context.rng("suite/importance")
    n_rows = min(sampling.max_rows, len(data))
    chosen = np.sort(rng.choice(len(data), n_rows, replace=False))
    rows, labels = data.rows(chosen), labels[chosen]
    model = context.model
    before = answers_of(model, labels, model.predict(rows))
    metric = sampling.metric or loss_metric(before)
    figure = before.metric(metric)
    found: dict[str, float] = {}
    for column in data.columns:
        losses = []
        for _ in range(sampling.repeats):
            context.tick()
            order = rng.permutation(n_rows)
            shuffled = rows.assign(**{
                column.name: rows[column.name].iloc[order].set_axis(rows.index)
            })
            answers = answers_of(model, labels, model.predict(shuffled))
            losses.append(gain(metric, figure, answers.metric(metric)))
        found[column.name] = float(np.mean(losses))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def first_ones(found: dict[str, float], n: int) -> list[str]:
    """Return the names of the most important features, without those that do not matter at all."""
    return [name for name, importance in list(found.items())[:n] if importance > 0]

"""Baseline: the model has to be better than one that knows nothing.

After Trubrics' validation against a dummy. Skill is 0 of a model that says the same, or anything by
chance, of every row, and 1 of a perfect one. Of a classification it is twice the area under the ROC
curve minus one, the mean of all classes (by the probabilities, and without them by the classes,
where it is 2 balanced accuracy - 1 of two): rare classes count as much as others. Of a regression
it is which part of the median's mean absolute error the model takes away.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import NormalDist

import numpy as np
from pydantic import Field

from mlflow_exec.evaluation.arrays import Integers, Mask
from mlflow_exec.evaluation.checks.base import Check, Context
from mlflow_exec.evaluation.findings import Finding, Severity
from mlflow_exec.evaluation.outputs import Task
from mlflow_exec.evaluation.statistics import area_under_roc
from mlflow_exec.settings import Settings

_LEAST_OF_CLASS = 5


class BaselineSettings(Settings):
    """Settings of the check `baseline`."""

    threshold: float = Field(
        default=0.05, ge=0, lt=1,
        description="A skill of so much has to be certain; else MEDIUM (our own: above 0, because "
        "among many rows any skill is certain).",
    )  # fmt: skip
    major: float = Field(
        default=0.2, gt=0, lt=1,
        description="MAJOR where, besides, it is certain that the skill is below this (our own).",
    )  # fmt: skip


class Baseline(Check[BaselineSettings]):
    """A model that is no better than chance."""

    name = "baseline"
    title = "Better than chance"
    settings_class = BaselineSettings

    def applies(self, context: Context) -> str | None:
        """It needs labels that differ."""
        reason = context.needs_labels()
        if reason is None and not _differ(context):
            return f"there is nothing to tell apart: fewer than {_LEAST_OF_CLASS} rows differ"
        return reason

    def run(self, context: Context) -> Iterator[Finding]:
        """Estimate the skill."""
        of_regression = context.model.task is Task.REGRESSION
        skill, error = (_of_numbers if of_regression else _of_classes)(context)
        half = NormalDist().inv_cdf(1 - context.alpha / 2) * error
        low, high = skill - half, min(skill + half, 1.0)
        if low >= self.settings.threshold:
            return
        yield self.finding(
            severity=Severity.MAJOR if high < self.settings.major else Severity.MEDIUM,
            title=f"the model is hardly better than chance: its skill is {skill:.2f}, "
            "where 1 is perfect and 0 the same answer to every row",
            metric="skill", figure=skill, interval=(low, high), size=len(context.data),
            examples=context.worst_rows(context.errors, context.errors > 0),
            details={"of": "absolute_error" if of_regression else "area_under_roc_curve"},
            advice="Are these the labels of these rows, and the features in the form that the "
            "model was trained with?",
        )  # fmt: skip


def _differ(context: Context) -> bool:
    if context.model.task is Task.REGRESSION:
        return bool(np.ptp(context.labels) > 0)
    counts = np.bincount(context.labels)
    return bool((_tellable(counts, len(context.labels))).any())


def _tellable(counts: Integers, n: int) -> Mask:
    return np.asarray((counts >= _LEAST_OF_CLASS) & (n - counts >= _LEAST_OF_CLASS))


def _of_classes(context: Context) -> tuple[float, float]:
    """Return the mean skill of the classes, and a standard error that it has at most."""
    labels, table = context.labels, context.model.outputs.probabilities
    codes = np.flatnonzero(_tellable(np.bincount(labels), len(labels)))
    skills = []
    for code in map(int, codes):
        context.tick()
        scores = np.asarray(context.model.outputs.codes) == code
        skills.append(
            area_under_roc(
                scores.astype(np.float64) if table is None else table[:, code], labels == code
            )
        )
    area, error = (float(mean) for mean in np.mean(skills, axis=0))
    return 2 * area - 1, 2 * error


def _of_numbers(context: Context) -> tuple[float, float]:
    """Return the skill and its standard error."""
    of_median = np.abs(context.labels - np.median(context.labels))
    won, scale = of_median - context.errors, float(of_median.mean())
    error = float(won.std(ddof=1)) / np.sqrt(len(won))
    return float(won.mean()) / scale, float(error / scale)

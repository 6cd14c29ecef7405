"""Spurious correlation: the model goes by a slice that has little to do with the labels.

Giskard 2.19 tells slices that go with the predictions (Theil's U, or Cramer's V, over 0.5), also
where the labels go with them just as well. Here slices are searched that go with the predictions
and not with the labels: the search is on a class' predictions minus its labels, and a slice is told
where the labels show less than a part of what the predictions show. Where the model tells
probabilities these are its predictions: a good model that has to choose says the likelier class of
every row, so that its classes go with a slice more than the labels do.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from mlflow_exec.evaluation.arrays import Floats, Mask
from mlflow_exec.evaluation.checks.base import Check, Context
from mlflow_exec.evaluation.findings import Finding, severity_of
from mlflow_exec.evaluation.outputs import Task
from mlflow_exec.evaluation.plots import percent, slice_plot
from mlflow_exec.evaluation.search import Found
from mlflow_exec.evaluation.statistics import cramers_v, difference_of_means
from mlflow_exec.settings import Settings


class SpuriousCorrelationSettings(Settings):
    """Settings of the check `spurious_correlation`."""

    threshold: float = Field(
        default=0.2, gt=0, lt=1,
        description="So much more has a class to be predicted in the slice than elsewhere, beyond "
        "what its labels show (0.2: twenty points). MEDIUM where it is certain; our own, so that "
        "small slices count, too: Giskard's U over 0.5 holds for large ones only.",
    )  # fmt: skip
    major: float = Field(
        default=0.5, gt=0, lt=1,
        description="MAJOR where so much is certain: the model then goes by nothing else.",
    )  # fmt: skip
    in_labels: float = Field(
        default=1 / 3, ge=0, le=1,
        description="What the labels show with at least this part of the strength is not spurious.",
    )  # fmt: skip
    max_classes: int = Field(
        default=5, gt=0, description="So many classes, those that are predicted most."
    )
    max_slices: int = Field(default=3, gt=0, description="So many slices per class at most.")


class SpuriousCorrelation(Check[SpuriousCorrelationSettings]):
    """Slices that predictions go by and labels do not."""

    name = "spurious_correlation"
    title = "Spurious correlation"
    settings_class = SpuriousCorrelationSettings

    def applies(self, context: Context) -> str | None:
        """It needs labels that are classes."""
        if context.model.task is not Task.CLASSIFICATION:
            return "it is for classifications"
        return context.needs_labels()

    def run(self, context: Context) -> Iterator[Finding]:
        """Search for each class the slices with more predictions of it than labels."""
        model = context.model
        table = model.outputs.probabilities
        if table is None:
            table = np.equal.outer(np.asarray(model.outputs.codes), np.arange(len(model.classes)))
        table = np.asarray(table, dtype=np.float64)
        most = np.argsort(-table.mean(axis=0), kind="stable")[: self.settings.max_classes]
        for code in map(int, most):
            context.progress(f"class {model.classes[code]}")
            said, true = table[:, code], (context.labels == code).astype(np.float64)
            slices = context.search.worst(
                said - true, context.rng(f"{self.name}/{code}"), alpha=context.alpha, pairs=False,
                most=self.settings.max_slices, scattered=True, tick=context.tick,
            )  # fmt: skip
            for found in slices:
                yield from self._finding(context, code, found, said, true)

    def _finding(
        self, context: Context, code: int, found: Found, said: Floats, true: Floats
    ) -> Iterator[Finding]:
        rows, settings = found.slice.mask, self.settings
        here, there = float(said[rows].mean()), float(said[~rows].mean())
        of_labels = float(true[rows].mean() - true[~rows].mean())
        least = min(here - there, here - there - of_labels)
        if least < settings.threshold or of_labels >= settings.in_labels * (here - there):
            return
        excess = said - true
        interval = difference_of_means(excess[rows], excess[~rows], found.level)
        name = context.model.classes[code]
        shown = repr(name) if isinstance(name, str) else str(name)
        predicted = np.equal(np.asarray(context.model.outputs.codes), code).astype(np.float64)
        yield self.finding(
            severity=severity_of(interval[0], settings.threshold, settings.major),
            title=f"{shown} is predicted of {percent(here)} where {found.slice}, and of "
            f"{percent(there)} elsewhere; it is so of {percent(float(true[rows].mean()))} and "
            f"{percent(float(true[~rows].mean()))}",
            metric="difference_of_predictions", figure=here - there, compared_to=of_labels,
            interval=interval, p_value=found.p_value, slice=found.slice, size=found.slice.size,
            examples=context.worst_rows(excess, rows),
            details={
                "class": str(name),
                "cramers_v": cramers_v(_table(rows, predicted)),
                "cramers_v_of_labels": cramers_v(_table(rows, true)),
                "theils_u": _theils_u(rows, predicted), "theils_u_of_labels": _theils_u(rows, true),
            },
            plot=slice_plot(context.data, found.slice, 100 * excess,
                            "predictions above labels, in points"),
            advice="Look whether the feature was a hint in the training data that the world does "
            "not have; leave it out, or weigh such rows.",
        )  # fmt: skip


def _table(rows: Mask, belongs: Floats) -> Floats:
    counts = np.bincount(rows.astype(np.int64) * 2 + belongs.astype(np.int64), minlength=4)
    return np.asarray(counts.reshape(2, 2) / len(rows), dtype=np.float64)


def _theils_u(rows: Mask, belongs: Floats) -> float:
    """Return which part of the uncertainty about being in the slice the class takes away."""
    table = _table(rows, belongs)
    of_rows = _entropy(table.sum(axis=1))
    if not of_rows:
        return 0.0
    return (of_rows + _entropy(table.sum(axis=0)) - _entropy(table.ravel())) / of_rows


def _entropy(shares: Floats) -> float:
    there = shares[shares > 0]
    return float(-(there * np.log(there)).sum())

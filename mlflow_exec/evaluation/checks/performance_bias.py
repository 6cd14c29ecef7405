"""Performance bias: slices of the data on which the model is worse than on the others.

As Giskard 2.19 has it (a slice is a finding from 5 % worse on, and major from 10 % on), with three
differences: the search is exhaustive and covers pairs of features (see `search`), every finding has
passed a test that is corrected for the search, and the severity is by the part of the difference
that is certain: the lower bound of an interval that is corrected for the search, too, so that small
slices do not look bad by chance.

A slice whose errors the model's own confidence tells is a step less severe (see `difficulty`):
where classes overlap every model errs, and a caller who reads the probabilities can know it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from pydantic import Field

from mlflow_exec.errors import ScanError
from mlflow_exec.evaluation.arrays import Floats, Mask
from mlflow_exec.evaluation.checks.base import Check, Context
from mlflow_exec.evaluation.findings import Finding, Plot, severity_of
from mlflow_exec.evaluation.outputs import Task
from mlflow_exec.evaluation.plots import percent, slice_plot
from mlflow_exec.evaluation.search import Found
from mlflow_exec.evaluation.slices import Slice
from mlflow_exec.evaluation.statistics import difference_of_means, difference_of_shares
from mlflow_exec.settings import Settings

Metric = Literal["accuracy", "balanced_accuracy", "precision", "recall", "mae", "mse"]
# Giskard: from this standard deviation of the classes' shares on, accuracy hides the small ones.
_UNBALANCED = 0.2
_OF_CLASSES = ("accuracy", "balanced_accuracy", "precision", "recall")


class PerformanceBiasSettings(Settings):
    """Settings of the check `performance_bias`."""

    metrics: tuple[Metric, ...] | None = Field(
        default=None,
        description="Of a classification `accuracy` (`balanced_accuracy` where the standard "
        "deviation of the classes' shares is over 0.2, after Giskard), `precision` and `recall` of "
        "the second of two classes; of a regression `mae` or `mse`. The first if not set.",
    )
    threshold: float = Field(
        default=0.05, gt=0, lt=1,
        description="So much worse has a slice to be, in the metric (0.05: five points of "
        "accuracy): Giskard's 5 %. MEDIUM where it is certain.",
    )  # fmt: skip
    major: float = Field(
        default=0.1, gt=0, lt=1,
        description="MAJOR where so much worse is certain: twice the threshold, as with Giskard.",
    )  # fmt: skip
    regression_threshold: float = Field(
        default=0.2, gt=0,
        description="The same for `mae` and `mse`, relative to the error elsewhere. More than for "
        "classes, because the noise of most quantities grows with the quantity.",
    )  # fmt: skip
    regression_major: float = Field(default=0.5, gt=0, description="MAJOR from there on.")
    pairs: bool = Field(default=True, description="Whether to look at pairs of features, too.")
    max_slices: int = Field(default=10, gt=0, description="So many slices per metric at most.")


@dataclass(frozen=True, eq=False)
class _Measure:
    """A metric as a loss per row.

    Attributes:
        name: Of the metric.
        losses: One per row; the slices are searched on it.
        rows: The rows that count.
    """

    name: str
    losses: Floats
    rows: Mask


class PerformanceBias(Check[PerformanceBiasSettings]):
    """Slices on which the model is worse."""

    name = "performance_bias"
    title = "Performance on slices"
    settings_class = PerformanceBiasSettings

    def applies(self, context: Context) -> str | None:
        """It needs labels."""
        return context.needs_labels()

    def run(self, context: Context) -> Iterator[Finding]:
        """Search slices for each metric."""
        for measure in self._measures(context):
            context.progress(measure.name)
            slices = context.search.worst(
                measure.losses, context.rng(f"{self.name}/{measure.name}"), rows=measure.rows,
                alpha=context.alpha, pairs=self.settings.pairs, most=self.settings.max_slices,
                tick=context.tick,
            )  # fmt: skip
            for found in slices:
                yield from self._finding(context, measure, found)

    def _measures(self, context: Context) -> list[_Measure]:
        errors, every = context.errors, np.ones(len(context.data), dtype=np.bool_)
        default = "mae"
        if context.model.task is Task.REGRESSION:
            known = {"mae": _Measure("mae", errors, every)}
            known["mse"] = _Measure("mse", errors**2, every)
        else:
            shares = np.bincount(context.labels) / len(context.labels)
            default = "balanced_accuracy" if shares.std() > _UNBALANCED else "accuracy"
            known = {
                "accuracy": _Measure("accuracy", errors, every),
                "balanced_accuracy": _Measure(
                    "balanced_accuracy", _balanced(errors, context), every
                ),
            }
            if len(context.model.classes) == 2:
                said = np.asarray(context.model.outputs.codes == 1)
                known["precision"] = _Measure("precision", errors, said)
                known["recall"] = _Measure("recall", errors, np.asarray(context.labels == 1))
        chosen = self.settings.metrics or (default,)
        for name in chosen:
            if name not in known:
                raise ScanError(
                    f"metrics: {name} is not for this model; given a {context.model.task.value} "
                    f"with {len(context.model.classes)} classes. Known for it: {', '.join(known)}"
                )
        return [known[name] for name in chosen]

    def _finding(self, context: Context, measure: _Measure, found: Found) -> Iterator[Finding]:
        slice_ = found.slice
        inside, outside = measure.rows & slice_.mask, measure.rows & ~slice_.mask
        if not inside.any() or not outside.any():
            return
        of_classes = measure.name in _OF_CLASSES
        figure, compared, interval = _compared(context, measure, inside, outside, found.level)
        worse = compared - figure if of_classes else figure / compared - 1 if compared else np.inf
        settings = self.settings
        major = settings.major if of_classes else settings.regression_major
        least = settings.threshold if of_classes else settings.regression_threshold
        if worse < least:
            return
        severity = severity_of(interval[0], least, major)
        told = _told(context, inside, outside)
        if severity_of(interval[0] - told, least, major).rank > severity.rank:
            severity = severity.lowered
        shown = [percent(f) if of_classes else f"{f:.4g}" for f in (figure, compared)]
        yield self.finding(
            severity=severity,
            title=f"{measure.name.replace('_', ' ')} is {shown[0]} where {slice_}, "
            f"and {shown[1]} elsewhere",
            metric=measure.name, figure=figure, compared_to=compared, interval=interval,
            p_value=found.p_value, slice=slice_, size=int(inside.sum()),
            examples=context.worst_rows(context.errors, inside),
            details={"worse": float(worse), "told_by_confidence": told, "relative": not of_classes},
            plot=_plot(context, measure, slice_),
            advice="Look at the example rows: are they labelled right, and were there enough such "
            "rows to learn from?",
        )  # fmt: skip


def _balanced(errors: Floats, context: Context) -> Floats:
    """Return by how much each row's error is above that of its class, small classes weighing more.

    So a slice is not bad because it has many rows of a class that is hard everywhere.
    """
    codes = context.labels
    counts = np.bincount(codes)
    mean = np.bincount(codes, errors) / np.maximum(counts, 1)
    weight = len(codes) / (np.maximum(counts, 1) * (counts > 0).sum())
    return np.asarray((errors - mean[codes]) * weight[codes], dtype=np.float64)


def _compared(
    context: Context, measure: _Measure, inside: Mask, outside: Mask, alpha: float
) -> tuple[float, float, tuple[float, float]]:
    """Return the metric inside and outside of a slice, and the interval of how much worse it is."""
    losses = context.errors
    if measure.name == "balanced_accuracy":
        return _balanced_accuracies(context, inside, outside, alpha)
    if measure.name in _OF_CLASSES:
        wrong, wrong_outside = int(losses[inside].sum()), int(losses[outside].sum())
        n, n_outside = int(inside.sum()), int(outside.sum())
        interval = difference_of_shares(wrong, n, wrong_outside, n_outside, alpha)
        return 1 - wrong / n, 1 - wrong_outside / n_outside, interval
    one, other = measure.losses[inside], measure.losses[outside]
    low, high = difference_of_means(one, other, alpha)
    elsewhere = float(other.mean())
    scale = elsewhere or float(np.finfo(np.float64).tiny)
    return float(one.mean()), elsewhere, (low / scale, high / scale)


def _balanced_accuracies(
    context: Context, inside: Mask, outside: Mask, alpha: float
) -> tuple[float, float, tuple[float, float]]:
    """Over the classes that are on both sides."""
    figures: list[tuple[float, float]] = []
    variance = 0.0
    for code in range(len(context.model.classes)):
        of_class = context.labels == code
        here, there = context.errors[inside & of_class], context.errors[outside & of_class]
        if len(here) and len(there):
            figures.append((1 - float(here.mean()), 1 - float(there.mean())))
            # With one more of each sort, as Agresti and Coull do: a few right rows prove little.
            for errors in (here, there):
                share = (errors.sum() + 1) / (len(errors) + 2)
                variance += share * (1 - share) / (len(errors) + 2)
    if not figures:
        return 1.0, 1.0, (0.0, 0.0)
    figure, compared = (float(np.mean(side)) for side in zip(*figures, strict=True))
    z = NormalDist().inv_cdf(1 - alpha / 2)
    half = z * float(np.sqrt(variance)) / len(figures)
    return figure, compared, (compared - figure - half, compared - figure + half)


def _told(context: Context, inside: Mask, outside: Mask) -> float:
    """Return which part of a difference in errors the confidence tells; 0 of a regression."""
    expected = context.expected_errors
    return max(float(expected[inside].mean() - expected[outside].mean()), 0.0)


def _plot(context: Context, measure: _Measure, slice_: Slice) -> Plot | None:
    losses = np.where(measure.rows, measure.losses, np.nan)
    if measure.name in _OF_CLASSES:
        losses = np.where(measure.rows, context.errors, np.nan)
        return slice_plot(context.data, slice_, 100 * losses, "errors in %")
    title = "absolute error" if measure.name == "mae" else "squared error"
    return slice_plot(context.data, slice_, losses, title)

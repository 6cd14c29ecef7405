"""Calibration: on all rows the model is surer, or less sure, than it is right.

The rows are put in bins of as many rows each by the confidence of their predictions. The expected
calibration error (Naeini, Cooper and Hauskrecht, 2015), the mean distance of confidence and
accuracy, is above zero for perfect models, too. So it is compared with that of labels which are
drawn by the probabilities themselves (Vaicenavicius et al., 2019), the figure is without that bias
(Kumar, Liang and Ma, 2019), and the severity is by the part of each bin's distance that is certain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from pydantic import Field

from mlflow_exec.evaluation.arrays import Floats, Integers
from mlflow_exec.evaluation.checks.base import Check, Context
from mlflow_exec.evaluation.confidence import confidence_of
from mlflow_exec.evaluation.findings import Finding, Plot, Severity, severity_of
from mlflow_exec.evaluation.plots import percent
from mlflow_exec.evaluation.statistics import wilson
from mlflow_exec.settings import Settings

_MAX_ROWS = 20_000
_DRAWS = 999
_CELLS = 2_000_000  # drawn at a time: 16 MB


class CalibrationSettings(Settings):
    """Settings of the check `calibration`."""

    n_bins: int = Field(
        default=15, gt=1,
        description="Of confidences (Guo et al., 2017: 15), each with about 20 rows at least.",
    )  # fmt: skip
    threshold: float = Field(
        default=0.05, gt=0, lt=1,
        description="MEDIUM where an error of so much is certain (0.05: five points). Of networks "
        "before calibration it is 0.04 to 0.16 (Guo et al., table 1).",
    )  # fmt: skip
    major: float = Field(
        default=0.15, gt=0, lt=1,
        description="MAJOR where so much is certain of a model that is too sure: as much as the "
        "worst of them. A model that is not sure enough is MEDIUM at most.",
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Bins:
    """Confidence and accuracy by bins of rows.

    Attributes:
        codes: The bin of each row.
        counts: Rows of each.
        confidence: Its mean in each.
        accuracy: In each.
    """

    codes: Integers
    counts: Floats
    confidence: Floats
    accuracy: Floats

    @property
    def weights(self) -> Floats:
        return np.asarray(self.counts / self.counts.sum(), dtype=np.float64)


class Calibration(Check[CalibrationSettings]):
    """A model whose confidence is not its accuracy."""

    name = "calibration"
    title = "Calibration"
    settings_class = CalibrationSettings

    def applies(self, context: Context) -> str | None:
        """It needs labels and probabilities."""
        return context.needs_labels() or context.needs_probabilities()

    def run(self, context: Context) -> Iterator[Finding]:
        """Compare confidence and accuracy, and both with what chance makes of them."""
        confidence, right = confidence_of(context), 1 - context.errors
        bins = _bins(confidence, right, self.settings.n_bins)
        gap = float(confidence.mean() - right.mean())
        interval = _interval(bins, context.alpha)
        severity = severity_of(interval[0], self.settings.threshold, self.settings.major)
        if gap <= 0 and severity is Severity.MAJOR:
            severity = Severity.MEDIUM
        error = _debiased(bins)
        yield self.finding(
            severity=severity,
            title=f"the model is too {'sure' if gap > 0 else 'unsure'} of itself: its confidence "
            f"is {percent(float(confidence.mean()))} on average, its accuracy "
            f"{percent(float(right.mean()))}",
            metric="calibration_error", figure=error, compared_to=0.0, interval=interval,
            p_value=self._p_value(context, confidence, right), size=len(right),
            examples=context.worst_rows(confidence, right == 0) if gap > 0
            else context.worst_rows(1 - confidence, right == 1),
            details={
                "expected_calibration_error": _error(bins), "n_bins": len(bins.counts),
                "confidence": float(confidence.mean()), "accuracy": float(right.mean()),
            },
            plot=_plot(bins),
            advice="Calibrate the probabilities on rows that were not learnt from, for instance "
            "by scikit-learn's CalibratedClassifierCV.",
        )  # fmt: skip

    def _p_value(self, context: Context, confidence: Floats, right: Floats) -> float:
        """Return how often labels drawn by the probabilities have such an error."""
        rng = context.rng(self.name)
        if len(right) > _MAX_ROWS:
            chosen = rng.choice(len(right), _MAX_ROWS, replace=False)
            confidence, right = confidence[chosen], right[chosen]
        bins = _bins(confidence, right, self.settings.n_bins)
        order = np.argsort(bins.codes, kind="stable")
        starts = np.searchsorted(bins.codes[order], np.arange(len(bins.counts)))
        sums, probability = bins.confidence * bins.counts, confidence[order].astype(np.float32)
        observed = _error(bins) - 1e-9
        as_high, left = 0, _DRAWS
        while left:
            context.tick()
            n = min(max(_CELLS // len(right), 1), left)
            drawn = rng.random((n, len(right)), dtype=np.float32) < probability
            hits = np.add.reduceat(drawn, starts, axis=1, dtype=np.int64)
            errors = np.abs(hits - sums).sum(axis=1) / len(right)
            as_high, left = as_high + int((errors >= observed).sum()), left - n
        return (as_high + 1) / (_DRAWS + 1)


def _bins(confidence: Floats, right: Floats, n_bins: int, least: int = 20) -> _Bins:
    """Cut rows into bins of as many rows; rows of the same confidence stay together."""
    n_bins = max(min(n_bins, len(right) // least), 1)
    edges = np.unique(np.quantile(confidence, np.arange(1, n_bins) / n_bins))
    found = np.unique(np.searchsorted(edges, confidence, side="right"), return_inverse=True)[1]
    codes = found.astype(np.int64)
    counts = np.bincount(codes).astype(np.float64)
    return _Bins(
        codes, counts, np.bincount(codes, confidence) / counts, np.bincount(codes, right) / counts
    )


def _error(bins: _Bins) -> float:
    """Return the expected calibration error as it is."""
    return float((bins.weights * np.abs(bins.confidence - bins.accuracy)).sum())


def _debiased(bins: _Bins) -> float:
    """Return the root mean square distance without what chance adds to it."""
    noise = bins.accuracy * (1 - bins.accuracy) / np.maximum(bins.counts - 1, 1)
    squared = (bins.weights * ((bins.confidence - bins.accuracy) ** 2 - noise)).sum()
    return float(np.sqrt(max(squared, 0.0)))


def _interval(bins: _Bins, alpha: float) -> tuple[float, float]:
    """Return the mean distance that is certain, and that which is possible, of all bins at once."""
    low = high = 0.0
    for count, confidence, accuracy, weight in zip(
        bins.counts, bins.confidence, bins.accuracy, bins.weights, strict=True
    ):
        n = int(count)
        least, most = wilson(round(accuracy * n), n, alpha / len(bins.counts))
        low += weight * max(least - confidence, confidence - most, 0.0)
        high += weight * max(confidence - least, most - confidence)
    return float(low), float(high)


def _plot(bins: _Bins) -> Plot:
    shown = tuple(float(confidence) for confidence in 100 * bins.confidence)
    accuracy = tuple(float(accuracy) for accuracy in 100 * bins.accuracy)
    return Plot("line", "confidence in %", "accuracy in %", shown,
                {"accuracy": accuracy, "calibrated": shown})  # fmt: skip

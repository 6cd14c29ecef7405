"""Over-confidence: slices where the model is surer than it is right, more so than elsewhere.

Giskard 2.19 counts confident errors among the wrong rows of a slice. That finds every slice on
which a good model is rightly sure, because its few errors there are confident ones. Here the
confidence of all rows is held against their errors (see `confidence`); the share of confident
errors is a detail of a finding.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from mlflow_exec.evaluation.arrays import Floats, Mask
from mlflow_exec.evaluation.checks.base import Check, Context
from mlflow_exec.evaluation.confidence import GapSettings, confidence_of, gaps, needs_confidence
from mlflow_exec.evaluation.findings import Finding, severity_of
from mlflow_exec.evaluation.plots import percent, slice_plot


class OverconfidenceSettings(GapSettings):
    """Settings of the check `overconfidence`."""

    threshold: float = Field(
        default=0.05, gt=0, lt=1,
        description="By so much has the confidence to be above the accuracy (0.05: five points), "
        "more than elsewhere. MEDIUM where it is certain, for whichever slice of the search.",
    )  # fmt: skip
    major: float = Field(
        default=0.1, gt=0, lt=1,
        description="MAJOR where so much is certain: twice the threshold, as with Giskard.",
    )  # fmt: skip
    p_threshold: float | None = Field(
        default=None, gt=0, lt=1,
        description="An error is a confident one where the predicted class has so much more "
        "probability than the right one; 1 / (2 + 0.3 (n - 2) - 0.001 (n - 2)^2) of n classes "
        "where it is not set (Giskard).",
    )  # fmt: skip
    max_slices: int = Field(default=5, gt=0, description="So many slices at most.")


class Overconfidence(Check[OverconfidenceSettings]):
    """Slices on which the model is too sure of itself."""

    name = "overconfidence"
    title = "Over-confidence"
    settings_class = OverconfidenceSettings

    def applies(self, context: Context) -> str | None:
        """It needs labels, and probabilities that are not the same for all rows."""
        return needs_confidence(context)

    def run(self, context: Context) -> Iterator[Finding]:
        """Search slices with more errors than the confidence promises."""
        settings = self.settings
        surplus = confidence_of(context) - 1 + context.errors
        confident = self._confident_errors(context)
        for found, gap in gaps(context, context.rng(self.name), settings, too_sure=True):
            severity = severity_of(gap.certain, settings.threshold, settings.major)
            rows = found.slice.mask
            yield self.finding(
                severity=severity,
                title=f"the model is sure of {percent(1 - gap.promised)} where {found.slice}, "
                f"and right in {percent(1 - gap.share)}",
                metric="excess_confidence", figure=gap.figure, compared_to=gap.elsewhere,
                interval=gap.interval, p_value=found.p_value, slice=found.slice,
                size=found.slice.size, examples=context.worst_rows(surplus, rows),
                details={
                    "confidence": 1 - gap.promised, "accuracy": 1 - gap.share,
                    "confident_errors": _share(confident, rows),
                    "confident_errors_elsewhere": _share(confident, ~rows),
                },
                plot=slice_plot(context.data, found.slice, 100 * surplus,
                                "confidence above accuracy, in points"),
                advice="Calibrate the probabilities, with enough such rows among those that it is "
                "done on.",
            )  # fmt: skip

    def _confident_errors(self, context: Context) -> Floats:
        """Return for each wrong row whether it is a confident error; NaN for right ones."""
        beyond = len(context.model.classes) - 2
        limit = self.settings.p_threshold or 1 / max(0.3 * beyond + 2 - 0.001 * beyond**2, 2)
        table = context.probabilities
        # Of labels that the model does not know it says nothing: that is a probability of zero.
        right = table[np.arange(len(table)), context.labels]
        wrong = context.errors > 0
        return np.where(wrong, (table.max(axis=1) - right > limit).astype(np.float64), np.nan)


def _share(confident: Floats, rows: Mask) -> float | None:
    inside = confident[rows & ~np.isnan(confident)]
    return float(inside.mean()) if len(inside) else None

"""Under-confidence: slices where the model is less sure than it is right, or cannot decide.

What Giskard 2.19 calls so, that the second class is nearly as probable as the first, is where
classes overlap: good to know, and no fault. A fault are slices where the model is right more often
than its confidence says, compared with the other rows (see `confidence`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from mlflow_exec.evaluation.arrays import Floats
from mlflow_exec.evaluation.checks.base import Check, Context
from mlflow_exec.evaluation.confidence import GapSettings, confidence_of, gaps, needs_confidence
from mlflow_exec.evaluation.findings import Finding, Severity, severity_of
from mlflow_exec.evaluation.plots import percent, slice_plot
from mlflow_exec.evaluation.search import Found
from mlflow_exec.evaluation.statistics import difference_of_shares


class UnderconfidenceSettings(GapSettings):
    """Settings of the check `underconfidence`."""

    threshold: float = Field(
        default=0.05, gt=0, lt=1,
        description="By so much has the accuracy to be above the confidence (0.05: five points), "
        "more than elsewhere. MEDIUM where it is certain, for whichever slice of the search.",
    )  # fmt: skip
    major: float = Field(
        default=0.2, gt=0, lt=1,
        description="MAJOR where so much is certain: more than for over-confidence, which does "
        "more harm.",
    )  # fmt: skip
    undecided: float = Field(
        default=0.95, gt=0, lt=1,
        description="A row is undecided where the second class has so much of the first one's "
        "probability (Giskard: 0.95). Slices with many such rows are MINOR.",
    )  # fmt: skip
    undecided_threshold: float = Field(
        default=0.1, gt=0, lt=1,
        description="So many more undecided rows has a slice to have (Giskard: 10 %).",
    )
    max_slices: int = Field(default=5, gt=0, description="So many slices of each sort at most.")


class Underconfidence(Check[UnderconfidenceSettings]):
    """Slices on which the model is not sure enough."""

    name = "underconfidence"
    title = "Under-confidence"
    settings_class = UnderconfidenceSettings

    def applies(self, context: Context) -> str | None:
        """It needs labels, and probabilities that are not the same for all rows."""
        return needs_confidence(context)

    def run(self, context: Context) -> Iterator[Finding]:
        """Search slices with more right answers than promised, then such without decisions."""
        settings = self.settings
        deficit = 1 - context.errors - confidence_of(context)
        for found, gap in gaps(context, context.rng(self.name), settings, too_sure=False):
            severity = severity_of(gap.certain, settings.threshold, settings.major)
            yield self.finding(
                severity=severity,
                title=f"the model is sure of {percent(gap.promised)} only where {found.slice}, "
                f"and right in {percent(gap.share)}",
                metric="missing_confidence", figure=gap.figure, compared_to=gap.elsewhere,
                interval=gap.interval, p_value=found.p_value, slice=found.slice,
                size=found.slice.size, examples=context.worst_rows(deficit, found.slice.mask),
                details={"confidence": gap.promised, "accuracy": gap.share},
                plot=slice_plot(context.data, found.slice, 100 * deficit,
                                "accuracy above confidence, in points"),
                advice="Calibrate the probabilities, with enough such rows among those that it is "
                "done on.",
            )  # fmt: skip
        yield from self._undecided(context)

    def _undecided(self, context: Context) -> Iterator[Finding]:
        context.progress("undecided rows")
        ratio = _second_to_first(context.probabilities)
        undecided = (ratio > self.settings.undecided).astype(np.float64)
        slices = context.search.worst(
            undecided, context.rng(f"{self.name}/undecided"), alpha=context.alpha, pairs=False,
            most=self.settings.max_slices, tick=context.tick,
        )  # fmt: skip
        for found in slices:
            yield from self._undecided_slice(context, found, undecided, ratio)

    def _undecided_slice(
        self, context: Context, found: Found, undecided: Floats, ratio: Floats
    ) -> Iterator[Finding]:
        rows = found.slice.mask
        share, elsewhere = float(undecided[rows].mean()), float(undecided[~rows].mean())
        if share - elsewhere < self.settings.undecided_threshold:
            return
        n, n_elsewhere = int(rows.sum()), int((~rows).sum())
        yield self.finding(
            severity=Severity.MINOR,
            title=f"{percent(share)} of the rows are undecided where {found.slice}, "
            f"and {percent(elsewhere)} elsewhere",
            metric="share_of_undecided_rows", figure=share, compared_to=elsewhere,
            interval=difference_of_shares(
                round(share * n), n, round(elsewhere * n_elsewhere), n_elsewhere, found.level),
            p_value=found.p_value, slice=found.slice, size=n,
            examples=context.worst_rows(ratio, rows),
            details={"accuracy": 1 - float(context.errors[rows].mean())},
            plot=slice_plot(context.data, found.slice, 100 * undecided, "undecided rows in %"),
            advice="The features do not tell the classes apart there: others may, or such rows "
            "are for a person to decide.",
        )  # fmt: skip


def _second_to_first(probabilities: Floats) -> Floats:
    """Return the second highest probability of each row as a share of the highest one."""
    if probabilities.shape[1] < 2:
        return np.zeros(len(probabilities))
    highest = np.partition(probabilities, -2, axis=1)[:, -2:]
    return np.asarray(highest[:, 0] / np.maximum(highest[:, 1], 1e-12), dtype=np.float64)

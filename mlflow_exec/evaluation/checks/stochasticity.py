"""Stochasticity: the model says something else when it is asked about the same rows again.

As Giskard 2.19 has it (any difference is MEDIUM), and MAJOR where the predictions themselves are
others: nothing that is measured of such a model holds.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field

from mlflow_exec.evaluation.changes import RELATIVE_CHANGE, ROUNDING, change, differ, spread_of
from mlflow_exec.evaluation.checks.base import Check, Context
from mlflow_exec.evaluation.findings import Finding, Severity
from mlflow_exec.evaluation.plots import percent
from mlflow_exec.evaluation.statistics import wilson
from mlflow_exec.settings import Settings


class StochasticitySettings(Settings):
    """Settings of the check `stochasticity`."""

    n_rows: int = Field(
        default=1_000, gt=1,
        description="So many rows are asked about twice (Giskard: 100, which miss rare "
        "differences).",
    )  # fmt: skip
    tolerance: float = Field(
        default=ROUNDING, ge=0,
        description="Relative difference of numbers that counts as none (as in `numpy.isclose`).",
    )  # fmt: skip
    relative_change: float = Field(
        default=RELATIVE_CHANGE, gt=0,
        description="From this relative difference on a regression's prediction is another one "
        "(Giskard's 5 % of robustness); of a classification it is the class.",
    )  # fmt: skip
    major: float = Field(
        default=0.01, gt=0, lt=1,
        description="MAJOR where it is certain that so many predictions are others, so that "
        "single ties do not count; MEDIUM for any difference (Giskard).",
    )  # fmt: skip


class Stochasticity(Check[StochasticitySettings]):
    """Rows whose predictions differ from one time to the next."""

    name = "stochasticity"
    title = "Stochasticity"
    settings_class = StochasticitySettings

    def applies(self, context: Context) -> str | None:
        """It asks the model."""
        return context.needs_predictions()

    def run(self, context: Context) -> Iterator[Finding]:
        """Ask about the same rows twice."""
        settings = self.settings
        n_rows = min(settings.n_rows, len(context.data))
        rng = context.rng(self.name)
        chosen = np.sort(rng.choice(len(context.data), n_rows, replace=False))
        first = context.model.predict(context.data.rows(chosen))
        context.tick()
        second = context.model.predict(context.data.rows(chosen))
        spread = spread_of(context.model.outputs)
        others = change(first, second, spread, settings.relative_change)
        different = differ(first, second, settings.tolerance) | others
        n_different, n_others = int(different.sum()), int(others.sum())
        if not n_different:
            return
        certain, _ = wilson(n_others, n_rows, context.alpha)
        shown = others if n_others else different
        yield self.finding(
            severity=Severity.MAJOR if certain >= settings.major else Severity.MEDIUM,
            title=f"{percent(n_different / n_rows)} of the rows get another answer when they are "
            f"asked about again, {percent(n_others / n_rows)} another prediction",
            metric="share_of_different_answers", figure=n_different / n_rows, compared_to=0.0,
            interval=wilson(n_different, n_rows, context.alpha), size=n_different,
            examples=tuple(int(position) for position in chosen[shown][:5]),
            details={"n_rows": n_rows, "share_of_other_predictions": n_others / n_rows},
            advice="Set the seeds of what is drawn in predict, and switch layers such as dropout "
            "to inference.",
        )  # fmt: skip

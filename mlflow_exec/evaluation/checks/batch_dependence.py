"""Batch dependence: what the model says about a row depends on the rows that are asked with it.

Such a model uses knowledge of its test data (a scaler fitted in `predict`, a batch norm that was
left in training mode), so its test results do not hold where rows come one by one. As Giskard's
"data leakage": 100 rows, each alone and in a batch; any difference is a fault.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field
from threadpoolctl import threadpool_limits

from mlflow_exec.evaluation.changes import ROUNDING, differ
from mlflow_exec.evaluation.checks.base import Check, Context
from mlflow_exec.evaluation.findings import Finding, Severity
from mlflow_exec.evaluation.outputs import Outputs
from mlflow_exec.evaluation.plots import percent
from mlflow_exec.evaluation.statistics import wilson
from mlflow_exec.settings import Settings


class BatchDependenceSettings(Settings):
    """Settings of the check `batch_dependence`."""

    n_rows: int = Field(
        default=100, gt=1, description="So many rows are asked about one by one (Giskard: 100)."
    )
    tolerance: float = Field(
        default=ROUNDING, ge=0,
        description="Relative difference of numbers that counts as none (as in `numpy.isclose`).",
    )  # fmt: skip


class BatchDependence(Check[BatchDependenceSettings]):
    """Rows whose predictions depend on the other rows."""

    name = "batch_dependence"
    title = "Dependence on the batch"
    settings_class = BatchDependenceSettings

    def applies(self, context: Context) -> str | None:
        """It asks the model."""
        return context.needs_predictions()

    def run(self, context: Context) -> Iterator[Finding]:
        """Ask about some rows together and alone."""
        n_rows = min(self.settings.n_rows, len(context.data))
        chosen = np.sort(
            context.rng(self.name).choice(len(context.data), n_rows, replace=False)
        )
        rows = context.data.rows(chosen)
        together, again = context.model.predict(rows), context.model.predict(rows)
        if differ(together, again, self.settings.tolerance).any():
            return  # It says something else each time: that is another check's (stochasticity).
        alone = []
        with threadpool_limits(1):  # a row is no work for two: they would wait for each other
            for position in range(n_rows):
                context.tick()
                alone.append(context.model.predict(rows.iloc[[position]]))
        differs = differ(together, _joined(alone), self.settings.tolerance)
        n_different = int(differs.sum())
        if not n_different:
            return
        low, high = wilson(n_different, n_rows, context.alpha)
        yield self.finding(
            severity=Severity.MAJOR,
            title=f"{percent(n_different / n_rows)} of the predictions differ when rows are asked "
            f"one by one ({n_different} of {n_rows})",
            metric="share_of_different_predictions", figure=n_different / n_rows, compared_to=0.0,
            interval=(low, high), size=n_different,
            examples=tuple(int(position) for position in chosen[differs][:5]),
            details={"n_rows": n_rows},
            advice="Look for statistics that are computed in predict, such as a scaler that is "
            "fitted there, or a layer that was left in training mode.",
        )  # fmt: skip


def _joined(outputs: list[Outputs]) -> Outputs:
    first = outputs[0]
    return Outputs(
        np.concatenate([o.values for o in outputs]),
        None if first.codes is None else np.concatenate([o.codes for o in outputs]),
        None if first.probabilities is None else np.concatenate(
            [o.probabilities for o in outputs]),
    )  # fmt: skip

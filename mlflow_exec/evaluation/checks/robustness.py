"""Robustness: predictions that change when the values hardly do.

The metamorphic tests of Giskard 2.19: numbers 1 % higher or lower or with a little noise, texts in
capitals, with typos and so on. A finding is a share of changed predictions that is certain to be
over the threshold; the noise is in standard deviations of the column (Giskard: 0.01 as it is),
whole numbers stay whole, and values move by 0.05 standard deviations at most, within the range of
the data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from pydantic import Field, field_validator
from scipy import stats

from mlflow_exec.evaluation.arrays import Integers, Mask
from mlflow_exec.evaluation.changes import RELATIVE_CHANGE, change, spread_of
from mlflow_exec.evaluation.checks.base import Check, Context
from mlflow_exec.evaluation.data import Column, Kind
from mlflow_exec.evaluation.findings import Finding, Plot, severity_of
from mlflow_exec.evaluation.outputs import Outputs
from mlflow_exec.evaluation.perturbations import (
    OF_NUMBERS,
    OF_TEXTS,
    can_change,
    changed_numbers,
    changed_texts,
)
from mlflow_exec.evaluation.plots import percent
from mlflow_exec.evaluation.statistics import wilson
from mlflow_exec.settings import Settings

_MAX_COLUMNS = 100  # are looked at one by one, when something was found with all of them
_BARS = 12
_LEAST_ROWS = 20


class RobustnessSettings(Settings):
    """Settings of the check `robustness`."""

    threshold: float = Field(
        default=0.05, gt=0, lt=1,
        description="MEDIUM where it is certain that so many predictions change (Giskard: 5 %).",
    )  # fmt: skip
    major: float = Field(
        default=0.1, gt=0, lt=1,
        description="MAJOR where so many are certain to (Giskard: 10 %).",
    )  # fmt: skip
    relative_change: float = Field(
        default=RELATIVE_CHANGE, gt=0,
        description="From this relative difference on a regression's prediction is another one "
        "(Giskard: 5 %); of a classification it is the class.",
    )  # fmt: skip
    n_rows: int = Field(
        default=1_000, gt=1, description="So many rows are changed at most (Giskard: 1,000)."
    )
    perturbations: tuple[str, ...] = Field(
        default=(*OF_NUMBERS, *OF_TEXTS),
        description="What is tried: of numbers `times_0.99`, `times_1.01`, `noise`; of texts "
        "`lower`, `punctuation`, `title`, `typos`, `upper`, `whitespace`.",
    )  # fmt: skip

    @field_validator("perturbations")
    @classmethod
    def _known(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        known = (*OF_NUMBERS, *OF_TEXTS)
        for name in given:
            if name not in known:
                raise ValueError(f"unknown perturbation {name!r}. Known: {', '.join(known)}")
        return given


@dataclass(frozen=True, eq=False)
class _Sample:
    """Rows to change.

    Attributes:
        positions: In the data.
        rows: As they are.
        outputs: What the model says of them.
    """

    positions: Integers
    rows: pd.DataFrame
    outputs: Outputs


@dataclass(frozen=True, eq=False)
class _Tried:
    """What came of one change.

    Attributes:
        name: Of the perturbation.
        title: After "when".
        changed: Which rows of the sample have other values.
        failed: Which of these have another prediction.
        column: That was changed; None for all columns of numbers.
        by_column: Name -> share of the failed rows that fail by this column alone.
    """

    name: str
    title: str
    changed: Mask
    failed: Mask
    column: str | None = None
    by_column: dict[str, float] = field(default_factory=dict)


class Robustness(Check[RobustnessSettings]):
    """Predictions that small changes of the values change."""

    name = "robustness"
    title = "Robustness"
    settings_class = RobustnessSettings

    def applies(self, context: Context) -> str | None:
        """It asks the model about numbers and texts."""
        if not (self._numbers(context) or context.data.of_kind(Kind.TEXT)):
            return "there are no columns of numbers or texts"
        return context.needs_predictions()

    def run(self, context: Context) -> Iterator[Finding]:
        """Change all numbers together, and each column of texts."""
        n_rows = min(self.settings.n_rows, len(context.data))
        rng = context.rng(self.name)
        chosen = np.sort(rng.choice(len(context.data), n_rows, replace=False))
        rows = context.data.rows(chosen)
        sample = _Sample(chosen, rows, context.model.predict(rows))
        again = context.model.predict(rows)
        if self._change(context, sample.outputs, again).any():
            return  # It says something else each time: that is another check's (stochasticity).
        for name in self.settings.perturbations:
            context.progress(name)
            if name in OF_NUMBERS:
                yield from self._finding(context, sample, self._try_numbers(context, sample, name))
                continue
            for column in context.data.of_kind(Kind.TEXT):
                tried = self._try_texts(context, sample, name, column)
                yield from self._finding(context, sample, tried)

    def _numbers(self, context: Context) -> list[Column]:
        frame = context.data.frame
        return [column for column in context.data.of_kind(Kind.NUMERIC)
                if can_change(column, frame[column.name])]  # fmt: skip

    def _try_numbers(self, context: Context, sample: _Sample, name: str) -> _Tried:
        columns = self._numbers(context)
        changed = np.zeros(len(sample.rows), dtype=np.bool_)
        # The same noise for a column alone as for all together: each column has its own numbers.
        values: dict[str, pd.Series] = {}
        for column in columns:
            context.tick()
            rng = context.rng(f"{self.name}/{name}/{column.name}")
            values[column.name], different = changed_numbers(
                column, sample.positions, sample.rows[column.name], OF_NUMBERS[name], rng
            )
            changed |= different
        failed = self._failed(context, sample, values, changed)
        by_column = {}
        if failed.sum() >= self.settings.threshold * max(changed.sum(), 1) and len(values) > 1:
            for column in columns[:_MAX_COLUMNS]:
                context.tick()
                alone = {column.name: values[column.name]}
                share = self._failed(context, sample, alone, failed).sum() / failed.sum()
                by_column[column.name] = float(share)
        return _Tried(name, OF_NUMBERS[name].title, changed, failed, by_column=by_column)

    def _try_texts(self, context: Context, sample: _Sample, name: str, column: Column) -> _Tried:
        rng = context.rng(f"{self.name}/{name}/{column.name}")
        texts = sample.rows[column.name]
        values, changed = changed_texts(texts, OF_TEXTS[name], rng, context.tick)
        failed = self._failed(context, sample, {column.name: values}, changed)
        title = f"{column.name} {OF_TEXTS[name].title}"
        return _Tried(name, title, changed, failed, column.name)

    def _failed(
        self, context: Context, sample: _Sample, values: dict[str, pd.Series], among: Mask
    ) -> Mask:
        """Return which rows among some get another prediction with these values."""
        failed = np.zeros(len(among), dtype=np.bool_)
        if not among.any():
            return failed
        rows = sample.rows.assign(**values)[among]
        after, before = context.model.predict(rows), sample.outputs
        kept = Outputs(before.values[among], None if before.codes is None else before.codes[among])
        failed[among] = self._change(context, kept, after)
        return failed

    def _change(self, context: Context, one: Outputs, other: Outputs) -> Mask:
        spread = spread_of(context.model.outputs)
        return change(one, other, spread, self.settings.relative_change)

    def _finding(self, context: Context, sample: _Sample, tried: _Tried) -> Iterator[Finding]:
        n, k = int(tried.changed.sum()), int(tried.failed.sum())
        if n < _LEAST_ROWS:
            return
        settings, interval = self.settings, wilson(k, n, context.alpha)
        worst = sorted(tried.by_column.items(), key=lambda item: -item[1])[:_BARS]
        shares = {column: share for column, share in worst if share > 0}
        yield self.finding(
            severity=severity_of(interval[0], settings.threshold, settings.major),
            title=f"{percent(k / n)} of the predictions change when {tried.title} ({k} of {n})",
            metric="share_of_changed_predictions", figure=k / n, compared_to=settings.threshold,
            interval=(interval[0] - settings.threshold, interval[1] - settings.threshold),
            p_value=float(stats.binomtest(k, n, settings.threshold, "greater").pvalue), size=k,
            examples=tuple(int(position) for position in sample.positions[tried.failed][:5]),
            details={"perturbation": tried.name, "column": tried.column, "n_changed_rows": n,
                     "by_column": shares},
            plot=_plot(shares),
            advice="Look at the example rows: learn from such changed rows, too, or let what is "
            "before the model even them out.",
        )  # fmt: skip


def _plot(shares: dict[str, float]) -> Plot | None:
    if len(shares) < 2:
        return None
    title = "changed predictions by this column alone, in %"
    return Plot("bars", "column", title, tuple(shares),
                {title: tuple(100 * share for share in shares.values())})  # fmt: skip

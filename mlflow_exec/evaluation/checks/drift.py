"""Drift: the data is distributed otherwise than the rows that the model learnt from.

Features, labels and what the model says are compared one by one. A difference is a finding where a
test says that it is none of chance, and it matters by its size, the population stability index.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from pydantic import Field

from mlflow_exec.errors import ScanError
from mlflow_exec.evaluation.arrays import Values
from mlflow_exec.evaluation.checks.base import Check, Context
from mlflow_exec.evaluation.data import Column, Data, Kind
from mlflow_exec.evaluation.distributions import Change, change_of_categories, change_of_numbers
from mlflow_exec.evaluation.findings import Finding, Plot, Severity, severity_of
from mlflow_exec.evaluation.outputs import Task, named
from mlflow_exec.evaluation.properties import numbers_of
from mlflow_exec.settings import Settings


class DriftSettings(Settings):
    """Settings of the check `drift`."""

    threshold: float = Field(
        default=0.1, gt=0,
        description="MEDIUM where a population stability index of so much is certain (Siddiqi, "
        "2006: 0.1 to 0.25 is a minor shift). What is certain, but less, is MINOR from a tenth on.",
    )  # fmt: skip
    major: float = Field(
        default=0.25, gt=0,
        description="MAJOR where so much is certain (Siddiqi: over 0.25 is a major shift).",
    )  # fmt: skip
    predictions: bool = Field(
        default=True, description="Whether to ask the model about the reference."
    )


@dataclass(frozen=True, eq=False)
class _Compared:
    """One quantity in both data sets.

    Attributes:
        kind: ``feature``, ``label`` or ``prediction``.
        name: For people.
        before: Its values in the reference: numbers, or objects.
        after: Its values in the data.
    """

    kind: str
    name: str
    before: Values
    after: Values


class Drift(Check[DriftSettings]):
    """Distributions that changed between two data sets."""

    name = "drift"
    title = "Drift"
    settings_class = DriftSettings

    def applies(self, context: Context) -> str | None:
        """It compares two data sets."""
        if context.data.reference is None:
            return "there is no reference to compare the data with"
        return None

    def run(self, context: Context) -> Iterator[Finding]:
        """Compare what both data sets have."""
        reference = context.data.reference
        assert reference is not None, "applies holds it"
        missing = [c.name for c in context.data.columns if c.name not in set(reference.frame)]
        if missing:
            raise ScanError(
                f"reference: columns of the data are missing in it: {', '.join(missing[:10])}"
            )
        rng = context.rng(self.name)
        for compared in self._all(context, reference):
            context.tick()
            context.progress(compared.name)
            numeric = compared.before.dtype != object and compared.after.dtype != object
            change = (change_of_numbers if numeric else change_of_categories)(
                compared.before, compared.after, rng, context.alpha
            )
            yield self._finding(context, compared, change)

    def _all(self, context: Context, reference: Data) -> Iterator[_Compared]:
        others = {column.name: column for column in reference.columns}
        for column in context.data.columns:
            yield from _of_column(column, others[column.name])
        yield from _of_labels(context, reference)
        if self.settings.predictions and context.model.can_predict:
            frame = reference.frame[[column.name for column in context.data.columns]]
            before = context.model.predict(frame)
            if context.model.task is Task.REGRESSION:
                values = [np.asarray(o.values, np.float64) for o in (before, context.model.outputs)]
                yield _Compared("prediction", "the prediction", values[0], values[1])
            else:
                # Not the probabilities: models are more sure of what they learnt from.
                classes = [o.values.astype(object) for o in (before, context.model.outputs)]
                yield _Compared("prediction", "the predicted class", classes[0], classes[1])

    def _finding(self, context: Context, compared: _Compared, change: Change) -> Finding:
        settings = self.settings
        matters = change.psi >= settings.threshold / 10
        is_shown = matters and change.p_value <= context.alpha
        severity = severity_of(change.interval[0], settings.threshold, settings.major)
        plot = None
        if is_shown:
            plot = Plot(
                "bars", compared.name, "rows in %", change.labels,
                {"reference": _percents(change.before), "data": _percents(change.after)},
            )  # fmt: skip
        return self.finding(
            severity=severity if is_shown else Severity.MINOR,
            title=f"{compared.name} is distributed otherwise than in the reference, with a "
            f"population stability index of {change.psi:.2f}",
            metric="psi", figure=change.psi, compared_to=0.0, interval=change.interval,
            # What does not matter is no finding, however certain it is.
            p_value=change.p_value if matters else 1.0, size=len(context.data),
            details={"kind": compared.kind, "name": compared.name, **change.sizes},
            plot=plot,
            advice="Was it measured in the same way? If the world changed, train again with newer "
            "data.",
        )  # fmt: skip


def _of_column(column: Column, other: Column) -> Iterator[_Compared]:
    """Times are left out: a later data set has later ones."""
    kinds = {column.kind, other.kind}
    if kinds & {Kind.DATETIME, Kind.OPAQUE}:
        return
    before, after = other.values, column.values
    if Kind.TEXT in kinds and kinds <= {Kind.TEXT, Kind.CATEGORY}:
        for name, words in (("length", "the length of"), ("words", "the number of words of")):
            texts = [numbers_of(_as_texts(values), name) for values in (before, after)]
            yield _Compared("feature", f"{words} {column.name}", texts[0], texts[1])
        return
    if (before.dtype == object) != (after.dtype == object):
        before, after = _of_one_kind(before, after)
    yield _Compared("feature", column.name, before, after)


def _of_labels(context: Context, reference: Data) -> Iterator[_Compared]:
    before, after = reference.labels, context.data.labels
    if before is None or after is None:
        return
    if context.model.task is Task.REGRESSION:
        try:
            numbers = [np.asarray(labels, dtype=np.float64) for labels in (before, after)]
        except (TypeError, ValueError) as error:
            raise ScanError(f"reference: its labels are no numbers: {error}") from error
        yield _Compared("label", "the target", numbers[0], numbers[1])
    else:
        classes = [named(labels, context.model.classes)[0] for labels in (before, after)]
        yield _Compared("label", "the target", classes[0], classes[1])


def _as_texts(values: Values) -> Values:
    return np.array([*(None if v is None else str(v) for v in values), None], dtype=object)[:-1]


def _of_one_kind(one: Values, other: Values) -> tuple[Values, Values]:
    """Return two columns of which one has numbers: both as numbers if all can be, else as texts."""
    try:
        read = [np.asarray(pd.to_numeric(pd.Series(v)), np.float64) for v in (one, other)]
    except (TypeError, ValueError):
        texts = [v if v.dtype == object else _as_objects(v) for v in (one, other)]
        return texts[0], texts[1]
    return read[0], read[1]


def _as_objects(numbers: Values) -> Values:
    return np.where(np.isnan(numbers), np.asarray(None, dtype=object), numbers)


def _percents(shares: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(100 * share for share in shares)

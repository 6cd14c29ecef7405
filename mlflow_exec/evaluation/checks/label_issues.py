"""Label issues: rows whose label is probably wrong, by confident learning.

Northcutt, Jiang and Chuang, Confident learning: estimating uncertainty in dataset labels, 2021, as
cleanlab has it (method `confident_learning`): a class is likely for a row if the model's
probability of it reaches the mean that rows labelled so have; a row whose most probable likely
class is another than its label is counted in the confident joint, off its diagonal.

A model that is right about its probabilities has some of these rows by chance, where classes
overlap. So their number is compared with the one that the probabilities themselves make likely.
Probabilities should be of rows that the model did not learn from. And a bad model is sure of what
is wrong: many issues are told as such where a forest that learns from the scanned data agrees.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field
from scipy import stats

from mlflow_exec.evaluation.arrays import Floats, Integers, Mask
from mlflow_exec.evaluation.checks.base import Check, Context
from mlflow_exec.evaluation.findings import Finding, Severity
from mlflow_exec.evaluation.plots import percent
from mlflow_exec.evaluation.sampling import at_most
from mlflow_exec.evaluation.single_features import classes_by_forest
from mlflow_exec.evaluation.statistics import wilson
from mlflow_exec.settings import Settings

_SURE = 0.999
_PAIRS = 10


class LabelIssuesSettings(Settings):
    """Settings of the check `label_issues`."""

    threshold: float = Field(
        default=0.01, gt=0, lt=1,
        description="So many labels more than the probabilities make likely have to look wrong: "
        "MINOR. Own choice; popular test sets have 3 % wrong labels (Northcutt, Athalye and "
        "Mueller, 2021).",
    )  # fmt: skip
    medium: float = Field(
        default=0.05, gt=0, lt=1,
        description="MEDIUM where so many more are certain, with those left aside on which a "
        "forest disagrees. Never MAJOR: the model may be the one that is wrong.",
    )  # fmt: skip
    max_rows: int = Field(
        default=20_000, gt=100, description="The forest learns from so many rows at most."
    )


class LabelIssues(Check[LabelIssuesSettings]):
    """Rows whose label the model contradicts with confidence."""

    name = "label_issues"
    title = "Label issues"
    settings_class = LabelIssuesSettings

    def applies(self, context: Context) -> str | None:
        """It needs labels, and probabilities that tell something about them."""
        reason = context.needs_labels() or context.needs_probabilities()
        if reason is not None:
            return reason
        most = float(np.bincount(context.labels).max()) / len(context.labels)
        if 1 - float(context.errors.mean()) <= most:
            return "the model is right no more often than if it always said the most frequent class"
        if float((context.probabilities.max(axis=1) > _SURE).mean()) > _SURE:
            return "the model is sure of every row, so it cannot tell labels that are wrong"
        return None

    def run(self, context: Context) -> Iterator[Finding]:
        """Count, and compare with what is likely."""
        labels, probabilities = context.labels, context.probabilities
        likely, confident = confident_classes(labels, probabilities)
        wrong = confident & (likely != labels)
        n, n_wrong = len(labels), int(wrong.sum())
        # How probable it is for each row that its label is another than the likely class.
        chances = np.where(confident, 1 - probabilities[np.arange(n), likely], 0.0)
        expected, settings = float(chances.sum()), self.settings
        low, high = wilson(n_wrong, n, context.alpha)
        excess = (n_wrong - expected) / n
        if excess <= 0:
            return
        certain = low - expected / n
        spread = float(np.sqrt((chances * (1 - chances)).sum() + settings.threshold * n))
        own = probabilities[np.arange(n), labels]
        severity = Severity.MINOR
        if certain >= settings.medium:
            agreed = round(n_wrong * self._agreed(context, wrong, likely))
            if wilson(agreed, n, context.alpha)[0] - expected / n >= settings.medium:
                severity = Severity.MEDIUM
        yield self.finding(
            severity=severity,
            title=f"{percent(n_wrong / n)} of the labels look wrong ({n_wrong} of {n}): the model "
            "is confident of another class",
            metric="share_of_label_issues", figure=n_wrong / n, compared_to=expected / n,
            interval=(certain, high - expected / n),
            p_value=float(stats.norm.sf((n_wrong - expected - settings.threshold * n) / spread)),
            size=n_wrong, examples=context.worst_rows(-own, wrong),
            details={"pairs": _pairs(context, labels[wrong], likely[wrong])},
            advice="Look at these rows, the least probable labels first; where the labels are "
            "right, the model is sure of what is wrong.",
        )  # fmt: skip

    def _agreed(self, context: Context, wrong: Mask, likely: Integers) -> float:
        """Return for which share of the issues a forest says what the model does."""
        rng, labels = context.rng(self.name), context.labels
        rows = at_most(np.arange(len(labels)), self.settings.max_rows, rng)
        table = context.table.numbers[rows]
        if not table.shape[1] or not wrong[rows].any():
            return 0.0
        context.progress("asking a forest")
        folds = np.asarray(rng.permutation(len(rows)) % 2 == 0)
        told = classes_by_forest(table, labels[rows], folds, seed=context.seed)
        return float((told.argmax(axis=1) == likely[rows])[wrong[rows]].mean())


def confident_classes(labels: Integers, probabilities: Floats) -> tuple[Integers, Mask]:
    """Return the most probable likely class of each row, and whether there is a likely one.

    Args:
        labels: Positions of classes.
        probabilities: Rows x classes.
    """
    n_classes = probabilities.shape[1]
    counts = np.bincount(labels, minlength=n_classes)
    own = probabilities[np.arange(len(labels)), labels]
    # A class that no row is labelled as is never likely.
    sums = np.bincount(labels, own, n_classes)
    bounds = np.divide(sums, counts, out=np.full(n_classes, np.inf), where=counts > 0)
    above = np.where(probabilities >= bounds - 1e-6, probabilities, -1.0)
    likely: Integers = above.argmax(axis=1).astype(np.int64)
    return likely, np.asarray(above.max(axis=1) >= 0)


def _pairs(context: Context, given: Integers, likely: Integers) -> list[dict[str, object]]:
    """Return the most frequent pairs of a label and the likely class."""
    classes = context.model.classes
    found, counts = np.unique(given * len(classes) + likely, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:_PAIRS]
    return [
        {
            "label": str(classes[int(found[n]) // len(classes)]),
            "likely": str(classes[int(found[n]) % len(classes)]),
            "n_rows": int(counts[n]),
        }
        for n in order
    ]

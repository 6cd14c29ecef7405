"""Data leakage: features that give the target away, and rows that the model was tested on twice.

Test results are too good where a column holds the target (under another name, or written after the
fact), and where rows that the model learnt from are among those that it is tested on (Kaufman et
al., Leakage in data mining, 2012). What is suspicious is compared with what honest data has: strong
features are common, but then others together are strong, too; rows of a few categories repeat by
chance, but then as often within one data set as between two.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from pydantic import Field
from scipy import stats

from mlflow_exec.evaluation.arrays import Integers, Mask, Values
from mlflow_exec.evaluation.checks.base import Check, Context
from mlflow_exec.evaluation.data import Column, Data, Kind
from mlflow_exec.evaluation.findings import Finding, Severity, severity_of
from mlflow_exec.evaluation.outputs import Task
from mlflow_exec.evaluation.plots import percent
from mlflow_exec.evaluation.row_hashes import n_repeated, row_hashes
from mlflow_exec.evaluation.sampling import at_most
from mlflow_exec.evaluation.single_features import (
    Told,
    copied_classes,
    copied_numbers,
    distance_of_classes,
    tellable_classes,
    tellable_numbers,
    told_by_others,
    told_classes,
    told_numbers,
)
from mlflow_exec.evaluation.statistics import difference_of_shares, proportions, wilson
from mlflow_exec.settings import Settings

_MIN_ROWS = 40  # in each half of the rows enough for a leaf or two
_MAX_OTHERS = 5  # forests are slow
_LEEWAY = 0.05  # a tree may cut better than between bins


class DataLeakageSettings(Settings):
    """Settings of the check `data_leakage`."""

    copy_threshold: float = Field(
        default=0.5, gt=0, lt=1,
        description="A column that agrees so much with the target, corrected for chance, may be a "
        "copy: 1 is a perfect one, and one with 10 % noise has 0.8 of two classes and 0.9 of many. "
        "Own calibration: honest features of two values stay below (the sex of the Titanic's "
        "passengers has 0.53, with less certain).",
    )  # fmt: skip
    copy_major: float = Field(
        default=0.6, gt=0, lt=1, description="MAJOR where so much agreement is certain."
    )
    strong_auc: float = Field(
        default=0.85, gt=0.5, lt=1,
        description="A tree on one feature with this area under the ROC curve (mean over the "
        "classes) is looked at: MEDIUM where all other features together have twice the distance "
        "to 1. Own calibration.",
    )  # fmt: skip
    perfect_auc: float = Field(
        default=0.99, gt=0.5, lt=1,
        description="MEDIUM where so much is certain, whatever the others tell, and MAJOR if they "
        "tell `others_auc` at most. Own calibration: the best of breast cancer has 0.975.",
    )  # fmt: skip
    apart: float = Field(
        default=6.0, gt=0,
        description="A number whose means of the classes are all so many standard deviations "
        "(within the classes) apart is the target with noise (10 with noise of a tenth): MAJOR. "
        "Own calibration: the best feature of iris has 3.",
    )  # fmt: skip
    others_auc: float = Field(default=0.95, gt=0.5, lt=1, description="See `perfect_auc`.")
    strong_r2: float = Field(
        default=0.8, gt=0, lt=1, description="As `strong_auc`, for a regression: R2."
    )
    perfect_r2: float = Field(default=0.9, gt=0, lt=1, description="As `perfect_auc`.")
    others_r2: float = Field(default=0.8, gt=0, lt=1, description="As `others_auc`.")
    duplicates_threshold: float = Field(
        default=0.01, gt=0, lt=1,
        description="So many of the rows were certainly learnt from, more than chance explains: "
        "MEDIUM; below MINOR. Own choice: it moves the accuracy by a hundredth at most.",
    )  # fmt: skip
    duplicates_major: float = Field(
        default=0.05, gt=0, lt=1, description="MAJOR from there on; Deepchecks fails at 5 %, too."
    )
    repeated_threshold: float = Field(
        default=0.01, gt=0, lt=1,
        description="So many rows repeat others of the same data set, more than chance explains: "
        "MINOR.",
    )  # fmt: skip
    max_rows: int = Field(
        default=20_000, gt=100, description="Trees learn from so many rows at most."
    )


class DataLeakage(Check[DataLeakageSettings]):
    """Columns that hold the target, and rows that are there twice."""

    name = "data_leakage"
    title = "Data leakage"
    settings_class = DataLeakageSettings

    def run(self, context: Context) -> Iterator[Finding]:
        """Look at the features, then at the rows."""
        if context.model.labels is not None:
            yield from self._copies_and_strong(context)
        context.progress("duplicates")
        yield from self._repeated(context)
        if context.data.reference is not None:
            yield from self._learnt(context, context.data.reference)

    def _copies_and_strong(self, context: Context) -> Iterator[Finding]:
        rng = context.rng(self.name)
        is_classes = context.model.task is Task.CLASSIFICATION
        columns = context.data.of_kind(Kind.NUMERIC, Kind.CATEGORY, Kind.DATETIME)
        left = []
        for column in columns:
            context.tick()
            copied = (
                copied_classes(column.values, context.labels) if is_classes
                else copied_numbers(column.values, context.labels, rng)
                if column.kind is Kind.NUMERIC else Told(0.0, 0.0)
            )  # fmt: skip
            if copied.figure < self.settings.copy_threshold:
                left.append(column)
            else:
                yield self._copy(context, column, copied)
        yield from self._strong(context, left, rng)

    def _copy(self, context: Context, column: Column, copied: Told) -> Finding:
        settings = self.settings
        interval = _interval(copied, context.alpha)
        return self.finding(
            severity=severity_of(interval[0], settings.copy_threshold, settings.copy_major),
            title=f"{column.name} looks like a copy of the target: they agree to "
            f"{percent(copied.figure)}, corrected for chance",
            metric="agreement", figure=copied.figure, compared_to=settings.copy_threshold,
            interval=interval, p_value=_p_value(copied, settings.copy_threshold),
            size=len(context.data), details={"feature": column.name},
            advice=f"Is {column.name} known before the target is? If not, leave it out and train "
            "again.",
        )  # fmt: skip

    def _strong(
        self, context: Context, columns: list[Column], rng: np.random.Generator
    ) -> Iterator[Finding]:
        """Learn the target from each feature alone, and from the others where it is strong."""
        labels, settings = context.labels, self.settings
        if len(labels) < _MIN_ROWS or len(np.unique(labels)) < 2:
            return
        is_classes = context.model.task is Task.CLASSIFICATION
        tell = told_classes if is_classes else told_numbers
        strong = settings.strong_auc if is_classes else settings.strong_r2
        rows = at_most(np.arange(len(labels)), settings.max_rows, rng)
        folds = np.asarray(rng.permutation(len(rows)) % 2 == 0)
        bins = {
            axis.column: axis.codes for axis in context.search.axes
            if axis.is_ordered and not axis.property_name
        }  # fmt: skip
        tellable = tellable_classes if is_classes else tellable_numbers
        found = []
        for column in columns:
            context.tick()
            context.progress(column.name)
            # Most features tell little, and to see that takes no tree.
            if column.name in bins and tellable(
                column.values[rows], bins[column.name][rows], labels[rows]
            ) < strong - _LEEWAY:
                continue
            told = tell(column, labels, rows, folds)
            if told.figure >= strong:
                found.append((told, column))
        found.sort(key=lambda pair: -pair[0].figure)
        for told, column in found[:_MAX_OTHERS]:
            context.tick()
            others = self._others(context, column, rows, folds)
            yield from self._suspect(context, column, told, others)

    def _others(self, context: Context, column: Column, rows: Integers, folds: Mask) -> float:
        """Return what all features but one tell together."""
        table = context.table.without(column.name)[rows]
        return told_by_others(
            table, context.labels[rows], folds, seed=context.seed,
            is_classes=context.model.task is Task.CLASSIFICATION,
        )  # fmt: skip

    def _suspect(
        self, context: Context, column: Column, told: Told, others: float
    ) -> Iterator[Finding]:
        settings = self.settings
        is_classes = context.model.task is Task.CLASSIFICATION
        metric, strong, perfect, weak = (
            ("auc", settings.strong_auc, settings.perfect_auc, settings.others_auc) if is_classes
            else ("r2", settings.strong_r2, settings.perfect_r2, settings.others_r2)
        )  # fmt: skip
        interval = _interval(told, context.alpha)
        stands_out = 1 - others >= 2 * (1 - told.figure) and others < interval[0]
        is_perfect = interval[0] >= perfect
        is_noisy_copy = (
            is_classes and column.kind is Kind.NUMERIC
            and distance_of_classes(column.values, context.labels) >= settings.apart
        )  # fmt: skip
        if not (is_perfect or stands_out or is_noisy_copy):
            return  # Strong features that are not alone are no news.
        name = "an area under the ROC curve" if is_classes else "an R2"
        yield self.finding(
            severity=(
                Severity.MAJOR if is_noisy_copy or (is_perfect and others <= weak)
                else Severity.MEDIUM
            ),
            title=f"{column.name} alone tells the target with {name} of {told.figure:.3f}; "
            f"all other features together have {others:.3f}",
            metric=metric, figure=told.figure, compared_to=others, interval=interval,
            p_value=_p_value(told, strong), size=len(context.data),
            details={"feature": column.name},
            advice=f"Is {column.name} known before the target is? If not, leave it out and train "
            "again.",
        )  # fmt: skip

    def _repeated(self, context: Context) -> Iterator[Finding]:
        """Compare the rows that repeat others with how many would if columns were unrelated."""
        hashes, n = row_hashes(context.data), len(context.data)
        repeated = n_repeated(hashes)
        if repeated < self.settings.repeated_threshold * n:
            return
        context.tick()
        by_chance = n_repeated(row_hashes(context.data, rng=context.rng(f"{self.name}/repeated")))
        again = _later_ones(hashes)
        yield self.finding(
            severity=Severity.MINOR,
            title=f"{percent(repeated / n)} of the rows repeat others ({repeated} of {n})",
            metric="share_of_repeated_rows", figure=repeated / n, compared_to=by_chance / n,
            interval=difference_of_shares(repeated, n, by_chance, n, context.alpha),
            p_value=proportions(repeated, n, by_chance, n), size=repeated,
            examples=tuple(int(position) for position in again[:5]),
            details=self._contradictions(context, hashes),
            advice="Rows that count twice make the test look more certain than it is; keep one.",
        )  # fmt: skip

    def _contradictions(self, context: Context, hashes: Values) -> dict[str, int]:
        """Count the rows that are equal in all features to one with another label."""
        if context.model.labels is None:
            return {}
        groups, size = np.unique(hashes, return_inverse=True)[1], len(hashes)
        labels = np.unique(context.labels, return_inverse=True)[1]
        pairs = np.unique(groups.astype(np.int64) * size + labels)
        n_labels = np.bincount(pairs // size)
        return {"n_with_contradicting_labels": int((n_labels[groups] > 1).sum())}

    def _learnt(self, context: Context, reference: Data) -> Iterator[Finding]:
        """Compare the rows that are in the reference with how many of its own rows are twice."""
        shared = {c.name for c in context.data.columns} == {c.name for c in reference.columns}
        if not shared:
            return  # The check of drift tells about the columns.
        context.tick()
        names = [column.name for column in context.data.columns]
        own, learnt = row_hashes(context.data, reference), row_hashes(
            reference, context.data, names=names)  # fmt: skip
        _, inverse, counts = np.unique(learnt, return_inverse=True, return_counts=True)
        n, n_learnt = len(own), len(learnt)
        known = np.isin(own, learnt)
        n_known, n_twice = int(known.sum()), int((counts[inverse] > 1).sum())
        if not n_known:
            return
        interval = difference_of_shares(n_known, n, n_twice, n_learnt, context.alpha)
        settings = self.settings
        yield self.finding(
            severity=severity_of(
                interval[0], settings.duplicates_threshold, settings.duplicates_major
            ),
            title=f"{percent(n_known / n)} of the rows are among those that the model learnt from "
            f"({n_known} of {n})",
            metric="share_of_known_rows", figure=n_known / n, compared_to=n_twice / n_learnt,
            interval=interval, p_value=proportions(n_known, n, n_twice, n_learnt), size=n_known,
            examples=tuple(int(position) for position in np.flatnonzero(known)[:5]),
            details={
                "share_within_reference": n_twice / n_learnt,
                "share_interval": list(wilson(n_known, n, context.alpha)),
            },
            advice="Leave these rows out of the test, or split the data again by what belongs "
            "together.",
        )  # fmt: skip


def _later_ones(hashes: Values) -> Integers:
    """Return the positions of rows that are equal to an earlier one."""
    first = np.unique(hashes, return_index=True)[1]
    later = np.ones(len(hashes), dtype=np.bool_)
    later[first] = False
    return np.flatnonzero(later).astype(np.int64)


def _interval(told: Told, alpha: float) -> tuple[float, float]:
    half = float(stats.norm.ppf(1 - alpha / 2)) * told.error
    return told.figure - half, min(told.figure + half, 1.0)


def _p_value(told: Told, threshold: float) -> float:
    """Return the p-value that it is over the threshold."""
    return float(stats.norm.sf((told.figure - threshold) / max(told.error, 1e-12)))

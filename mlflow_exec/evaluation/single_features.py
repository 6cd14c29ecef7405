"""What one feature alone tells of the labels, and what all others do, on held-out rows.

Three ways in which a column gives the target away: it is a copy of it (perhaps by other names, in
another unit, and not in all rows); a shallow tree on it alone predicts the target; and it does so
better than all other features together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mlflow_exec.evaluation.arrays import Floats, Integers, Mask, Values
from mlflow_exec.evaluation.data import Column
from mlflow_exec.evaluation.statistics import area_under_roc

_DEPTH = 5
_TREES = 50
_PAIRS = 1_000
_LEAST_DIFFERENT = 20
_MIN_LEAF = 5


@dataclass(frozen=True)
class Told:
    """How much of the labels is told.

    Attributes:
        figure: 1 where all is told.
        error: Standard error of the figure.
    """

    figure: float
    error: float


def copied_classes(values: Values, codes: Integers) -> Told:
    """Return how far a column is the classes by other names: 1 all over, 0 as by chance.

    Each class is given one value of the column, so that they agree best; the figure is the mean
    over the classes of the share of their rows with that value, corrected for chance (with two
    classes Youden's J). It is 0 where the column has more values than there are classes, one for
    missing ones left aside: then it is no copy.
    """
    from scipy.optimize import linear_sum_assignment

    classes, labels = np.unique(codes, return_inverse=True)
    # Most columns have many values, and some rows are enough to see that.
    if len(pd.unique(values[:1000])) > len(classes) + 1:
        return Told(0.0, 0.0)
    found, names = pd.factorize(values, use_na_sentinel=False)
    n_classes, n_values = len(classes), len(names)
    if n_classes < 2 or not n_classes <= n_values <= n_classes + 1:
        return Told(0.0, 0.0)
    table = np.bincount(labels * n_values + found, minlength=n_classes * n_values)
    table = table.reshape(n_classes, n_values)
    totals = table.sum(axis=1)
    given = linear_sum_assignment(-table / totals[:, None])
    agreed = table[given]
    # As Agresti and Coull: a class all of whose few rows agree is not certain.
    shares = (agreed + 1) / (totals + 2)
    variance = float((shares * (1 - shares) / (totals + 2)).sum()) / n_classes**2
    chance = 1 / n_classes
    figure = (float((agreed / totals).mean()) - chance) / (1 - chance)
    return Told(figure, float(np.sqrt(variance)) / (1 - chance))


def copied_numbers(values: Floats, labels: Floats, rng: np.random.Generator) -> Told:
    """Return in which share of the rows a column is the target, perhaps in another unit.

    Rows with the most frequent target are left aside: what is 0 for most is 0 for many reasons.
    """
    _, first, counts = np.unique(labels, return_index=True, return_counts=True)
    if len(counts) < _LEAST_DIFFERENT:
        return Told(0.0, 0.0)
    rows = np.isfinite(values) & (labels != labels[first[counts.argmax()]])
    if rows.sum() < _LEAST_DIFFERENT:
        return Told(0.0, 0.0)
    x, y = values[rows], labels[rows]
    one, other = rng.integers(0, len(x), (2, _PAIRS))
    apart = x[one] != x[other]
    if not apart.any():
        return Told(0.0, 0.0)
    # Where most rows are exact, so are most pairs, and the median slope is the true one.
    slope = float(np.median((y[one] - y[other])[apart] / (x[one] - x[other])[apart]))
    offset = float(np.median(y - slope * x))
    same = np.abs(offset + slope * x - y) <= 1e-6 * float(y.std())
    if slope == 0:
        return Told(0.0, 0.0)
    n_same, n_rows = int(same.sum()), int((labels != labels[first[counts.argmax()]]).sum())
    share = (n_same + 1) / (n_rows + 2)
    return Told(n_same / n_rows, float(np.sqrt(share * (1 - share) / (n_rows + 2))))


def distance_of_classes(values: Floats, codes: Integers) -> float:
    """Return the least distance of the classes' means, in standard deviations within them."""
    rows = np.isfinite(values)
    classes, labels = np.unique(codes[rows], return_inverse=True)
    if len(classes) < max(len(np.unique(codes)), 2):
        return 0.0
    counts = np.bincount(labels)
    means = np.bincount(labels, values[rows]) / counts
    within = float(np.sqrt(((values[rows] - means[labels]) ** 2).mean()))
    return float(np.diff(np.sort(means)).min()) / within if within else np.inf


def tellable_classes(values: Floats, bins: Integers, codes: Integers) -> float:
    """Return what the bins of a column tell of the classes, on the rows that it is known from.

    On held-out rows a tree tells hardly more. It takes a fiftieth of its time.

    Args:
        values: The column; what counts are its bins.
        bins: The bin of each row; -1 where the value is missing.
        codes: The classes.
    """
    classes, labels = np.unique(codes, return_inverse=True)
    n_classes = len(classes)
    cells = np.bincount((bins + 1) * n_classes + labels)
    table = np.append(cells, np.zeros(-len(cells) % n_classes)).reshape(-1, n_classes)
    of_bin, of_class = table.sum(axis=1), table.sum(axis=0)
    areas = []
    for own, total in zip(table.T, of_class, strict=True):
        order = np.argsort(own / np.maximum(of_bin, 1), kind="stable")
        others = (of_bin - own)[order]
        below = np.cumsum(others) - others / 2
        areas.append(float(own[order] @ below) / (total * (len(labels) - total)))
    return float(np.mean(areas))


def tellable_numbers(values: Floats, bins: Integers, labels: Floats) -> float:
    """Return the R2 of a column's bins, or of a line, on the rows that it is known from.

    Args:
        values: The column.
        bins: See `tellable_classes`.
        labels: The numbers to tell.
    """
    spread = float(labels.var())
    if not spread:
        return 0.0
    counts = np.bincount(bins + 1)
    means = np.bincount(bins + 1, labels) / np.maximum(counts, 1)
    of_bins = float((counts * (means - labels.mean()) ** 2).sum()) / len(labels) / spread
    there = np.isfinite(values)
    if there.sum() < 2 or not np.ptp(values[there]) or not np.ptp(labels[there]):
        return of_bins
    of_line = float(np.corrcoef(values[there], labels[there])[0, 1]) ** 2
    return max(of_bins, of_line)


def told_classes(column: Column, codes: Integers, rows: Integers, folds: Mask) -> Told:
    """Return the area under the ROC curve of a shallow tree on one column, on held-out rows.

    Args:
        column: Numbers, times or categories (a leaf each).
        codes: The classes of all rows; of more than two the mean over one against the others.
        rows: The positions that are used.
        folds: For each of them in which half it is: each half is told by the other one.
    """
    from sklearn.tree import DecisionTreeClassifier

    labels = np.unique(codes[rows], return_inverse=True)[1]

    def learn(x: Floats, y: Integers, asked: Floats) -> Floats:
        leaf = max(_MIN_LEAF, len(y) // 100)
        tree = DecisionTreeClassifier(max_depth=_DEPTH, min_samples_leaf=leaf, random_state=0)
        return _all_classes(tree.fit(x, y), asked, int(labels.max()) + 1)

    return area(_crossed(_table(column, labels, rows, folds), labels, folds, learn), labels)


def told_numbers(column: Column, labels: Floats, rows: Integers, folds: Mask) -> Told:
    """Return R2 of a shallow tree on one column, or of a line, on held-out rows."""
    from sklearn.tree import DecisionTreeRegressor

    y = labels[rows]

    def learn(x: Floats, known: Floats, asked: Floats) -> Floats:
        leaf = max(_MIN_LEAF, len(known) // 100)
        tree = DecisionTreeRegressor(max_depth=_DEPTH, min_samples_leaf=leaf, random_state=0)
        answer: Floats = tree.fit(x, known).predict(asked)
        return answer

    def line(x: Floats, known: Floats, asked: Floats) -> Floats:
        centred = x[:, 0] - x[:, 0].mean()
        spread = float((centred**2).sum())
        slope = float((centred * (known - known.mean())).sum()) / spread if spread else 0.0
        return np.asarray(known.mean() + slope * (asked[:, 0] - x[:, 0].mean()))

    x = _table(column, y, rows, folds)
    told = [explained(_crossed(x, y, folds, way), y) for way in (learn, line)]
    return max(told, key=lambda t: t.figure)


def told_by_others(
    table: Floats, labels: Values, folds: Mask, *, is_classes: bool, seed: int
) -> float:
    """Return what a forest on all other features tells: the same figures, on held-out rows."""
    from sklearn.ensemble import ExtraTreesRegressor

    if not table.shape[1]:
        return 0.5 if is_classes else 0.0
    if is_classes:
        labels = np.unique(labels, return_inverse=True)[1]
        return area(classes_by_forest(table, labels, folds, seed=seed), labels).figure

    def learn(x: Floats, y: Floats, asked: Floats) -> Floats:
        forest = ExtraTreesRegressor(_TREES, min_samples_leaf=2, random_state=seed)
        answer: Floats = forest.fit(x, y).predict(asked)
        return answer

    return explained(_crossed(table, labels, folds, learn), labels).figure


def classes_by_forest(table: Floats, labels: Integers, folds: Mask, *, seed: int) -> Floats:
    """Return the probabilities of the classes 0, 1, ... by a forest, on held-out rows."""
    from sklearn.ensemble import ExtraTreesClassifier

    def learn(x: Floats, y: Integers, asked: Floats) -> Floats:
        forest = ExtraTreesClassifier(_TREES, min_samples_leaf=2, random_state=seed)
        return _all_classes(forest.fit(x, y), asked, int(labels.max()) + 1)

    return _crossed(table, labels, folds, learn)


def area(scores: Floats, labels: Integers) -> Told:
    """Return the mean area under the ROC curves of each class against the others.

    The standard error is the mean of theirs. Classes that only one row has, or has not, are left
    out.
    """
    columns = range(scores.shape[1]) if scores.shape[1] > 2 else [1]
    figures, errors = [], []
    for code in columns:
        is_class = labels == code
        n, n_others = int(is_class.sum()), int((~is_class).sum())
        if min(n, n_others) < 2:
            continue
        figure, error = area_under_roc(scores[:, code], is_class)
        figures.append(figure)
        # Half a pair in the wrong order is allowed for, where all are right.
        errors.append(max(error, 0.5 / float(np.sqrt(n * n_others))))
    if not figures:
        return Told(0.5, 1.0)
    return Told(float(np.mean(figures)), float(np.mean(errors)))


def explained(answers: Floats, labels: Floats) -> Told:
    """Return R2 with its standard error by the delta method."""
    squared, spread = (answers - labels) ** 2, (labels - labels.mean()) ** 2
    variance = float(spread.mean())
    if not variance:
        return Told(0.0, 1.0)
    ratio = float(squared.mean()) / variance
    error = float((squared - ratio * spread).std()) / variance / np.sqrt(len(labels))
    return Told(1 - ratio, float(error))


def _crossed(
    table: Floats, labels: Values, folds: Mask, learn: Callable[..., Floats]
) -> Floats:
    """Return what each half of the rows is told by the other one."""
    parts = [
        learn(table[folds != half], labels[folds != half], table[folds == half])
        for half in (False, True)
    ]
    answers = np.empty((len(labels), *parts[0].shape[1:]))
    answers[~folds], answers[folds] = parts
    return answers


def _all_classes(fitted: object, asked: Floats, n_classes: int) -> Floats:
    """Return probabilities of all classes, also of those that one half does not have."""
    told = np.zeros((len(asked), n_classes))
    told[:, fitted.classes_] = fitted.predict_proba(asked)  # type: ignore[attr-defined]
    return told


def _table(column: Column, labels: Values, rows: Integers, folds: Mask) -> Floats:
    """Return a column as a table of one: categories in the order of their mean label."""
    if column.values.dtype != object:
        values = np.asarray(column.values[rows], dtype=np.float64)
        finite = values[np.isfinite(values)]
        least = float(finite.min()) - 1 if len(finite) else 0.0
        # Trees compute with float32; a missing value is a value: it may tell the target.
        return np.clip(np.nan_to_num(values, nan=least), -3e38, 3e38)[:, None]
    codes = column.categories[0][rows] + 1
    values = np.empty(len(rows))
    for half in (False, True):
        known = folds != half
        n_codes = int(codes.max()) + 1
        counts = np.bincount(codes[known], minlength=n_codes)
        sums = np.bincount(codes[known], labels[known].astype(np.float64), minlength=n_codes)
        # Known from the other half only, so that a rare value does not tell its own label.
        order = (sums + float(labels[known].mean())) / (counts + 1)
        values[folds == half] = order[codes[folds == half]]
    return values[:, None]

"""How many errors are to be expected of a row: those that the model itself is unsure of.

On real data every model errs most where classes overlap. That a slice has more errors than others
is worth telling, but it is less of a fault as long as the model's confidence says so. Of models
that tell no probabilities, the confidence is that of a forest which learns the labels from the
scanned data: a row on which it is unsure is hard for anybody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from mlflow_exec.evaluation.arrays import Floats
from mlflow_exec.evaluation.outputs import Task
from mlflow_exec.evaluation.sampling import at_most

if TYPE_CHECKING:
    from mlflow_exec.evaluation.checks.base import Context

_TREES = 50
_MAX_ROWS = 20_000


def expected_errors(context: Context) -> Floats:
    """Return for each row the share of errors among rows of the same confidence.

    Zeros for a regression, whose models tell no confidence. The share is an isotonic regression of
    the errors on the confidence: only the order of confidences counts, so that a model that is sure
    of itself everywhere is judged as others are.
    """
    from sklearn.isotonic import IsotonicRegression

    if context.model.task is Task.REGRESSION or not context.errors.any():
        return np.zeros(len(context.data))
    if context.model.outputs.probabilities is not None:
        confidence = context.probabilities.max(axis=1)
    else:
        confidence = _confidence_of_others(context)
    fitted = IsotonicRegression(increasing=False, out_of_bounds="clip")
    return np.asarray(fitted.fit_transform(confidence, context.errors), dtype=np.float64)


def _confidence_of_others(context: Context) -> Floats:
    """Return how sure a forest is that did not learn from the row; 0 for rows left out."""
    from sklearn.ensemble import ExtraTreesClassifier

    rng = context.rng("difficulty")
    table, labels = context.table.numbers, context.labels
    confidence = np.zeros(len(labels))
    if not table.shape[1] or len(np.unique(labels)) < 2:
        return confidence
    taken = at_most(np.arange(len(labels)), _MAX_ROWS, rng)
    halves = rng.integers(0, 2, len(taken))
    for half in (0, 1):
        learnt = taken[halves != half]
        context.tick()
        forest = ExtraTreesClassifier(
            _TREES, min_samples_leaf=5, random_state=int(rng.integers(2**31))
        ).fit(table[learnt], labels[learnt])
        # Rows that were not drawn are told by the second forest.
        asked = taken[halves == half] if half == 0 else np.setdiff1d(
            np.arange(len(labels)), taken[halves == 0])  # fmt: skip
        confidence[asked] = forest.predict_proba(table[asked]).max(axis=1)
    return confidence

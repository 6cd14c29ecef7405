"""Whether a model is as sure as it is right: on some rows, compared with all others.

A model that is sure of itself everywhere is a fault of all rows, told once (the check
`calibration`). On slices confidences are taken as they are after that fault is mended by the usual
two numbers (Platt, 1999): what is left is a fault of the slice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from mlflow_exec.evaluation.arrays import Floats, Mask
from mlflow_exec.evaluation.search import Found
from mlflow_exec.evaluation.statistics import difference_of_shares, wilson
from mlflow_exec.settings import Settings

if TYPE_CHECKING:
    from mlflow_exec.evaluation.checks.base import Context

# A logit is not taken of more than this confidence.
_SUREST = 1 - 1e-6
# Rows that a model is sure of scatter less; below this variance they do not weigh more.
_LEAST_VARIANCE = 0.05


class GapSettings(Settings):
    """What checks of slices' confidences have in common; each says what its levels mean."""

    threshold: float
    major: float
    pairs: bool = Field(
        default=False,
        description="Whether to look at pairs of features, too (Giskard: single ones). Else a "
        "range is easily told as the part of it where confidence had room to be wrong.",
    )  # fmt: skip
    max_slices: int


@dataclass(frozen=True)
class Gap:
    """By how much outcomes (errors, or right answers) are more often than expected, in a slice.

    Attributes:
        figure: The share of outcomes in the slice minus that which the confidence promises.
        elsewhere: The same of all other rows.
        interval: Of the first minus the second.
        certain: The part of it that is certain: against the promise, and against the other rows.
        share: Of outcomes, in the slice.
        promised: By the confidence, in the slice.
    """

    figure: float
    elsewhere: float
    interval: tuple[float, float]
    certain: float
    share: float
    promised: float


def confidence_of(context: Context) -> Floats:
    """Return the probability of each row's predicted class."""
    return np.asarray(np.clip(context.probabilities.max(axis=1), 0.0, 1.0), dtype=np.float64)


def needs_confidence(context: Context) -> str | None:
    """Return why a check of slices' confidences does not apply."""
    reason = context.needs_labels() or context.needs_probabilities()
    if reason is not None:
        return reason
    if np.ptp(confidence_of(context)) < 1 - _SUREST:
        return "the model is equally sure of all rows"
    return None


def recalibrated(confidence: Floats, right: Floats, rows: Mask) -> Floats:
    """Return all confidences after a logistic regression on their logits of the right answers.

    Args:
        confidence: Of each row.
        right: 1 where the answer is right, else 0.
        rows: Those that the regression learns from.
    """
    from sklearn.linear_model import LogisticRegression

    known = right[rows]
    if np.ptp(known) == 0:
        return np.full(len(right), float(known[0]))
    bounded = np.clip(confidence, 1 - _SUREST, _SUREST)
    logits = np.log(bounded / (1 - bounded))[:, None]
    fitted = LogisticRegression(C=1e6).fit(logits[rows], known.astype(np.int64))
    return np.asarray(fitted.predict_proba(logits)[:, 1], dtype=np.float64)


def gaps(
    context: Context, rng: np.random.Generator, settings: GapSettings, *, too_sure: bool
) -> Iterator[tuple[Found, Gap]]:
    """Yield the slices where a model is too sure of itself, or not sure enough, to matter.

    Args:
        context: Of a classification with labels and probabilities.
        rng: For the search.
        settings: From which threshold on a gap matters, and how to search.
        too_sure: Whether errors are counted, and else the right answers.
    """
    confidence, right = confidence_of(context), 1 - context.errors
    outcomes, promised = (context.errors, 1 - confidence) if too_sure else (right, confidence)

    def expected_by(rows: Mask) -> Floats:
        mended = recalibrated(confidence, right, rows)
        return 1 - mended if too_sure else mended

    expected = expected_by(np.ones(len(right), dtype=np.bool_))
    losses = (outcomes - expected) / np.sqrt(
        np.maximum(expected * (1 - expected), _LEAST_VARIANCE)
    )
    slices = context.search.worst(
        losses, rng, alpha=context.alpha, pairs=settings.pairs, most=settings.max_slices,
        scattered=True, tick=context.tick,
    )  # fmt: skip
    for found in slices:
        # What is wrong with the slice is not to be mended elsewhere.
        others = expected_by(~found.slice.mask)
        gap = _gap(outcomes, promised, others, found.slice.mask, found.level)
        if min(gap.figure, gap.figure - gap.elsewhere) >= settings.threshold and gap.certain > 0:
            yield found, gap


def _gap(
    outcomes: Floats, promised: Floats, expected: Floats, inside: Mask, alpha: float
) -> Gap:
    outside = ~inside
    n, n_outside = int(inside.sum()), int(outside.sum())
    k, k_outside = round(outcomes[inside].sum()), round(outcomes[outside].sum())
    here, there = float(promised[inside].mean()), float(promised[outside].mean())
    low, high = difference_of_shares(k, n, k_outside, n_outside, alpha)
    mended = float(expected[inside].mean() - expected[outside].mean())
    certain = min(wilson(k, n, alpha)[0] - here, low - mended)
    interval = (low - (here - there), high - (here - there))
    return Gap(k / n - here, k_outside / n_outside - there, interval, certain, k / n, here)

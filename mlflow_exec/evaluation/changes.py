"""How far two answers of a model to the same rows are from each other."""

from __future__ import annotations

import numpy as np

from mlflow_exec.evaluation.arrays import Floats, Mask
from mlflow_exec.evaluation.outputs import Outputs

# What numbers differ by from rounding alone (as in `numpy.isclose`), and where predictions of a
# regression are others (Giskard 2.19).
ROUNDING = 1e-5
RELATIVE_CHANGE = 0.05


def differ(one: Outputs, other: Outputs, tolerance: float = ROUNDING) -> Mask:
    """Return which rows have any difference beyond rounding, also one of probabilities only."""
    if one.probabilities is not None and other.probabilities is not None:
        close = _close(one.probabilities, other.probabilities, tolerance).all(axis=1)
        return np.logical_not(close)
    if one.codes is None or other.codes is None:
        return np.logical_not(_close(one.values, other.values, tolerance))
    return _other_classes(one, other)


def change(
    one: Outputs, other: Outputs, spread: float, relative: float = RELATIVE_CHANGE
) -> Mask:
    """Return which rows have another class, or a number that is so much higher or lower.

    Args:
        one: Some answers.
        other: To the same rows, or to changed ones.
        spread: Of a regression's predictions (see `spread_of`): differences are relative to the
            first number, or to this where it is more, as near zero every number is far from all.
        relative: From which difference on a number is another one.
    """
    if one.codes is None or other.codes is None:
        scale = np.maximum(np.abs(one.values), spread)
        return np.asarray(np.abs(one.values - other.values) > relative * scale)
    return _other_classes(one, other)


def spread_of(outputs: Outputs) -> float:
    """Return the standard deviation of a regression's predictions; 0 of a classification."""
    return 0.0 if outputs.codes is not None else float(np.std(outputs.values))


def _other_classes(one: Outputs, other: Outputs) -> Mask:
    # Classes that are not known have no code, so they are told apart by what they are.
    unknown = (one.codes == -1) & (other.codes == -1)
    return np.asarray((one.codes != other.codes) | (unknown & (one.values != other.values)))


def _close(one: Floats, other: Floats, tolerance: float) -> Mask:
    # Near zero a relative difference is one of rounding: the spread of all says what is small.
    least = max(tolerance * float(np.std(one)), 1e-12)
    close: Mask = np.abs(one - other) <= least + tolerance * np.abs(other)
    return close

"""Fewer rows, where there are more than what is computed with them can take."""

from __future__ import annotations

import numpy as np

from mlflow_exec.evaluation.arrays import Integers


def at_most(rows: Integers, most: int, rng: np.random.Generator) -> Integers:
    """Return all rows, or so many that are drawn from them, in order."""
    if len(rows) <= most:
        return rows
    return np.sort(rng.choice(rows, most, replace=False))

"""Models whose probabilities are those of the labels, and such with a fault in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mlflow_exec.evaluation.arrays import Floats, Mask
from mlflow_exec.evaluation.findings import Result
from tests.unit.evaluation.planted import people, scanned


@dataclass(frozen=True, eq=False)
class Confident:
    """Rows, their labels, the probability of the label 1 as it is, and some rows in a range."""

    features: pd.DataFrame
    labels: np.ndarray[Any, Any]
    probability: Floats
    rows: Mask

    def scanned(self, shown: Floats, checks: Any, **settings: Any) -> Result:
        """Scan a model that tells these probabilities of the label 1."""
        table = np.column_stack([1 - shown, shown])
        return scanned(
            self.features, self.labels, lambda asked: table[asked.index], checks, **settings
        )

    def surer(self, by: float, rows: Mask | None = None) -> Floats:
        """The probabilities with so much more confidence in some rows; never another class."""
        confidence = np.maximum(self.probability, 1 - self.probability)
        moved = np.clip(confidence + by, 0.501, 0.999)
        moved = np.where(self.rows if rows is None else rows, moved, confidence)
        return np.where(self.probability > 0.5, moved, 1 - moved)

    def sharper(self, factor: float) -> Floats:
        """The probabilities with their logits times a factor."""
        logits = np.log(self.probability / (1 - self.probability))
        return np.asarray(1 / (1 + np.exp(-factor * logits)))


def confident(n_rows: int, seed: int) -> Confident:
    """A range of 5 to 10 % of the heights; the labels depend on the income alone."""
    features = people(n_rows, seed)
    rng = np.random.default_rng([seed, 5])
    rank = features["income"].rank(pct=True).to_numpy()
    probability = np.asarray(1 / (1 + np.exp(-6 * (rank - 0.5))))
    labels = (rng.random(n_rows) < probability).astype(int)
    share = rng.uniform(0.05, 0.1)
    begin = rng.uniform(0, 1 - share)
    height = features["height"].rank(pct=True).to_numpy()
    return Confident(features, labels, probability, (height > begin) & (height <= begin + share))

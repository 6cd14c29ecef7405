"""Data and models with a fault that is known, for the tests of the checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from mlflow_exec.evaluation.arrays import Mask
from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.findings import Finding, Result
from mlflow_exec.evaluation.model import Model
from mlflow_exec.evaluation.scan import scan
from mlflow_exec.evaluation.settings import ScanSettings


@dataclass(frozen=True, eq=False)
class Planted:
    """A data set and the rows where the model was made worse."""

    features: pd.DataFrame
    labels: np.ndarray[Any, Any]
    rows: Mask


def people(n_rows: int, seed: int) -> pd.DataFrame:
    """Features of all kinds that have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame({
        "age": rng.integers(18, 90, n_rows),
        "income": rng.lognormal(10, 0.5, n_rows).round(2),
        "height": rng.normal(170, 10, n_rows),
        "city": rng.choice(["Ulm", "Bonn", "Kiel", "Jena"], n_rows, p=[0.4, 0.3, 0.2, 0.1]),
        "member": rng.random(n_rows) < 0.3,
    })  # fmt: skip


def is_rich(features: pd.DataFrame) -> np.ndarray[Any, Any]:
    """The model: it knows the truth, up to the noise of the labels."""
    return np.asarray(features["income"] > 22_000).astype(int)


def worse_slice(n_rows: int, seed: int, *, noise: float = 0.1, worse: float = 0.15) -> Planted:
    """Labels that are noisy everywhere, and more so for an interval of heights."""
    features = people(n_rows, seed)
    rng = np.random.default_rng([seed, 1])
    share = rng.uniform(0.05, 0.1)
    begin = rng.uniform(0, 1 - share)
    rank = features["height"].rank(pct=True).to_numpy()
    rows = (rank > begin) & (rank <= begin + share)
    wrong = rng.random(n_rows) < np.where(rows, noise + worse, noise)
    return Planted(features, np.where(wrong, 1 - is_rich(features), is_rich(features)), rows)


def scanned(
    features: Any, labels: Any, predict: Any, checks: Any = None, *,
    reference: Data | None = None, **settings: Any,
) -> Result:  # fmt: skip
    """Scan a function as a model."""
    data = Data(features, labels, reference=reference)
    given = ScanSettings(checks=checks, **settings)
    return scan(data, Model(predict, data, classes=given.classes), given)


def overlap(finding: Finding, rows: Mask) -> float:
    """The Jaccard index of a finding's slice with some rows."""
    return 0.0 if finding.slice is None else finding.slice.overlap(rows)

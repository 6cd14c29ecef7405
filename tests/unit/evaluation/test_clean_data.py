"""Sound models on real data: a scan of them has next to nothing to say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.findings import Result, Severity
from tests.unit.evaluation.planted import scanned

LOADERS = {
    "breast cancer": load_breast_cancer,
    "diabetes": load_diabetes,
    "digits": load_digits,
    "wine": load_wine,
}


def clean_scan(name: str, seed: int) -> Result:
    """Train on one half of the rows, scan on the other: another split and another kind of model
    with each seed."""
    features, labels = LOADERS[name](return_X_y=True, as_frame=True)
    train, test, known, asked = train_test_split(
        features, labels, test_size=0.5, random_state=seed,
        stratify=None if name == "diabetes" else labels,
    )  # fmt: skip
    linear = seed % 2 == 0
    estimator: Any
    if name == "diabetes":
        forest = RandomForestRegressor(50, random_state=seed, max_depth=6)
        estimator = RidgeCV() if linear else forest
        predict = estimator.fit(train, known).predict
    else:
        simple = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        estimator = simple if linear else RandomForestClassifier(50, random_state=seed)
        predict = estimator.fit(train, known).predict_proba
    return scanned(test, asked, predict, reference=Data(train, known), seed=seed)


@pytest.mark.parametrize("name", LOADERS)
def test_a_sound_model_has_nothing_major(name: str) -> None:
    result = clean_scan(name, 1)
    assert [skipped for skipped in result.skipped if not skipped.expected] == []
    assert result.count(Severity.MAJOR) == 0
    assert result.count(Severity.MEDIUM) <= 1


@pytest.mark.large
def test_of_100_scans_of_sound_models_5_have_a_major_finding_at_most() -> None:
    results = [clean_scan(name, seed) for name in LOADERS for seed in range(25)]
    assert sum(result.count(Severity.MAJOR) > 0 for result in results) <= 5
    assert np.mean([result.count(Severity.MEDIUM) for result in results]) <= 1

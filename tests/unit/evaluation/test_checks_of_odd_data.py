"""The checks of confidence, correlation and robustness give a result for odd data, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.unit.evaluation.planted import people, scanned

CHECKS = ("baseline", "calibration", "overconfidence", "robustness", "spurious_correlation",
          "stochasticity", "underconfidence")  # fmt: skip
N_ROWS = 120


def _holes(features: pd.DataFrame) -> pd.DataFrame:
    features = features.astype({"age": float})
    features.loc[::3, "age"] = np.nan
    features.loc[::4, "height"] = np.inf
    features.loc[::5, "city"] = None
    return features


def _times(features: pd.DataFrame) -> pd.DataFrame:
    hours = np.arange(N_ROWS)
    return features.assign(
        at=pd.Timestamp("2024-01-01", tz="UTC") + pd.to_timedelta(hours, unit="h"),
        took=pd.to_timedelta(hours, unit="min"),
    )


def _twice(features: pd.DataFrame) -> pd.DataFrame:
    return features.set_axis(["größe", "größe", "größe", "名前", "名前"], axis=1)


def _others(features: pd.DataFrame) -> pd.DataFrame:
    mixed = [1, 2.5, None, 4] * (N_ROWS // 4)
    return features.assign(
        mixed=pd.Series(mixed, dtype=object), same=1.0, lists=[[1, 2]] * N_ROWS,
        big=np.arange(N_ROWS, dtype="uint64") + np.uint64(2**63),
        texts=[f"a text, No. {n}" if n % 7 else None for n in range(N_ROWS)],
        kind=pd.Categorical(features["city"]), real=np.linspace(0, 1, N_ROWS, dtype="float16"),
    )  # fmt: skip


@pytest.mark.parametrize(
    "change", [_holes, _times, _twice, _others, lambda features: features[["city"]]],
    ids=["holes", "times", "names", "others", "one column"],
)  # fmt: skip
@pytest.mark.parametrize("n_classes", [1, 2, 4])
def test_odd_data_gives_a_result(
    change: Callable[[pd.DataFrame], pd.DataFrame], n_classes: int
) -> None:
    features = change(people(N_ROWS, 1))
    rng = np.random.default_rng(2)
    table = rng.dirichlet(np.ones(4), N_ROWS)
    labels = rng.integers(0, n_classes, N_ROWS)

    def predict(rows: pd.DataFrame) -> Any:
        return table[rows.index]

    result = scanned(features, labels, predict, CHECKS, classes=(0, 1, 2, 3))
    assert [skipped for skipped in result.skipped if not skipped.expected] == []


@pytest.mark.parametrize("n_rows", [20, 21, 40])
def test_a_few_rows_give_a_result(n_rows: int) -> None:
    features = people(n_rows, 3)
    rng = np.random.default_rng(4)
    table = rng.dirichlet(np.ones(2), n_rows)
    labels = np.array(["no", "yes"])[rng.integers(0, 2, n_rows)]
    result = scanned(
        features, labels, lambda rows: table[rows.index], CHECKS, classes=("no", "yes")
    )
    assert [skipped for skipped in result.skipped if not skipped.expected] == []


def test_a_class_that_the_model_does_not_know_gives_a_result() -> None:
    features = people(N_ROWS, 5)
    rng = np.random.default_rng(6)
    table = rng.dirichlet(np.ones(2), N_ROWS)
    labels = rng.integers(0, 3, N_ROWS)
    result = scanned(features, labels, lambda rows: table[rows.index], CHECKS, classes=(0, 1))
    assert [skipped for skipped in result.skipped if not skipped.expected] == []


def test_a_regression_of_a_constant_gives_a_result() -> None:
    features = people(N_ROWS, 7)
    labels = np.linspace(0.0, 1.0, N_ROWS)
    result = scanned(features, labels, lambda rows: np.zeros(len(rows)), CHECKS)
    assert [skipped for skipped in result.skipped if not skipped.expected] == []
    assert {finding.check for finding in result.findings} == {"baseline"}

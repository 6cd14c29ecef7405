"""The check `drift`: data that is distributed otherwise than the reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.model_selection import train_test_split

from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.findings import Result, Severity
from mlflow_exec.evaluation.model import Model
from mlflow_exec.evaluation.scan import scan
from mlflow_exec.evaluation.settings import ScanSettings
from tests.unit.evaluation.planted import is_rich, people
from tests.unit.evaluation.planted import scanned as scanned_alone

CHECK = "drift"
SEEDS = [*range(3), *(pytest.param(seed, marks=pytest.mark.large) for seed in range(3, 50))]


def scanned(reference: Data, data: Data, predict: Any = is_rich) -> Result:
    data.reference = reference
    return scan(data, Model(predict, data), ScanSettings(checks=[CHECK]))


def names(result: Result) -> dict[str, Severity]:
    assert result.skipped == ()
    return {finding.details["name"]: finding.severity for finding in result.findings}


def labelled(features: pd.DataFrame) -> Data:
    return Data(features, is_rich(features))


@pytest.mark.parametrize("seed", SEEDS)
def test_features_that_drifted_are_found_and_others_are_not(seed: int) -> None:
    before, after = people(1000, seed), people(1000, seed + 1000)
    after["age"] = after["age"] + 15
    after["city"] = after["city"].where(np.random.default_rng(seed).random(1000) < 0.5, "Ulm")
    found = names(scanned(labelled(before), labelled(after)))
    assert found.pop("age") is Severity.MAJOR
    assert found.pop("city") in (Severity.MAJOR, Severity.MEDIUM)
    assert all(severity is Severity.MINOR for severity in found.values())


def test_a_finding_tells_by_how_much() -> None:
    before, after = people(2000, 1), people(1500, 2)
    after["height"] = after["height"] + 10  # a standard deviation
    [finding] = scanned(labelled(before), labelled(after)).findings
    assert finding.details["kind"] == "feature"
    assert finding.details["wasserstein"] == pytest.approx(1, abs=0.1)
    assert finding.details["ks"] == pytest.approx(0.38, abs=0.05)
    assert finding.figure == pytest.approx(1, abs=0.15)  # of two normal distributions so far apart
    assert finding.interval is not None
    assert finding.interval[0] < finding.figure < finding.interval[1]
    assert finding.plot is not None
    assert set(finding.plot.series) == {"reference", "data"}
    assert sum(finding.plot.series["data"]) == pytest.approx(100)


def test_labels_and_predictions_are_compared() -> None:
    before, after = people(1000, 3), people(1000, 4)
    after["income"] = after["income"] * 0.6
    found = names(scanned(labelled(before), labelled(after)))
    assert set(found) == {"income", "the target", "the predicted class"}
    assert set(found.values()) == {Severity.MAJOR}


def test_missing_values_and_new_categories_are_drift() -> None:
    before, after = people(800, 5), people(800, 6)
    after.loc[after.index[:200], "height"] = np.nan
    after.loc[after.index[200:400], "city"] = "Mülheim"
    found = names(scanned(labelled(before), labelled(after)))
    assert found == {"height": Severity.MAJOR, "city": Severity.MAJOR}


def test_texts_are_compared_by_their_length() -> None:
    rng = np.random.default_rng([7, 1])
    before, after = (
        pd.DataFrame({"t": [" ".join(["word"] * n + [str(k)]) for k, n in enumerate(sizes)]})
        for sizes in (rng.integers(5, 20, 500), rng.integers(15, 30, 500))
    )
    labels = rng.integers(0, 2, 500)
    found = names(scanned(Data(before, labels), Data(after, labels), lambda rows: labels))
    assert found == {
        "the length of t": Severity.MAJOR, "the number of words of t": Severity.MAJOR
    }  # fmt: skip


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["wine", "breast_cancer", "diabetes", "digits"])
def test_a_random_split_of_real_data_is_no_drift(name: str, seed: int) -> None:
    features, labels = getattr(datasets, f"load_{name}")(return_X_y=True)
    split = train_test_split(features, labels, test_size=0.4, random_state=seed)
    learner = RandomForestRegressor if name == "diabetes" else RandomForestClassifier
    model = learner(20, random_state=seed, min_samples_leaf=5).fit(split[0], split[2])
    found = names(scanned(Data(split[0], split[2]), Data(split[1], split[3]), model.predict))
    assert Severity.MAJOR not in found.values()
    assert Severity.MEDIUM not in found.values()


def test_without_a_reference_it_is_skipped() -> None:
    features = people(100, 8)
    [skipped] = scanned_alone(features, is_rich(features), is_rich, CHECK).skipped
    assert skipped.expected
    assert skipped.reason == "there is no reference to compare the data with"


def test_a_reference_without_a_column_is_told() -> None:
    before, after = people(100, 9), people(100, 10)
    [skipped] = scanned(labelled(before).__class__(before.drop(columns="city")),
                        labelled(after)).skipped  # fmt: skip
    assert skipped.reason == "reference: columns of the data are missing in it: city"


def test_numbers_that_are_texts_in_the_reference_are_numbers() -> None:
    before, after = people(300, 12), people(300, 13)
    texts = before.assign(age=before["age"].astype(str), member=before["member"].astype(int))
    assert names(scanned(Data(texts), labelled(after), lambda rows: np.ones(len(rows)))) == {}


def test_odd_columns_are_compared_or_left_out() -> None:
    rng = np.random.default_rng(11)

    def odd(n_rows: int) -> pd.DataFrame:
        return people(n_rows, n_rows).assign(
            empty=np.nan, one=1, infinite=np.where(rng.random(n_rows) < 0.5, np.inf, 1.0),
            lists=[[1]] * n_rows, time=pd.date_range("2024-01-01", periods=n_rows),
        )  # fmt: skip

    assert names(scanned(labelled(odd(300)), labelled(odd(200)))) == {}
    other = odd(200).assign(one=2, empty="full", infinite="text")
    found = names(scanned(labelled(odd(300)), labelled(other)))
    assert set(found) == {"one", "empty", "infinite"}

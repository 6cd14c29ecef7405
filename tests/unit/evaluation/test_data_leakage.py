"""The check `data_leakage`: features that give the target away, rows that are there twice."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn import datasets

from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.findings import Finding, Result, Severity
from mlflow_exec.evaluation.model import Model
from mlflow_exec.evaluation.scan import scan
from mlflow_exec.evaluation.search import SliceSearch
from mlflow_exec.evaluation.settings import ScanSettings
from mlflow_exec.evaluation.single_features import (
    tellable_classes,
    tellable_numbers,
    told_classes,
    told_numbers,
)
from tests.unit.evaluation.planted import people

CHECK = "data_leakage"
CLASSES = {"wine": datasets.load_wine, "breast_cancer": datasets.load_breast_cancer,
           "digits": datasets.load_digits}  # fmt: skip
SEEDS = [*range(1), *(pytest.param(seed, marks=pytest.mark.large) for seed in range(1, 50))]


def scanned(
    features: pd.DataFrame, labels: Any, reference: Data | None = None, seed: int = 0
) -> Result:
    """Scan a model that knows the labels: what it says is of no matter here."""
    data = Data(features, labels, reference=reference)
    settings = ScanSettings(checks=[CHECK], seed=seed)
    result = scan(data, Model(None, data, predictions=np.asarray(labels)), settings)
    assert result.skipped == ()
    return result


def real(name: str) -> tuple[pd.DataFrame, Any]:
    """Features and labels of a data set that scikit-learn ships."""
    load = (CLASSES | {"diabetes": datasets.load_diabetes})[name]
    features, labels = load(as_frame=True, return_X_y=True)
    return features, labels


def found_of(result: Result, feature: str) -> list[Finding]:
    return [f for f in result.findings if f.details.get("feature") == feature]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_a_copy_of_the_classes_with_noise_is_found(name: str, seed: int) -> None:
    features, labels = real(name)
    labels = np.asarray(labels)
    rng = np.random.default_rng(seed)
    others = rng.integers(1, labels.max() + 1, len(labels))
    noisy = np.where(rng.random(len(labels)) < 0.1, (labels + others) % (labels.max() + 1), labels)
    [finding] = found_of(scanned(features.assign(copy=noisy), labels, seed=seed), "copy")
    assert finding.severity is Severity.MAJOR
    assert finding.metric == "agreement"


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("noise", ["small", "some rows"])
def test_a_copy_of_numbers_with_noise_is_found(noise: str, seed: int) -> None:
    features, labels = real("diabetes")
    y, rng = np.asarray(labels, dtype=float), np.random.default_rng(seed)
    if noise == "small":
        copy = y + rng.normal(0, 0.1 * y.std(), len(y))
    else:  # in another unit
        copy = np.where(rng.random(len(y)) < 0.1, rng.permutation(y), y) * 2.54 + 32
    [finding] = found_of(scanned(features.assign(copy=copy), y, seed=seed), "copy")
    assert finding.severity is Severity.MAJOR


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", ["wine", "breast_cancer"])
def test_classes_as_numbers_with_noise_are_found(name: str, seed: int) -> None:
    features, labels = real(name)
    copy = np.asarray(labels) + np.random.default_rng(seed).normal(0, 0.1, len(labels))
    [finding] = found_of(scanned(features.assign(copy=copy), labels, seed=seed), "copy")
    assert (finding.metric, finding.severity) == ("auc", Severity.MAJOR)


def test_a_copy_of_numbers_is_found_in_few_rows() -> None:
    features, labels = real("diabetes")
    features, y = features.iloc[:80], np.asarray(labels, dtype=float)[:80]
    copy = y + np.random.default_rng(2).normal(0, 0.1 * y.std(), 80)
    [finding] = found_of(scanned(features.assign(copy=copy), y), "copy")
    assert finding.severity is Severity.MAJOR


def test_a_feature_that_is_zero_where_the_target_is_is_no_copy() -> None:
    features, rng = people(1000, 2), np.random.default_rng([2, 1])
    none, amounts = rng.random(1000) < 0.6, rng.lognormal(3, 1, 1000)
    visits = np.where(none, 0, rng.integers(1, 30, 1000))
    assert scanned(features.assign(visits=visits), np.where(none, 0, amounts)).findings == ()


def test_a_copy_by_other_names_is_found_among_few_positives() -> None:
    features, rng = people(1000, 3), np.random.default_rng([3, 1])
    labels = (rng.random(1000) < 0.06).astype(int)
    noisy = np.where(rng.random(1000) < 0.1, 1 - labels, labels)
    leaking = features.assign(outcome=np.array(["paid", "defaulted"])[noisy])
    [finding] = scanned(leaking, labels).findings
    assert (finding.details["feature"], finding.severity) == ("outcome", Severity.MAJOR)
    assert finding.title.startswith("outcome looks like a copy of the target: they agree to ")


def test_a_missing_value_that_tells_the_class_is_found() -> None:
    features, rng = people(600, 4), np.random.default_rng([4, 1])
    labels = rng.integers(0, 2, 600)
    closed = np.where(labels == 1, rng.normal(size=600), np.nan)
    [finding] = scanned(features.assign(closed_at=closed), labels).findings
    assert (finding.details["feature"], finding.severity) == ("closed_at", Severity.MAJOR)


def test_a_feature_that_stands_out_is_looked_at() -> None:
    features, rng = people(800, 5), np.random.default_rng([5, 1])
    labels = rng.integers(0, 2, 800)
    noisy = np.where(rng.random(800) < 0.1, 1 - labels, labels) + rng.normal(0, 0.1, 800)
    [finding] = scanned(features.assign(score=noisy), labels).findings
    assert (finding.metric, finding.severity) == ("auc", Severity.MEDIUM)
    assert finding.figure == pytest.approx(0.9, abs=0.03)
    assert finding.compared_to == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("name", [*CLASSES, "diabetes"])
def test_honest_features_are_not_told(name: str) -> None:
    features, labels = real(name)
    assert scanned(features, labels).findings == ()


@pytest.mark.parametrize("name", [*CLASSES, "diabetes"])
def test_what_bins_tell_is_no_less_than_what_a_tree_tells(name: str) -> None:
    features, labels = real(name)
    data, y = Data(features), np.asarray(labels)
    rows, folds = np.arange(len(y)), np.random.default_rng(1).random(len(y)) < 0.5
    told, tellable = (
        (told_numbers, tellable_numbers) if name == "diabetes"
        else (told_classes, tellable_classes)
    )  # fmt: skip
    axes = [axis for axis in SliceSearch(data).axes if axis.is_ordered]
    for axis in axes[:15]:
        column = data.column(axis.column)
        least = told(column, y, rows, folds).figure - 0.02
        assert tellable(column.values, axis.codes, y) >= least


def test_rows_that_the_model_learnt_from_are_found() -> None:
    features, labels = real("breast_cancer")
    learnt, test = features.iloc[:400], features.iloc[380:].reset_index(drop=True)
    result = scanned(test, labels.iloc[380:], Data(learnt[learnt.columns[::-1]]))
    [finding] = result.findings
    assert (finding.severity, finding.size) == (Severity.MAJOR, 20)
    assert finding.examples == (0, 1, 2, 3, 4)
    assert finding.title == (
        "10.6 % of the rows are among those that the model learnt from (20 of 189)"
    )


def test_a_clean_split_is_clean() -> None:
    features, labels = real("breast_cancer")
    assert scanned(features.iloc[400:], labels.iloc[400:], Data(features.iloc[:400])).findings == ()


def test_rows_of_a_few_categories_are_equal_by_chance() -> None:
    rng = np.random.default_rng([6, 1])
    rows = pd.DataFrame({"a": rng.choice(list("xyz"), 1000), "b": rng.integers(0, 5, 1000)})
    labels = rng.integers(0, 2, 500)
    assert scanned(rows.iloc[500:], labels, Data(rows.iloc[:500])).findings == ()


def test_rows_that_are_there_twice_are_told() -> None:
    features = people(500, 7)
    doubled = pd.concat([features, features.iloc[:30]], ignore_index=True)
    labels = np.random.default_rng([7, 1]).integers(0, 2, 530)
    labels[500:530] = labels[:30]
    labels[529] = 1 - labels[29]
    [finding] = scanned(doubled, labels).findings
    assert (finding.severity, finding.size) == (Severity.MINOR, 30)
    assert finding.examples == (500, 501, 502, 503, 504)
    assert finding.details == {"n_with_contradicting_labels": 2}


def test_numbers_that_are_texts_in_the_other_set_are_the_same() -> None:
    rng = np.random.default_rng([8, 1])
    learnt = pd.DataFrame({"x": rng.integers(0, 10**6, 100), "t": [[n, "é"] for n in range(100)]})
    test = learnt.iloc[:50].assign(x=[str(x) for x in learnt["x"][:50]])
    [finding] = scanned(test, rng.integers(0, 2, 50), Data(learnt)).findings
    assert finding.size == 50


def odd(name: str) -> tuple[pd.DataFrame, Any]:
    rng = np.random.default_rng([9, 1])
    rows = pd.DataFrame({"x": rng.normal(size=30), "ü": [None] * 30, "x ": np.full(30, np.inf)})
    frames = {
        "one class": (rows, ["a"] * 30),
        "few rows": (rows.iloc[:20], rng.integers(0, 2, 20)),
        "rare classes": (rows, [*range(10), *[11] * 20]),
        "wide": (pd.DataFrame(rng.normal(size=(100, 300))), rng.integers(0, 2, 100)),
        "doubled names": (rows.set_axis(["x", "x", "x"], axis=1), rng.normal(size=30)),
        "times": (pd.DataFrame({"t": pd.date_range("2024", periods=50)}), rng.normal(size=50)),
        "constant target": (rows, np.full(30, 1.5)),
    }
    return frames[name]


@pytest.mark.parametrize("name", ["one class", "few rows", "rare classes", "wide", "doubled names",
                                  "times", "constant target"])  # fmt: skip
def test_odd_data_finds_nothing(name: str) -> None:
    assert scanned(*odd(name)).findings == ()

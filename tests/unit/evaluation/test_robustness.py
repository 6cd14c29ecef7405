"""The check `robustness`: predictions that small changes of the values change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlflow_exec.errors import ConfigError
from mlflow_exec.evaluation.findings import Severity
from tests.unit.evaluation.planted import is_rich, people, scanned

CHECK = "robustness"
FEATURES = people(800, 1)
WORDS = ["good", "bad", "slow", "fast", "kind", "rude", "again", "never", "late", "clean"]


def opinions(n_rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    texts = [" ".join(rng.choice(WORDS, 8)) + f" ({number})." for number in range(n_rows)]
    return pd.DataFrame({"text": texts})


def is_good(rows: pd.DataFrame) -> Any:
    """Counts words, whatever their case."""
    texts = rows["text"].str.lower()
    return (texts.str.count("good") > texts.str.count("bad")).astype(int)


def test_a_model_that_goes_by_the_last_digit_is_found_with_the_column() -> None:
    def predict(rows: pd.DataFrame) -> Any:
        return (np.floor(rows["height"] * 10) % 2).astype(int)

    result = scanned(FEATURES, predict(FEATURES), predict, CHECK)
    assert {f.details["perturbation"] for f in result.findings} == {
        "times_0.99", "times_1.01", "noise"}  # fmt: skip
    for finding in result.findings:
        assert finding.severity is Severity.MAJOR
        assert finding.details["by_column"] == {"height": 1.0}
        assert finding.interval is not None
        assert finding.interval[0] < finding.figure - 0.05 < finding.interval[1]
        assert finding.examples


def test_numbers_that_jump_are_found_and_steady_ones_are_not() -> None:
    def jumping(rows: pd.DataFrame) -> Any:
        return 100 + 20 * (np.floor(rows["height"] * 3) % 2)

    def steady(rows: pd.DataFrame) -> Any:
        return rows["height"] * 2 - 100.0

    assert len(scanned(FEATURES, jumping(FEATURES) + 0.5, jumping, CHECK).findings) == 3
    assert scanned(FEATURES, steady(FEATURES), steady, CHECK).findings == ()


def test_whole_numbers_stay_whole_and_of_their_type_and_in_their_range() -> None:
    seen: list[pd.DataFrame] = []

    def predict(rows: pd.DataFrame) -> Any:
        seen.append(rows)
        return is_rich(rows)

    features = FEATURES.assign(
        small=np.tile([0, 1], 400).astype("int8"),
        large=np.arange(800, dtype="int32") - 7,
        count=pd.array([None, *range(1, 800)], dtype="Int64"),
        whole=np.arange(800.0),
        short=np.linspace(0, 1, 800, dtype="float32"),
    )
    result = scanned(features, is_rich(features), predict, CHECK)
    assert (result.findings, result.skipped) == ((), ())
    assert len(seen) > 3
    for rows in seen:
        assert rows.dtypes.to_dict() == features.dtypes.to_dict()
        assert (rows["whole"] == rows["whole"].round()).all()
        for name in ("age", "large", "short"):
            assert rows[name].between(features[name].min(), features[name].max()).all()
        assert rows["count"].isna().sum() == features.loc[rows.index, "count"].isna().sum()
    assert any((rows["large"] != features.loc[rows.index, "large"]).any() for rows in seen)


def test_a_text_model_that_goes_by_capitals_is_found() -> None:
    features = opinions(300, 2)

    def predict(rows: pd.DataFrame) -> Any:
        return (rows["text"].str.count("good") > rows["text"].str.count("bad")).astype(int)

    found = scanned(features, is_good(features), predict, CHECK).findings
    assert {f.details["perturbation"] for f in found} >= {"upper", "title"}
    assert {f.details["column"] for f in found} == {"text"}
    [capitals] = [f for f in found if f.details["perturbation"] == "upper"]
    assert capitals.severity is Severity.MAJOR
    assert "when text is in capitals" in capitals.title


def test_a_text_model_that_does_not_is_not() -> None:
    features = opinions(300, 3)
    features.loc[::10, "text"] = None

    def predict(rows: pd.DataFrame) -> Any:
        return (rows["text"].str.lower().str.count("go|fa|ne|cl") > 3).fillna(False).astype(int)

    names = ("upper", "lower", "title", "punctuation", "whitespace")
    result = scanned(
        features, predict(features), predict, {CHECK: {"perturbations": names}}
    )
    assert (result.findings, result.skipped) == ((), ())


def test_typos_are_told() -> None:
    features = opinions(300, 4)
    exact = set(features["text"])

    def predict(rows: pd.DataFrame) -> Any:
        return rows["text"].isin(exact).astype(int)

    [finding] = scanned(
        features, predict(features), predict, {CHECK: {"perturbations": ["typos"]}},
        task="classification", classes=(0, 1),
    ).findings  # fmt: skip
    assert finding.figure > 0.9


def test_a_model_of_chance_is_not_told_here() -> None:
    rng = np.random.default_rng(5)
    result = scanned(
        FEATURES, is_rich(FEATURES), lambda rows: rng.integers(0, 2, len(rows)), CHECK
    )
    assert (result.findings, result.skipped) == ((), ())


def test_data_without_numbers_and_texts_is_skipped() -> None:
    features = FEATURES[["city", "member"]]
    labels = is_rich(FEATURES)
    [skipped] = scanned(features, labels, lambda rows: labels[rows.index], CHECK).skipped
    assert (skipped.reason, skipped.expected) == ("there are no columns of numbers or texts", True)


def test_an_unknown_perturbation_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown perturbation 'upside'\. Known: times_0\.99"):
        scanned(
            FEATURES, is_rich(FEATURES), is_rich, {CHECK: {"perturbations": ["upside"]}}
        )

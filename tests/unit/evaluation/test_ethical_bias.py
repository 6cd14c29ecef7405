"""The check `ethical_bias`: groups of people that the model treats differently."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fairlearn.metrics import demographic_parity_difference, equalized_odds_difference

from mlflow_exec.evaluation.findings import Finding, Severity
from mlflow_exec.evaluation.word_swaps import KINDS, SWAPS, swapped
from tests.unit.evaluation.planted import is_rich, people, scanned

CHECK = "ethical_bias"
SEEDS = [*range(2), *(pytest.param(seed, marks=pytest.mark.large) for seed in range(2, 50))]
Labels = np.ndarray[Any, Any]


def named(*sensitive: str) -> dict[str, Any]:
    return {CHECK: {"sensitive": list(sensitive)}}


def applicants(seed: int, n_rows: int = 2000) -> tuple[pd.DataFrame, Labels]:
    """People with a sex that has nothing to do with what is right, up to noise."""
    rng = np.random.default_rng([seed, 1])
    features = people(n_rows, seed).assign(sex=rng.choice(["f", "m"], n_rows))
    noise = rng.random(n_rows) < 0.1
    return features, np.where(noise, 1 - is_rich(features), is_rich(features))


def prefers_men(rows: pd.DataFrame) -> Labels:
    """Asks a third more of women."""
    bound = np.where(rows["sex"] == "m", 19_000, 26_000)
    return np.asarray(rows["income"] > bound).astype(int)


def by_metric(findings: tuple[Finding, ...]) -> dict[str, Finding]:
    return {finding.metric: finding for finding in findings}


@pytest.mark.parametrize("seed", SEEDS)
def test_a_model_that_uses_a_sensitive_feature_is_found(seed: int) -> None:
    features, labels = applicants(seed)
    result = scanned(features, labels, prefers_men, named("sex"))
    found = by_metric(result.findings)
    said, groups = prefers_men(features), features["sex"]
    assert set(found) == {"demographic_parity_difference", "equalized_odds_difference",
                          "share_of_changed_predictions"}  # fmt: skip
    assert Severity.MAJOR in {finding.severity for finding in found.values()}
    parity, odds = (found[name] for name in sorted(found)[:2])
    assert parity.figure == pytest.approx(
        demographic_parity_difference(labels, said, sensitive_features=groups)
    )
    assert odds.figure == pytest.approx(
        equalized_odds_difference(labels, said, sensitive_features=groups)
    )
    assert result.skipped == ()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_fair_model_is_clean(seed: int) -> None:
    features, labels = applicants(seed)
    result = scanned(features, labels, is_rich, named("sex", "city", "age"))
    assert (result.findings, result.skipped) == ((), ())


def test_a_finding_names_the_groups() -> None:
    features, labels = applicants(3)
    found = by_metric(scanned(features, labels, prefers_men, named("sex")).findings)
    parity = found["demographic_parity_difference"]
    assert parity.title == (
        "1 is predicted for 60.8 % of those with sex m, and for 37.8 % with f"
    )
    assert parity.details["difference_of_labels"] < 0.05
    assert parity.plot is not None
    assert parity.plot.x == tuple(parity.details["rates"])


def test_a_difference_that_the_labels_have_is_less_severe() -> None:
    features, _ = applicants(4)
    labels = prefers_men(features)
    found = by_metric(scanned(features, labels, prefers_men, named("sex")).findings)
    assert found["demographic_parity_difference"].severity is Severity.MEDIUM
    assert "equalized_odds_difference" not in found


def test_numbers_are_cut_into_quarters_and_small_groups_are_left_out() -> None:
    features, labels = applicants(5)
    features["sex"] = features["sex"].where(np.arange(2000) >= 20, None)  # 20 missing ones

    def prefers_the_young(rows: pd.DataFrame) -> Labels:
        return np.asarray(rows["age"] < 40).astype(int)

    result = scanned(features, labels, prefers_the_young, named("age", "sex"))
    parity = by_metric(result.findings)["demographic_parity_difference"]
    assert parity.figure == 1.0
    assert next(iter(parity.details["rates"])).startswith("< ")
    assert len(parity.details["rates"]) == 4
    assert {finding.details["feature"] for finding in result.findings} == {"age"}


def test_each_of_several_classes_is_compared() -> None:
    features, _ = applicants(6)

    def grades(rows: pd.DataFrame) -> Labels:
        rich = np.digitize(rows["income"], [18_000, 27_000])
        return np.where((rows["sex"] == "f") & (rich == 2), 1, rich)

    result = scanned(features, None, grades, named("sex"))
    classes = {f.details["class"] for f in result.findings if "class" in f.details}
    assert classes == {"1", "2"}


def test_what_sounds_sensitive_is_a_hint_only() -> None:
    features, labels = applicants(7)
    [skipped] = scanned(features, labels, prefers_men, CHECK).skipped
    assert skipped.expected
    assert skipped.reason == (
        "no sensitive features are named; set checks.ethical_bias.sensitive "
        "(by their names: age, sex?)"
    )


def test_a_column_that_is_not_there_is_told() -> None:
    features, labels = applicants(8, 100)
    [skipped] = scanned(features, labels, prefers_men, named("gender")).skipped
    assert skipped.reason.startswith("data: there is no column 'gender'. Known: age, ")


@pytest.mark.parametrize("values", [1, None, [[1]] * 300, ["a"] * 290 + ["b"] * 10,
                                    [str(n) for n in range(300)]],
                         ids=["constant", "missing", "lists", "rare", "all different"])  # fmt: skip
def test_a_column_without_two_groups_is_told_after_the_others(values: Any) -> None:
    features, labels = applicants(9, 300)
    features = features.assign(of_one=values)
    result = scanned(features, labels, prefers_men, named("of_one", "sex"))
    [skipped] = result.skipped
    assert skipped.reason == (
        "ethical_bias: no two groups of 30 rows (min_group_rows) are in of_one; name other "
        "columns, or give more rows"
    )
    assert {finding.details["feature"] for finding in result.findings} == {"sex"}


def test_without_fairlearn_the_way_on_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fairlearn", None)
    features, labels = applicants(9, 200)
    result = scanned(features, labels, prefers_men, named("sex"))
    [skipped] = result.skipped
    assert not skipped.expected
    assert skipped.reason == (
        "ethical_bias: the metrics of groups need fairlearn, which is not installed; "
        "install mlflow-exec[fair]"
    )
    assert [finding.metric for finding in result.findings] == ["share_of_changed_predictions"]


def test_a_regression_is_asked_about_other_groups() -> None:
    features, _ = applicants(10, 300)

    def wage(rows: pd.DataFrame) -> Any:
        return rows["income"] * np.where(rows["sex"] == "m", 1.1, 1.0)

    labels = wage(features).to_numpy()
    [finding] = scanned(features, labels, wage, named("sex")).findings
    assert (finding.figure, finding.severity) == (1.0, Severity.MAJOR)


def texts(n_rows: int) -> pd.DataFrame:
    rng = np.random.default_rng([11, 1])
    who = rng.choice(["He", "SHE", "my sister", "a Muslim", "the German", "The dog"], n_rows)
    how = rng.choice(["liked it", "hated it", "left early", "came late"], n_rows)
    parts = zip(who, how, rng.integers(1000, 9999, n_rows), strict=True)
    return pd.DataFrame({"text": [f"{a} {b}, order {c}." for a, b, c in parts]})


def test_a_model_of_texts_that_hears_the_gender_is_found() -> None:
    def predict(rows: pd.DataFrame) -> Labels:
        heard = rows["text"].str.contains(r"\b(?:she|her|sister)\b", case=False)
        return np.asarray(heard).astype(int)

    features = texts(600)
    [finding] = scanned(features, predict(features), predict, CHECK).findings
    assert finding.details == {"feature": "text", "words": "gender"}
    assert (finding.figure, finding.severity) == (1.0, Severity.MAJOR)


def test_a_model_of_texts_that_hears_the_mood_only_is_clean() -> None:
    def predict(rows: pd.DataFrame) -> Labels:
        return np.asarray(rows["text"].str.contains("hated")).astype(int)

    features = texts(600)
    result = scanned(features, predict(features), predict, CHECK)
    assert (result.findings, result.skipped) == ((), ())


def test_a_model_of_chance_is_not_told_here() -> None:
    rng = np.random.default_rng([12, 1])
    features = texts(600)

    def predict(rows: pd.DataFrame) -> Labels:
        return np.asarray(rows["text"].str.len() + rng.normal(0, 3, len(rows)) > 25).astype(int)

    severities = [f.severity for f in scanned(features, predict(features), predict, CHECK).findings]
    assert Severity.MAJOR not in severities


@pytest.mark.parametrize(("kind", "text", "other"), [
    ("gender", "HE said that Mr King and his wife", "SHE said that Ms Queen and her husband"),
    ("gender", "Womanly heroes usher themselves", "Womanly heroes usher themselves"),
    ("gender", "her dad", "him mom"),
])  # fmt: skip
def test_words_are_swapped_as_whole_words_in_their_case(kind: str, text: str, other: str) -> None:
    assert swapped(kind, np.random.default_rng(0))(text) == other


@pytest.mark.parametrize("kind", KINDS)
def test_every_word_becomes_another_one(kind: str) -> None:
    swap = swapped(kind, np.random.default_rng(0))
    listed = SWAPS.read_text(encoding="utf-8").split(f"\n{kind}:")[1]
    words = [w for line in listed.splitlines() if line.startswith("  - [") or "    - [" in line
             for w in line.split("[")[1].rstrip("]").split(", ")]  # fmt: skip
    assert len(words) > 20
    assert all(swap(word) != word for word in words[:20])


def test_one_religion_becomes_one_other() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10):
        said = swapped("religion", rng)("Islam has mosques, a mosque has an imam").split()
        assert said[0] != "Islam"
        places = {"judaism": "synagogue", "hinduism": "mandir", "christianity": "church",
                  "buddhism": "pagoda", "sikhism": "gurdwara"}  # fmt: skip
        assert said[4] == places[said[0].lower()]

"""Suites: what passes, what fails and in which words, and what is refused before a scan."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pandas as pd
import pytest
import yaml
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier

from mlflow_exec.errors import ConfigError
from mlflow_exec.evaluation.data import Data
from mlflow_exec.evaluation.findings import Result
from mlflow_exec.evaluation.model import Model
from mlflow_exec.evaluation.report_json import SCHEMA, as_data
from mlflow_exec.evaluation.scan import scan
from mlflow_exec.evaluation.settings import scan_settings
from mlflow_exec.evaluation.suite.reading import read_suite
from mlflow_exec.evaluation.suite.settings import KINDS
from mlflow_exec.evaluation.verdicts import Verdict, failing
from tests.unit.evaluation.planted import is_rich, people

N_ROWS = 400


def written(folder: Path, validations: Any, **more: Any) -> str:
    """A suite as a file."""
    path = folder / "suite.yaml"
    path.write_text(yaml.safe_dump({"validations": validations, **more}, sort_keys=False))
    return str(path)


def noisy(seed: int, share: float) -> tuple[pd.DataFrame, np.ndarray[Any, Any]]:
    """Rows whose labels the model is wrong about in that share, twice as often in Ulm."""
    features = people(N_ROWS, seed)
    wrong = np.random.default_rng(seed).random(N_ROWS) < np.where(
        features["city"] == "Ulm", 2 * share, share
    )
    return features, np.where(wrong, 1 - is_rich(features), is_rich(features))


def judged(
    suite: str, *, reference: bool = False, predict: Any = is_rich, **settings: Any
) -> Result:
    """Scan the model of `planted` with a suite; it is wrong in 5 % of the rows, 10 % in Ulm."""
    features, labels = noisy(1, 0.05)
    data = Data(features, labels)
    if reference:
        data.reference = Data(*noisy(2, 0.0))
    given = scan_settings({"suite": suite, "checks": ["batch_dependence"], **settings})
    return scan(data, Model(predict, data), given)


def verdict(folder: Path, validation: dict[str, Any], **more: Any) -> Verdict:
    """What becomes of one validation."""
    slices = {"slices": more.pop("slices")} if "slices" in more else {}
    [found] = judged(written(folder, {"it": validation}, **slices), **more).verdicts
    return found


LIMITS: list[tuple[dict[str, Any], bool]] = [
    ({"kind": "threshold", "metric": "accuracy", "min": 0.85}, True),
    ({"kind": "threshold", "metric": "accuracy", "min": 0.99}, False),
    ({"kind": "threshold", "metric": "accuracy", "min": 0.5, "max": 0.6}, False),
    ({"kind": "threshold", "metric": "f1", "min": 0.8}, True),
    ({"kind": "threshold", "metric": "accuracy", "slice": "ulm", "max": 0.95}, True),
    ({"kind": "threshold", "metric": "accuracy", "slice": "old in Ulm", "min": 0.99}, False),
    ({"kind": "threshold", "metric": "accuracy", "slice": "ulm", "min": 0, "min_rows": 99}, True),
    ({"kind": "threshold", "metric": "accuracy", "slice": "ulm", "min": 0, "min_rows": 390}, False),
    ({"kind": "threshold", "metric": "scan/batch_dependence/n_major", "equals": 0}, True),
    ({"kind": "threshold", "metric": "scan/n_major", "max": 0}, True),
    ({"kind": "threshold", "metric": "roc_auc", "min": 0}, False),
    ({"kind": "threshold", "metric": "r2", "slice": "nobody", "min": 0}, False),
    ({"kind": "threshold", "metric": "rmse", "max": 100}, False),
    ({"kind": "spread", "metric": "accuracy", "by": "city", "min": 0.8}, True),
    ({"kind": "spread", "metric": "accuracy", "by": "city", "max_std": 0.001}, False),
    ({"kind": "spread", "metric": "accuracy", "by": "age", "max_gap": 0.5}, True),
    ({"kind": "spread", "metric": "accuracy", "by": "city", "min_rows": 399, "min": 0}, False),
    ({"kind": "spread", "metric": "accuracy", "slices": ["ulm", "old in Ulm"], "min": 0.99}, False),
    ({"kind": "dummy", "metric": "accuracy", "min_gain": 0.2}, True),
    ({"kind": "dummy", "metric": "accuracy", "strategy": "stratified", "min_gain": 0.6}, False),
    ({"kind": "dummy", "metric": "accuracy", "strategy": "median"}, False),
    ({"kind": "inference_time", "max_ms": 10_000, "rows": 500, "repeats": 3}, True),
    ({"kind": "inference_time", "max_ms": 1e-6, "repeats": 3}, False),
    ({"kind": "feature_importance", "feature": "income", "top": 1}, True),
    ({"kind": "feature_importance", "feature": "age", "top": 5}, False),
    ({"kind": "feature_importance", "feature": "age", "not_in_top": 5}, True),
    ({"kind": "train_test", "metric": "accuracy", "max_drop": 0.2}, True),
    ({"kind": "train_test", "metric": "accuracy", "max_drop": 0.01}, False),
    ({"kind": "train_test", "metric": "accuracy", "max_relative_drop": 0.01}, False),
    ({"kind": "feature_importance_train_test", "top": 1}, True),
    ({"kind": "feature_importance_train_test", "top": 2, "min_common": 2}, False),
]
SLICES = {
    "ulm": {"column": "city", "value": "Ulm"},
    "old in Ulm": [{"column": "city", "value": "Ulm"}, {"column": "age", "low": 60}],
    "nobody": {"column": "age", "low": 500},
}


def test_each_kind_passes_and_fails_by_its_limits(tmp_path: Path) -> None:
    suite = written(tmp_path, {f"v{n}": block for n, (block, _) in enumerate(LIMITS)},
                    slices=SLICES, scan={"checks": ["batch_dependence"]})  # fmt: skip
    result = judged(suite, reference=True)
    told = {v.message: v.passed for v in result.verdicts}
    assert list(told.values()) == [passes for _, passes in LIMITS], told
    assert {block["kind"] for block, _ in LIMITS} == set(KINDS)
    assert result.skipped == ()
    metrics = result.scan_metrics()
    assert metrics["scan/suite/v0"] == 1
    assert metrics["scan/suite/v1"] == 0
    assert metrics["scan/n_failed_major"] == len([p for _, p in LIMITS if not p])
    jsonschema.validate(as_data(result), yaml.safe_load(SCHEMA.read_text(encoding="utf-8")))


def test_a_failed_validation_says_what_was_wanted_and_what_is(tmp_path: Path) -> None:
    block = {"kind": "threshold", "metric": "accuracy", "slice": "ulm", "min": 0.99, "why": "§ 3"}
    found = verdict(tmp_path, block, slices=SLICES)
    assert found.figure == pytest.approx(0.9, abs=0.05)
    rows = int((people(N_ROWS, 1)["city"] == "Ulm").sum())
    assert found.message.endswith(f"on ulm ({rows} rows); wanted: 0.99 at least (§ 3)")


def test_what_cannot_be_told_has_failed(tmp_path: Path) -> None:
    found = verdict(tmp_path, {"kind": "threshold", "metric": "log_loss", "max": 9})
    assert not found.passed
    assert found.message == (
        "log_loss cannot be told: the model tells no probabilities (of a scikit-learn model, log "
        'it with pyfunc_predict_fn="predict_proba")'
    )


def test_a_check_that_is_asked_about_is_run_and_one_that_was_skipped_fails(tmp_path: Path) -> None:
    block = {"kind": "threshold", "metric": "scan/performance_bias/n_major", "max": 0}
    assert verdict(tmp_path, block).passed
    found = verdict(tmp_path, block, skip=["performance_bias"])
    assert not found.passed
    assert "the check performance_bias was skipped: by the settings" in found.message


def test_a_regression_is_judged_by_its_errors(tmp_path: Path) -> None:
    features = people(N_ROWS, 3)
    noise = np.random.default_rng(3).normal(0, 2, N_ROWS)
    suite = written(tmp_path, {
        "rmse": {"kind": "threshold", "metric": "rmse", "max": 2.5},
        "worst": {"kind": "spread", "metric": "mae", "by": "city", "max": 0.1},
        "dummy": {"kind": "dummy", "metric": "rmse"},
        "income": {"kind": "feature_importance", "feature": "height", "top": 1},
    })  # fmt: skip
    data = Data(features, features["height"] + noise)
    model = Model(lambda rows: rows["height"].to_numpy(), data)
    found = scan(data, model, scan_settings({"suite": suite, "checks": ["batch_dependence"]}))
    assert [v.passed for v in found.verdicts] == [True, False, True, True]


@pytest.mark.parametrize(("error", "passes"), [(0.0, True), (0.1, False)])
def test_a_perfect_model_is_no_worse_than_on_its_reference(
    tmp_path: Path, error: float, passes: bool
) -> None:
    features = people(N_ROWS, 3)
    data = Data(features, features["height"] + error)
    data.reference = Data(features, features["height"])
    block = {"kind": "train_test", "metric": "mae", "max_relative_drop": 0.1}
    settings = scan_settings({"suite": written(tmp_path, {"it": block}), "checks": []})
    [found] = scan(data, Model(lambda rows: rows["height"].to_numpy(), data), settings).verdicts
    assert found.passed == passes


def test_only_failures_that_are_bad_enough_count() -> None:
    verdicts = [
        Verdict("a", "threshold", "minor", False, ""),
        Verdict("b", "threshold", "major", False, ""),
        Verdict("c", "threshold", "major", True, ""),
    ]
    assert [v.name for v in failing(verdicts, "major")] == ["b"]
    assert [v.name for v in failing(verdicts, "minor")] == ["b", "a"]


WITHOUT: dict[str, dict[str, Any]] = {
    r"it: unknown feature 'agee' \(did you mean 'age'\?\)": {
        "kind": "feature_importance", "feature": "agee", "top": 1
    },
    "it: the rows that the model learnt from are needed": {
        "kind": "train_test", "metric": "accuracy", "max_drop": 0.1
    },
}  # fmt: skip


@pytest.mark.parametrize("said", WITHOUT)
def test_a_suite_that_asks_for_what_is_not_there_is_refused(tmp_path: Path, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        verdict(tmp_path, WITHOUT[said])


def test_files_of_a_suite_are_beside_it_and_its_scan_stands_behind_the_call(tmp_path: Path) -> None:
    block = {"a": {"kind": "threshold", "metric": "accuracy", "min": 0}}
    suite = written(tmp_path, block, reference="train.csv", scan={"seed": 3, "alpha": 0.01})
    settings = scan_settings({"suite": suite, "alpha": 0.1})
    assert settings.reference == str(tmp_path / "train.csv")
    assert (settings.seed, settings.alpha) == (3, 0.1)
    assert scan_settings({"suite": suite, "reference": "mine.csv"}).reference == "mine.csv"
    suite = written(tmp_path, block, reference="train.csv", scan={"reference": "other.csv"})
    assert scan_settings({"suite": suite}).reference == str(tmp_path / "other.csv")


ROOT = Path(__file__).resolve().parents[3]


def test_the_page_tells_every_kind_and_setting_and_its_suite_is_read(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "evaluation-suites.md").read_text(encoding="utf-8")
    rows = {kind: re.search(rf"^\| `{kind}` \|.*", page, flags=re.M) for kind in KINDS}
    for kind, row in rows.items():
        assert row is not None, kind
        told = set(re.findall(r"`(\w+)`", row.group()))
        inherited = {"kind", "severity", "why"} | ({"metric"} - told)
        assert set(KINDS[kind].model_fields) - inherited <= told, kind
    [block] = re.findall(r"```yaml\n(.*?)```", page, flags=re.S)
    (tmp_path / "suite.yaml").write_text(block, encoding="utf-8")
    assert len(read_suite(tmp_path / "suite.yaml").validations) == 4


def test_the_example_lets_a_good_model_of_wine_pass() -> None:
    bunch = load_wine(as_frame=True)
    features = bunch.data.rename(columns={"od280/od315_of_diluted_wines": "od280"})
    train = np.random.default_rng(1).random(len(features)) < 0.5
    fitted = RandomForestClassifier(20, random_state=1).fit(features[train], bunch.target[train])
    data = Data(features[~train], bunch.target[~train])
    data.reference = Data(features[train], bunch.target[train])
    model = Model(fitted.predict_proba, data, classes=[0, 1, 2])
    suite = str(ROOT / "examples" / "suites" / "wine.yaml")
    result = scan(data, model, scan_settings({"suite": suite, "checks": []}))
    # How long an answer takes is the machine's, here and now.
    assert [v.message for v in result.verdicts if not v.passed and v.name != "quick"] == []
    assert len(result.verdicts) == 11

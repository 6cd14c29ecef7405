"""The evaluator `mlflow-exec-scan` by `mlflow.models.evaluate`, in every form that a call has."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException
from sklearn.linear_model import LogisticRegression

from mlflow_exec.evaluation.report_json import SCHEMA
from tests.mlflow.scanned_models import own_runs

NAME = "mlflow-exec-scan"
# Of MLflow itself, which is in the process of the tests here: its store of runs, its evaluators.
pytestmark = [
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::Warning:mlflow"),
]
CHECKS = {"performance_bias": {"pairs": False}}


@pytest.fixture(scope="module", autouse=True)
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Runs in a database of their own."""
    with own_runs(tmp_path_factory.mktemp("runs")):
        yield


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Labels that are noisy above 1.3 of `b`."""
    rng = np.random.default_rng(1)
    rows = pd.DataFrame(rng.normal(size=(1500, 3)), columns=["a", "b", "c"])
    wrong = rng.random(1500) < np.where(rows["b"] > 1.3, 0.45, 0.05)
    rows["label"] = np.where(wrong, rows["a"] <= 0, rows["a"] > 0).astype(int)
    return rows


@pytest.fixture(scope="module")
def model(frame: pd.DataFrame) -> str:
    """A model that knows nothing of `b`."""
    fitted = LogisticRegression().fit(frame[["a"]].to_numpy(), frame["a"] > 0)

    class Wrapped(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
        def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
            return fitted.predict(model_input[["a"]].to_numpy()).astype(int)

    with mlflow.start_run():
        logged = mlflow.pyfunc.log_model(name="model", python_model=Wrapped(), pip_requirements=[])
    return str(logged.model_uri)


def evaluated(frame: pd.DataFrame, model: Any, **arguments: Any) -> Any:
    with mlflow.start_run():
        return mlflow.models.evaluate(
            model, frame, targets="label", model_type="classifier", **arguments
        )


def has_scanned(result: Any) -> bool:
    return "scan/n_major" in result.metrics


NO_SHAP = {"log_model_explainability": False}
FORMS: dict[str, dict[str, Any]] = {
    "named, flat": {"evaluators": NAME, "evaluator_config": {"checks": CHECKS}},
    "named, nested": {"evaluators": NAME, "evaluator_config": {NAME: {"checks": CHECKS}}},
    "in a list": {"evaluators": [NAME], "evaluator_config": {NAME: {"checks": CHECKS}}},
    "in a list with others": {
        "evaluators": ["default", NAME],
        "evaluator_config": {NAME: {"checks": CHECKS}, "default": NO_SHAP},
    },
    "not named, nested": {
        "evaluator_config": {
            NAME: {"enabled": True, "checks": CHECKS},
            "default": NO_SHAP,
        }
    },
    "not named, flat": {"evaluator_config": {"enabled": True, "checks": CHECKS}},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_that_asks_for_it_scans(frame: pd.DataFrame, model: str, form: str) -> None:
    result = evaluated(frame, model, **FORMS[form])
    assert result.metrics["scan/performance_bias/n_major"] == 1
    run = mlflow.get_run(result.run_id)
    assert run.data.metrics["scan/n_major"] == 1
    others = {name for name in result.metrics if not name.startswith("scan/")}
    assert bool(others) == ("other" in form or "not named" in form)


OTHERS: dict[str, Any] = {
    "none": None,
    "of others, flat": NO_SHAP,
    "of others, nested": {"default": NO_SHAP},
    "of others with a key of the same name": {"enabled": True, "log_model_explainability": False},
    "switched off": {NAME: {"enabled": False}, "default": NO_SHAP},
    "its own, but not enabled": {NAME: {"seed": 3}, "default": NO_SHAP},
}


@pytest.mark.parametrize("config", OTHERS)
def test_nobody_is_scanned_who_did_not_ask(frame: pd.DataFrame, model: str, config: str) -> None:
    assert not has_scanned(evaluated(frame, model, evaluator_config=OTHERS[config]))


def test_a_configuration_for_others_that_is_enabled_is_told(
    frame: pd.DataFrame, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "mlflow_exec"):
        evaluated(frame, model, evaluator_config={"enabled": True, "metric_prefix": "x"})
    assert "'metric_prefix' is none of its settings" in caplog.text


UNSET: dict[str, dict[str, Any]] = {
    "alone": {"evaluators": NAME},
    "in a list": {"evaluators": [NAME]},
    "in a list with others": {"evaluators": ["default", NAME]},
    "in a list with others that have settings": {
        "evaluators": ["default", NAME], "evaluator_config": {"default": NO_SHAP},
    },
    "and the settings are empty": {"evaluators": NAME, "evaluator_config": {}},
    "and the settings are of others": {
        "evaluators": NAME, "evaluator_config": {"default": NO_SHAP},
    },
}  # fmt: skip


@pytest.mark.parametrize("form", UNSET)
def test_named_without_settings_it_runs_with_defaults(
    frame: pd.DataFrame, model: str, form: str
) -> None:
    result = evaluated(frame.head(100), model, **UNSET[form])
    assert result.metrics["scan/n_skipped"] == 0
    assert len(result.artifacts["scan_result"].content["checks"]) > 3


def test_named_among_others_and_switched_off_it_is_off(frame: pd.DataFrame, model: str) -> None:
    config = {NAME: {"enabled": False}, "default": NO_SHAP}
    result = evaluated(frame, model, evaluators=["default", NAME], evaluator_config=config)
    assert not has_scanned(result)


def test_flat_settings_of_a_list_are_refused_by_mlflow(frame: pd.DataFrame, model: str) -> None:
    with pytest.raises(MlflowException, match="mapping from evaluator name to individual"):
        evaluated(frame, model, evaluators=[NAME], evaluator_config={"checks": CHECKS})


def test_a_wrong_key_is_refused_in_one_sentence(frame: pd.DataFrame, model: str) -> None:
    with pytest.raises(MlflowException, match=r"unknown setting 'sede' \(did you mean 'seed'\?\)"):
        evaluated(frame, model, evaluators=NAME, evaluator_config={"sede": 3})
    with pytest.raises(MlflowException, match="unknown setting 'alhpa'"):
        evaluated(frame, model, evaluator_config={NAME: {"enabled": True, "alhpa": 0.1}})


def test_the_run_has_a_result_after_the_schema_and_a_report(
    frame: pd.DataFrame, model: str, tmp_path: Path
) -> None:
    result = evaluated(frame, model, evaluators=NAME, evaluator_config={"checks": CHECKS})
    found = json.loads(mlflow.artifacts.load_text(result.artifacts["scan_result"].uri))
    jsonschema.validate(found, json.loads(SCHEMA.read_text(encoding="utf-8")))
    [finding] = found["findings"]
    [condition] = finding["slice"]["conditions"]
    assert condition["column"] == "b"
    assert condition["low"] == pytest.approx(1.3, abs=0.1)
    report = mlflow.artifacts.load_text(result.artifacts["scan_report"].uri)
    assert finding["title"].replace(">=", "≥").replace(" %", "\u00a0%") in report
    result.save(tmp_path)
    assert mlflow.models.EvaluationResult.load(tmp_path).artifacts.keys() == result.artifacts.keys()


def test_a_model_of_scikit_learn_tells_its_probabilities(frame: pd.DataFrame) -> None:
    fitted = LogisticRegression().fit(frame[["a", "b", "c"]], frame["label"])
    with mlflow.start_run():
        logged = mlflow.sklearn.log_model(fitted, name="model", pip_requirements=[])
    asked = {"evaluators": NAME, "evaluator_config": {"checks": CHECKS}}
    result = evaluated(frame, logged.model_uri, **asked)
    found = result.artifacts["scan_result"].content
    assert "log_loss" in found["metrics"]


def test_a_reference_is_compared_with(frame: pd.DataFrame, model: str, tmp_path: Path) -> None:
    learnt = frame.assign(c=frame["c"] + 1.0, other=1)
    learnt.loc[:200, ["a", "b", "c"]] = frame.loc[:200, ["a", "b", "c"]]
    learnt.to_parquet(tmp_path / "learnt.parquet")
    settings = {"reference": str(tmp_path / "learnt.parquet"), "checks": ["data_leakage", "drift"]}
    result = evaluated(frame, model, evaluators=NAME, evaluator_config=settings)
    found = result.artifacts["scan_result"].content
    said = {(finding["check"], finding["metric"], finding["severity"]): finding["details"]
            for finding in found["findings"]}  # fmt: skip
    assert said["drift", "psi", "major"]["name"] == "c"
    assert ("data_leakage", "share_of_known_rows", "major") in said
    assert found["skipped"] == []
    jsonschema.validate(found, json.loads(SCHEMA.read_text(encoding="utf-8")))


def test_predictions_alone_are_scanned(frame: pd.DataFrame) -> None:
    rows = frame.assign(said=(frame["a"] > 0).astype(int))
    with mlflow.start_run():
        result = mlflow.models.evaluate(
            data=rows, targets="label", predictions="said", model_type="classifier",
            evaluators=NAME,
        )  # fmt: skip
    assert result.metrics["scan/performance_bias/n_major"] == 1
    skipped = {item["check"]: item for item in result.artifacts["scan_result"].content["skipped"]}
    assert skipped["batch_dependence"]["expected"]


def test_an_array_and_a_regression(frame: pd.DataFrame) -> None:
    rows = frame[["a", "b", "c"]].to_numpy()
    with mlflow.start_run():
        result = mlflow.models.evaluate(
            lambda given: given[:, 0] if isinstance(given, np.ndarray) else given.iloc[:, 0],
            rows, targets=rows[:, 0] + np.where(rows[:, 1] > 1, 2.0, 0.1), model_type="regressor",
            evaluators=NAME, evaluator_config={"checks": CHECKS},
        )  # fmt: skip
    assert result.metrics["scan/performance_bias/n_major"] == 1

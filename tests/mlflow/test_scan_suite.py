"""Suites by the evaluator, by `mlflow.validate_evaluation_results`, and on the command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow.models import MetricThreshold
from mlflow.models.evaluation.validation import ModelValidationFailedException

from mlflow_exec.cli import main
from tests.mlflow import scanned_models

NAME = "mlflow-exec-scan"
pytestmark = [
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
    pytest.mark.filterwarnings("ignore::Warning:mlflow"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Rows, a suite, a model that passes (`a`) and one that does not (`b`); runs in a database."""
    place = tmp_path_factory.mktemp("suite")
    with scanned_models.own_runs(place):
        scanned_models.rows(place)
        for column in "ab":
            scanned_models.model(place, column)
        scanned_models.suite(place)
        yield place


def evaluated(folder: Path, column: str) -> mlflow.models.EvaluationResult:
    config = {"enabled": True, "suite": str(folder / "suite.yaml"), "checks": []}
    with mlflow.start_run():
        return mlflow.models.evaluate(
            str(folder / f"model-{column}"), pd.read_csv(folder / "rows.csv"), targets="label",
            model_type="classifier", evaluators=NAME, evaluator_config={NAME: config},
        )  # fmt: skip


def test_each_validation_is_a_metric_of_the_run(folder: Path) -> None:
    result = evaluated(folder, "b")
    logged = mlflow.get_run(result.run_id).data.metrics
    assert logged["scan/suite/accuracy"] == 0
    assert logged["scan/suite/batches"] == 1
    assert logged["scan/n_failed_major"] == 1
    found = {v["name"]: v for v in result.artifacts["scan_result"].content["suite"]}
    assert found["accuracy"]["message"].startswith("accuracy is 0.")
    report = mlflow.artifacts.load_text(result.artifacts["scan_report"].uri)
    assert found["accuracy"]["message"] in report


def test_mlflow_validates_by_these_metrics(folder: Path) -> None:
    thresholds = {
        "scan/suite/accuracy": MetricThreshold(threshold=1, greater_is_better=True),
        "scan/n_failed_major": MetricThreshold(threshold=0, greater_is_better=False),
        "scan/batch_dependence/n_major": MetricThreshold(threshold=0, greater_is_better=False),
    }
    good, bad = evaluated(folder, "a"), evaluated(folder, "b")
    mlflow.validate_evaluation_results(thresholds, candidate_result=good)
    with pytest.raises(ModelValidationFailedException, match="scan/suite/accuracy"):
        mlflow.validate_evaluation_results(thresholds, candidate_result=bad)


def exit_code(folder: Path, column: str, *arguments: str) -> int:
    """How `mlflow-exec scan` ends."""
    command = ["scan", str(folder / f"model-{column}"), str(folder / "rows.csv"), *arguments]
    with pytest.raises(SystemExit) as ended:
        main(command)
    return int(ended.value.code or 0)


def test_the_exit_code_tells_passed_failed_and_wrong_calls_apart(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    suite = ["--suite", str(folder / "suite.yaml"), "-C", "checks=[]"]
    assert exit_code(folder, "a", *suite, "--fail-on", "major") == 0
    assert "passed accuracy: accuracy is 0.9" in capsys.readouterr().out
    assert exit_code(folder, "a", *suite, "--fail-on", "minor") == 1
    assert exit_code(folder, "b", *suite) == 1  # as the suite says
    assert "FAILED (major) accuracy: accuracy is 0." in capsys.readouterr().out
    assert exit_code(folder, "b", *suite, "--output", "json") == 1
    [failed] = [v for v in json.loads(capsys.readouterr().out)["suite"] if v["severity"] == "minor"]
    assert failed["name"] == "by_b"
    wrong = tmp_path / "suite.yaml"
    wrong.write_text("validations:\n  a: {kind: threshold, metric: acuracy, min: 1}")
    assert exit_code(folder, "a", "--suite", str(wrong)) == 2
    assert "line 2: a: metric: unknown metric 'acuracy'" in capsys.readouterr().err
    assert exit_code(folder, "a", "--suite", str(folder / "none.yaml")) == 2
    assert exit_code(folder, "none", *suite) == 2


def test_the_reference_is_read_from_beside_the_suite(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    validations = {"train": {"kind": "train_test", "metric": "accuracy", "max_drop": 0.01}}
    suite = scanned_models.suite(tmp_path, validations=validations, reference="train.csv")
    frame = pd.read_csv(folder / "rows.csv")
    frame.assign(label=(frame["a"] > 0).astype(int)).to_csv(tmp_path / "train.csv", index=False)
    arguments = ["--suite", suite, "-C", "checks=[]"]
    assert exit_code(folder, "a", *arguments) == 1
    assert "accuracy is 0.91, and 1 on the reference" in capsys.readouterr().out
    assert exit_code(folder, "a", *arguments, "--reference", str(folder / "rows.csv")) == 0
    frame.drop(columns=["b"]).to_csv(tmp_path / "train.csv", index=False)
    assert exit_code(folder, "a", *arguments) == 2
    assert "lacks the feature 'b'" in capsys.readouterr().err

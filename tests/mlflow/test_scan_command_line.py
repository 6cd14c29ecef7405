"""The command `mlflow-exec scan`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from mlflow.pyfunc import PythonModel, save_model

from mlflow_exec.cli import cli
from mlflow_exec.evaluation.report_json import SCHEMA

pytestmark = pytest.mark.filterwarnings("ignore::Warning:mlflow")


class Above(PythonModel):  # type: ignore[misc]
    """Says whether `a` is above zero."""

    def predict(self, context: object, model_input: pd.DataFrame, params: object = None) -> object:
        return (model_input["a"] > 0).astype(int).to_numpy()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and rows that are noisy above 1.3 of `b`."""
    folder = tmp_path_factory.mktemp("scanned")
    save_model(folder / "model", python_model=Above(), pip_requirements=[])
    rng = np.random.default_rng(1)
    rows = pd.DataFrame(rng.normal(size=(1500, 3)), columns=["a", "b", "größe"])
    wrong = rng.random(1500) < np.where(rows["b"] > 1.3, 0.45, 0.05)
    rows["label"] = np.where(wrong, rows["a"] <= 0, rows["a"] > 0).astype(int)
    rows.to_csv(folder / "rows.csv", index=False)
    rows.to_parquet(folder / "rows.parquet")
    return folder


def scan(place: Path, *arguments: str, data: str = "rows.csv") -> Result:
    return CliRunner().invoke(cli, ["scan", str(place / "model"), str(place / data), *arguments])


def test_it_tells_the_worst_first(place: Path) -> None:
    answer = scan(place, "--target", "label")
    assert answer.exit_code == 0, answer.output
    lines = answer.stdout.splitlines()
    assert lines[0] == "1500 rows, 3 features, classification"
    assert lines[1].startswith("MAJOR   performance_bias: accuracy is ")
    assert " where b >= 1." in lines[1]
    assert "accuracy" in lines[-1]


def test_reports_are_written(place: Path, tmp_path: Path) -> None:
    files = ["--report", str(tmp_path / "scan.html"), "--result", str(tmp_path / "scan.json")]
    answer = scan(place, "-t", "label", "--output", "json", *files, data="rows.parquet")
    told = json.loads(answer.stdout)
    written = json.loads((tmp_path / "scan.json").read_text(encoding="utf-8"))
    assert told == written
    jsonschema.validate(told, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert told["model"] == str(place / "model")
    assert told["data"] == str(place / "rows.parquet")
    assert [finding["severity"] for finding in told["findings"]][:1] == ["major"]
    assert "<html" in (tmp_path / "scan.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(("fail_on", "code"), [("major", 1), ("minor", 1)])
def test_a_finding_that_bad_is_an_exit_code(place: Path, fail_on: str, code: int) -> None:
    assert scan(place, "-t", "label", "--fail-on", fail_on).exit_code == code
    without = scan(place, "-t", "label", "--fail-on", fail_on, "-C", 'checks=["batch_dependence"]')
    assert without.exit_code == 0, without.output


UNKNOWN = {
    "performance_bias": ["-C", "time_budget_s=1e-9", "-C", "checks=performance_bias"],
    "ethical_bias": ["-C", 'checks={"ethical_bias": {"sensitive": ["no such"]}}'],
}


@pytest.mark.parametrize("check", UNKNOWN)
def test_what_was_not_looked_at_is_no_success(place: Path, check: str) -> None:
    answer = scan(place, "-t", "label", *UNKNOWN[check], "--fail-on", "major")
    assert answer.exit_code == 2
    said = f"it cannot be told: these checks were not run to their end: {check};"
    assert f"--fail-on major: {said}" in answer.stderr
    assert f"skipped {check}: " in answer.stdout
    assert scan(place, "-t", "label", *UNKNOWN[check]).exit_code == 0


def test_a_finding_that_bad_fails_whatever_was_not_looked_at(place: Path) -> None:
    checks = {"ethical_bias": {"sensitive": ["no such"]}, "performance_bias": {"pairs": False}}
    answer = scan(place, "-t", "label", "-C", f"checks={json.dumps(checks)}", "--fail-on", "major")
    assert answer.exit_code == 1


def test_settings_are_of_a_file_and_of_options(place: Path, tmp_path: Path) -> None:
    file = "mlflow-exec-scan:\n  seed: 5\n  checks: [batch_dependence]"
    (tmp_path / "scan.yaml").write_text(file)
    answer = scan(place, "-t", "label", "-c", str(tmp_path / "scan.yaml"), "-C", "seed=6",
                  "--output", "json")  # fmt: skip
    told = json.loads(answer.stdout)
    assert told["seed"] == 6
    assert [check["name"] for check in told["checks"]] == ["batch_dependence"]


WRONG = {
    "column": (["-t", "lable"], "target: there is no column 'lable'"),
    "setting": (["-t", "label", "-C", "sede=1"], "unknown setting 'sede' (did you mean 'seed'?)"),
    "check": (["-t", "label", "-C", "skip=[\"performance\"]"], "unknown check 'performance'"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_told_in_one_sentence(place: Path, what: str) -> None:
    options, sentence = WRONG[what]
    answer = subprocess.run(
        [str(Path(sys.executable).with_name("mlflow-exec")), "scan", str(place / "model"),
         str(place / "rows.csv"), *options],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert answer.returncode == 2
    assert sentence in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize("option", ["--report", "--result"])
def test_where_nothing_can_be_written_nothing_is_scanned(
    place: Path, tmp_path: Path, option: str
) -> None:
    for there, words in ((tmp_path, "is a folder"), (tmp_path / "no" / "x", "is not there")):
        answer = scan(place, "-t", "label", option, str(there), data="rows-that-are-not-read.csv")
        assert answer.exit_code == 2
        assert f"{option}: " in answer.output
        assert words in answer.output


def test_a_report_that_finds_no_room_is_told(place: Path) -> None:
    answer = scan(place, "-t", "label", "--report", "/dev/full", "-C", 'checks=["baseline"]')
    assert answer.exit_code == 2
    assert "--report: '/dev/full' cannot be written: No space left on device" in answer.output


def test_a_kind_of_file_that_is_not_known_is_refused(place: Path) -> None:
    answer = scan(place, "-t", "label", data="rows.xlsx")
    assert answer.exit_code == 2
    assert "Known: .csv, .feather, .json, .parquet, .tsv" in answer.output


def test_the_plugin_imports_nothing_of_the_scan_before_one_is_asked_for() -> None:
    code = (
        "import sys, mlflow, mlflow.models.evaluation.base; before = set(sys.modules)\n"
        "from mlflow_exec.plugins.evaluator import ScanEvaluator as S\n"
        "assert not S.can_evaluate(model_type='classifier', evaluator_config={'x': 1})\n"
        "added = set(sys.modules) - before\n"
        "print([n for n in added if n.split('.')[0] in ('pandas', 'scipy', 'sklearn')\n"
        "       or n.startswith('mlflow_exec.evaluation.checks.')])"
    )
    answer = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.strip() == "[]"

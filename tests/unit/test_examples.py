"""The examples run as they are, by MLflow's own command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

# MLflow's own use of its database library; what the examples do is in processes of their own.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the wine example with the Python of the tests and a store of its own."""
    interpreter = Path(sys.executable).parent
    return subprocess.run(
        [interpreter / "mlflow", "run", EXAMPLES / "wine", "--env-manager", "local", *arguments],
        cwd=tmp_path,
        env={
            **os.environ,
            "PATH": f"{interpreter}{os.pathsep}{os.environ['PATH']}",
            "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
            "MLFLOW_DISABLE_TELEMETRY": "true",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def only_run(tmp_path: Path) -> tuple[Any, Any]:
    """The one run of the store, and the client that knows it."""
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (found,) = client.search_runs(["0"])
    return found, client


def test_the_wine_example_logs_all_that_a_run_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # MLflow's sqlite store keeps artifacts below the working folder
    finished = run(tmp_path, "-P", "max_depth=4", "-P", "n_estimators=50", "-P", "test_size=.25")
    assert finished.returncode == 0, finished.stderr
    assert "step 10/10: 50 trees, accuracy 0.9" in finished.stdout

    found, client = only_run(tmp_path)
    assert found.info.status == "FINISHED"
    assert found.data.params == {
        "max_depth": "4",
        "n_estimators": "50",
        "seed": "7",
        "test_size": ".25",
    }
    assert set(found.data.metrics) == {"train_accuracy", "test_accuracy", "test_log_loss"}
    history = client.get_metric_history(found.info.run_id, "test_accuracy")
    assert [point.step for point in history] == list(range(1, 11))
    assert history[-1].value > 0.9

    (model,) = client.search_logged_models(["0"])
    folder = Path(model.artifact_location.removeprefix("file://"))
    described = yaml.safe_load((folder / "MLmodel").read_text())
    assert len(yaml.safe_load(described["signature"]["inputs"])) == 13
    assert (folder / described["saved_input_example_info"]["artifact_path"]).is_file()
    picture = client.download_artifacts(found.info.run_id, "confusion_matrix.png", str(tmp_path))
    assert Path(picture).read_bytes().startswith(b"\x89PNG")


def test_the_wine_example_fails_for_a_parameter_that_makes_no_sense(tmp_path: Path) -> None:
    failed = run(tmp_path, "-P", "max_depth=0")

    assert failed.returncode != 0
    assert "The 'max_depth' parameter" in failed.stderr
    assert only_run(tmp_path)[0].info.status == "FAILED"


def test_the_wine_example_gives_a_range_for_all_that_it_installs() -> None:
    environment = yaml.safe_load((EXAMPLES / "wine" / "python_env.yaml").read_text())
    named = {line.partition(">=")[0] for line in environment["dependencies"]}

    assert named == {"mlflow", "scikit-learn", "matplotlib", "pandas", "skops"}
    assert all(">=" in line and ",<" in line for line in environment["dependencies"])

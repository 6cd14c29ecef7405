"""The examples run as they are, by MLflow's own command line."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml

from mlflow_exec.clients.ports import free_port
from mlflow_exec.testing.collecting import until
from tests.file_servers import ssh_server

# MLflow's own use of its database library; what the examples do is in processes of their own.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the wine example with the Python of the tests and a store of its own."""
    return example(
        tmp_path, "mlflow", "run", str(EXAMPLES / "wine"), "--env-manager", "local", *arguments
    )


def example(
    tmp_path: Path, *words: str, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command as somebody would in the environment of the tests, with a store of its own."""
    return subprocess.run(
        words, cwd=tmp_path, env=environment(tmp_path, variables or {}),
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def environment(tmp_path: Path, variables: Mapping[str, str]) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **variables,
    }


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


KEPT = """\
logged report.txt and the folder data
  data/wine.json  24 bytes
  data/years/2025.txt  4 bytes
  report.txt  16 bytes
read again: three good years
"""


def test_the_stores_example_keeps_its_artifacts_in_a_database(tmp_path: Path) -> None:
    keep, place = str(EXAMPLES / "stores" / "keep.py"), f"sqlite:///{tmp_path}/artifacts.db"
    done = example(tmp_path, "python", keep, place)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"experiment 'stores' keeps its artifacts at {place}\n{KEPT}"
    assert (tmp_path / "artifacts.db").exists()


def test_the_stores_example_keeps_its_artifacts_on_sftp(tmp_path: Path) -> None:
    (tmp_path / "sshd").mkdir()
    with ssh_server(tmp_path / "sshd") as server:
        place = f"fsspec+sftp://{server.user}@127.0.0.1:{server.port}{server.folder}/wine"
        signed_in = {
            "MLFLOW_EXEC_SSH_HOST": "127.0.0.1",
            "MLFLOW_EXEC_SSH_PRIVATE_KEY_FILE": str(tmp_path / "sshd" / "user"),
            "MLFLOW_EXEC_SSH_HOST_KEY": server.host_key,
        }
        keep = str(EXAMPLES / "stores" / "keep.py")
        done = example(tmp_path, "python", keep, place, variables=signed_in)
        kept = sorted(path.name for path in server.folder.rglob("*") if path.is_file())
    assert done.stdout.endswith(KEPT), done.stderr
    assert kept == ["2025.txt", "report.txt", "wine.json"]


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[str]:
    """The server of the sign-in example, until the end of the block."""
    port = free_port()
    small = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_WORKERS": "1"}
    words = ["sh", str(EXAMPLES / "sign-in" / "serve.sh"), str(folder / "guarded"), str(port)]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            words, stdout=log, stderr=log, env=environment(folder, small), start_new_session=True
        )

    def answers() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
            return True
        return False

    try:
        until(answers, "the server answers", 240)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(120)


def test_the_sign_in_example_signs_in_by_the_password_that_it_was_given(tmp_path: Path) -> None:
    track, password = str(EXAMPLES / "sign-in" / "track.py"), tmp_path / "guarded" / "password"
    with guarded(tmp_path) as url:
        assert password.stat().st_mode & 0o077 == 0
        known = {"MLFLOW_TRACKING_URI": url, "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}
        nobody = example(tmp_path, "python", track, variables=known)
        assert nobody.returncode == 1
        assert "401" in nobody.stderr
        signed_in = {
            "MLFLOW_TRACKING_AUTH": "mlflow-exec",
            "MLFLOW_EXEC_AUTH": "basic-file",
            "MLFLOW_EXEC_AUTH_USERNAME": "admin",
            "MLFLOW_EXEC_AUTH_PASSWORD_FILE": str(password),
        }
        done = example(tmp_path, "python", track, variables={**known, **signed_in})
        assert done.stdout.startswith(f"signed in at {url}\n"), done.stderr
        assert done.stdout.endswith("read it again: answer = 42\n")
        assert password.read_text() not in done.stdout + done.stderr

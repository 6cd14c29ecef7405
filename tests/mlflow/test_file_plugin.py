"""``file-plugin:`` as MLflow's documentation of plugins shows it, without any switch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlflow_exec.testing.served_models import save_model
from tests.servers import mlflow_server

# MLflow's own store of runs, which is in the process of the tests here.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which runs are tracked from now on; it is not there yet."""
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    mlflow.set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file-plugin:{tmp_path}/mlruns")
    return tmp_path / "mlruns"


@pytest.mark.parametrize("has_location", [False, True])
def test_runs_models_and_artifacts_are_kept_and_found(
    folder: Path, tmp_path: Path, has_location: bool
) -> None:
    location = f"file-plugin:{tmp_path}/elsewhere" if has_location else None
    experiment = mlflow.create_experiment("wine", artifact_location=location)
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_param("alpha", 0.5)
        mlflow.log_metric("rmse", 0.7)
        mlflow.log_text("text", "d/file.txt")
        code = save_model(tmp_path, 3)
        mlflow.log_artifacts(str(code), "model")
    version = mlflow.register_model(f"runs:/{run.info.run_id}/model", "wine")

    (found,) = mlflow.search_runs(
        experiment_names=["wine"], filter_string="metrics.rmse < 1", output_format="list"
    )
    assert (found.data.params, found.data.metrics) == ({"alpha": "0.5"}, {"rmse": 0.7})
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/d/file.txt") == "text"
    assert [file.path for file in MlflowClient().list_artifacts(run.info.run_id)] == ["d", "model"]
    assert [m.version for m in MlflowClient().search_model_versions("name='wine'")] == [
        version.version
    ]
    loaded = mlflow.pyfunc.load_model(f"models:/wine/{version.version}")
    assert list(loaded.predict(pd.DataFrame({"x": [1.5]}))) == [3]
    assert Path(tmp_path / "elsewhere").exists() == has_location


class Doubles(mlflow.pyfunc.PythonModel):  # type: ignore[misc]
    """A model."""

    def predict(self, context: object, model_input: pd.DataFrame) -> pd.DataFrame:
        """Return twice what is given."""
        return model_input * 2


@pytest.mark.filterwarnings("ignore:.*type hint:UserWarning")
def test_a_model_is_logged_and_found(folder: Path) -> None:
    with mlflow.start_run():
        logged = mlflow.pyfunc.log_model(
            name="doubles", python_model=Doubles(), pip_requirements=["mlflow"],
            registered_model_name="doubles",
        )  # fmt: skip
    (found,) = mlflow.search_logged_models(output_format="list")
    assert (found.name, found.model_id) == ("doubles", logged.model_id)
    doubled = mlflow.pyfunc.load_model("models:/doubles/1").predict(pd.DataFrame({"x": [2]}))
    assert list(doubled["x"]) == [4]


@pytest.mark.parametrize("has_location", [False, True])
def test_gc_removes_what_was_deleted_and_nothing_else(
    folder: Path, tmp_path: Path, has_location: bool
) -> None:
    location = f"file-plugin:{tmp_path}/elsewhere" if has_location else None
    experiment = mlflow.create_experiment("e", artifact_location=location)
    runs = []
    for text in ("kept", "deleted"):
        with mlflow.start_run(experiment_id=experiment) as run:
            mlflow.log_text(text, "d/file.txt")
        runs.append(run.info)
    mlflow.delete_run(runs[1].run_id)
    subprocess.run(
        [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", f"file-plugin:{folder}"],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert mlflow.artifacts.load_text(f"{runs[0].artifact_uri}/d/file.txt") == "kept"
    assert get_artifact_repository(runs[1].artifact_uri).list_artifacts() == []
    left = mlflow.search_runs([experiment], run_view_type=3, output_format="list")
    assert [run.info.run_id for run in left] == [runs[0].run_id]


def test_a_server_shows_what_was_logged_without_one(folder: Path, tmp_path: Path) -> None:
    with mlflow.start_run() as run:
        mlflow.log_text("text", "file.txt")
    with mlflow_server(tmp_path, backend=f"file-plugin:{folder}") as server:
        assert server.artifacts(run.info.run_id, "") == ["file.txt"]
        assert server.artifact(run.info.run_id, "file.txt") == b"text"


@pytest.mark.parametrize(
    ("rest", "why"), [(":mlruns", "a path from the root"), ("://h/a", "a path from the root")]
)
def test_another_place_than_a_folder_is_refused(
    monkeypatch: pytest.MonkeyPatch, rest: str, why: str
) -> None:
    mlflow.set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file-plugin{rest}")
    with pytest.raises(MlflowException, match=why):
        mlflow.create_experiment("e")


def test_a_folder_of_mlflows_file_store_is_not_taken_for_an_empty_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    MlflowClient(str(folder)).search_experiments()
    assert (folder / "0" / "meta.yaml").exists()
    with pytest.raises(MlflowException, match=r"mlflow migrate-filestore --source .*/mlruns"):
        mlflow.create_experiment("e")

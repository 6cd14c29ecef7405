"""`mlflow-exec doctor` of an artifact location, and of experiments that hold a password."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_exec.cli import cli
from mlflow_exec.storage.opening import open_store

PASSWORD = "a-password-that-nobody-may-see"


def doctor(*arguments: str) -> tuple[int, dict[str, tuple[bool, str]], str]:
    done = CliRunner().invoke(cli, ["doctor", *arguments, "--output", "json"])
    findings = json.loads(done.output)
    return done.exit_code, {f["subject"]: (f["ok"], f["detail"]) for f in findings}, done.output


def test_a_location_that_works_is_told_by_its_steps_and_keeps_nothing(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path}/a.db/mine"
    code, found, _ = doctor(uri)
    assert code == 0
    assert list(found) == ["uri", "credential", "store", "write", "list", "read", "delete"]
    assert found["uri"] == (True, f"{uri}: SQLite")
    assert found["credential"][1].startswith("nothing of ours")
    assert open_store(uri).entries("") == []


def test_a_location_that_is_malformed_or_cannot_be_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, found, _ = doctor("sqlite:relative.db")
    assert (code, list(found)) == (1, ["location"])
    assert "the path of the file is relative" in found["location"][1]
    monkeypatch.setenv("MLFLOW_EXEC_SQL_HOST", "127.0.0.1")
    monkeypatch.setenv("MLFLOW_EXEC_SQL_PASSWORD", PASSWORD)
    code, found, text = doctor("postgresql://127.0.0.1:9/artifacts")
    assert (code, list(found)[-1], found["write"][0]) == (1, "write", False)
    assert "environment variable MLFLOW_EXEC_SQL_PASSWORD" in found["credential"][1]
    assert PASSWORD not in text
    (tmp_path / "a.db").write_bytes(b"no database" * 100)
    code, found, _ = doctor(f"sqlite:///{tmp_path}/a.db")
    assert (code, found["write"][0]) == (1, False)
    assert "file is not a database" in found["write"][1]


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")
def test_experiments_that_hold_a_password_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracking = f"sqlite:///{tmp_path}/tracking.db"
    mlflow.set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    location = f"mssql+pyodbc://me:{PASSWORD}@db.example/artifacts"
    client = MlflowClient(tracking)
    client.create_experiment("old", artifact_location=location)
    client.create_experiment("new", artifact_location="postgresql://me@db.example/artifacts")
    code, found, text = doctor("yarn")
    assert code == 1
    said = "its artifact location holds a password: mssql+pyodbc://db.example/artifacts"
    assert found["experiment 'old'"] == (False, said)
    assert "experiment 'new'" not in found
    assert PASSWORD not in text


def test_an_unknown_backend_names_those_that_are_known() -> None:
    done = CliRunner().invoke(cli, ["doctor", "slurm"])
    assert done.exit_code != 0
    assert "k8s, ray, yarn" in f"{done.output}{done.exception}"

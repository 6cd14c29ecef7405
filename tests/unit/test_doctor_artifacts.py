"""`mlflow-exec doctor` of an artifact location, and of experiments that hold a password."""

from __future__ import annotations

import json
from pathlib import Path

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient

from mlflow_exec.cli import cli
from mlflow_exec.credential_sources import NOTHING
from mlflow_exec.credentials import Secret
from mlflow_exec.runs.diagnosis_artifacts import probe
from mlflow_exec.storage.base import Entry
from mlflow_exec.storage.local import LocalStore
from mlflow_exec.storage.opening import open_store
from mlflow_exec.uris import Location

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


class Breaks(LocalStore):
    """A store that is not written with all errors in mind."""

    def entries(self, path: str) -> list[Entry]:
        raise ValueError(f"malformed\n  line with {PASSWORD}")


def test_an_error_that_nobody_thought_of_is_told_in_a_line_and_nothing_is_kept(
    tmp_path: Path,
) -> None:
    Secret.of(PASSWORD, "a test").reveal()
    *done, failed = probe(Breaks(Location.parse(f"file-plugin:{tmp_path}/a"), NOTHING))
    assert [finding.subject for finding in done] == ["write"]
    assert (failed.ok, failed.subject) == (False, "list")
    assert failed.detail == "ValueError: malformed line with ***"
    assert list((tmp_path / "a").iterdir()) == []


def test_each_field_of_a_credential_is_told_with_its_own_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXEC_SQL_HOST", "127.0.0.1")
    _, found, _ = doctor("postgresql://127.0.0.1:9/a")
    variable = "hosts from environment variable MLFLOW_EXEC_SQL_HOST"
    assert found["credential"][1] == f"{variable}; {NOTHING.source}"
    (tmp_path / "password").write_text(PASSWORD)
    monkeypatch.setenv("MLFLOW_EXEC_CREDENTIALS_DIR", str(tmp_path))
    _, found, _ = doctor("postgresql://127.0.0.1:9/a")
    assert found["credential"][1] == f"{variable}; password from file {tmp_path}/password"


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

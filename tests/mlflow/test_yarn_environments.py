"""The Python environments of projects on a real YARN: packed here, built there, the node's own."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.exceptions import ExecutionException

from tests.mlflow.submitted_runs import PLAIN
from tests.mlflow.yarn_runs import YarnRuns
from tests.unit.packed_environments import OWN_PACKAGE

OWN = """
name: own
python_env: python_env.yaml
entry_points:
  main:
    command: own && python main.py
"""
PROGRAM = "import own, sys; print('own', own.VERSION, 'of', sys.prefix)"
FILES = {**OWN_PACKAGE, "python_env.yaml": "dependencies: [./own]\n"}


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what is packed here stay nowhere in the home of who runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def archives(yarn: YarnRuns) -> dict[str, int]:
    """Return the packed environments of the user in HDFS, and when they were written."""
    hdfs = yarn.hdfs()
    found = hdfs.list(f"{hdfs.home()}/.mlflow-exec/environments")
    return {
        str(item["pathSuffix"]): int(item["modificationTime"])
        for item in found
        if str(item["pathSuffix"]).endswith(".tar.gz")
    }


@pytest.mark.usefixtures("own_cache")
def test_an_environment_is_packed_once_and_used_by_later_jobs(yarn: YarnRuns) -> None:
    project = yarn.project(PROGRAM, OWN, FILES)
    first = yarn.run(project, environment="venv-pack")
    uploaded = archives(yarn)
    second = yarn.run(project, environment="venv-pack")
    for submitted in (first, second):
        yarn.ends(submitted, "SUCCEEDED")
        log = yarn.log(submitted.run_id)
        assert "own 1.0 in" in log
        assert "own 1.0 of" in log
        assert "/mlflow_exec_environment" in log
    assert archives(yarn) == uploaded
    assert len(uploaded) == 1


@pytest.mark.usefixtures("own_cache")
def test_what_cannot_be_built_is_told_before_there_is_a_run(yarn: YarnRuns) -> None:
    broken = {"python_env.yaml": "dependencies: [./own]\n", "own/pyproject.toml": "no TOML"}
    project = yarn.project(PROGRAM, OWN, broken)
    before = yarn.run_ids()
    with pytest.raises(ExecutionException, match="venv-pack"):
        yarn.run(project, environment="venv-pack")
    assert yarn.run_ids() == before


def test_an_environment_is_built_on_the_node_once(yarn: YarnRuns, tmp_path: Path) -> None:
    program = "import six, sys; print('six', six.__version__, 'in', sys.prefix)"
    mlproject = PLAIN + "python_env: python_env.yaml\n"
    project = yarn.project(program, mlproject, {"python_env.yaml": "dependencies: [six==1.16.0]"})
    kept = tmp_path / "kept"
    kept.mkdir()
    logs = []
    for _ in range(2):
        submitted = yarn.run(project, environment_cache={"path": str(kept)})
        yarn.ends(submitted, "SUCCEEDED")
        logs.append(yarn.log(submitted.run_id))
    assert "environment: built in " in logs[0]
    assert "environment: taken from the cache (key " in logs[1]
    assert "install" not in logs[1]
    (first,), (second,) = (
        [line for line in log.splitlines() if line.startswith("six 1.16.0 in ")] for log in logs
    )
    assert first == second


def test_the_nodes_own_python_is_taken_as_it_is(yarn: YarnRuns) -> None:
    project = yarn.project(
        "import sys; print('of', sys.prefix)", PLAIN + "python_env: python_env.yaml\n", FILES
    )
    submitted = yarn.run(project, environment="local")
    yarn.ends(submitted, "SUCCEEDED")
    log = yarn.log(submitted.run_id)
    assert "mlflow_exec_environment" not in log
    assert "environment: virtualenv" not in log

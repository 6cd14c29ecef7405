"""The job order: how the first step is told what to do, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlflow_exec.runtime.job_order import EntryPoint, JobOrder, SetupError, Source
from tests.unit.runtime.job_in_cluster import Cluster


def test_an_order_is_read_back_as_it_was_written() -> None:
    order = JobOrder(
        run_id="r",
        experiment_id="1",
        source=Source("archive", url="https://h/s.zip", sha256="ab"),
        entry_point=EntryPoint("python x.py", {"a": {"value": "1", "type": "float"}}, {"b": "2"}),
        deadline_s=5.5,
    )
    assert JobOrder.from_json(order.to_json()) == order


GOOD: dict[str, Any] = {
    "format": 1,
    "run_id": "r",
    "experiment_id": "1",
    "source": {"kind": "directory", "path": "."},
    "entry_point": {"command": "true"},
}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "format 1 is expected; 2"),
        ({"sorce": {}}, "unknown key 'sorce'"),
        ({"source": {"kind": "directory", "path": ".", "url": "https://h"}}, "'path' alone"),
        ({"source": {"kind": "git", "path": "."}}, "'git'"),
        ({"source": {"kind": "archive", "path": "x"}}, "sha256"),
        ({"source": {"kind": "archive", "sha256": "x"}}, "exactly one of"),
        ({"source": {"kind": "directory", "path": ".", "copy": 1}}, "source.copy"),
        ({"source": []}, "source: a JSON object"),
        ({"environment": {"manager": "poetry"}}, "'poetry'"),
        ({"environment": {"manager": "conda"}}, "conda_file"),
        ({"environment": {"manager": "packed"}}, "environment.path"),
        ({"environment": {"manager": "uv", "path": "x"}}, "environment.path"),
        ({"retry": {"owner": "me"}}, "'me'"),
        ({"deadline_s": "60"}, "deadline_s"),
        ({"log_part_bytes": True}, "log_part_bytes"),
        ({"entry_point": {}}, "command"),
    ],
)
def test_what_is_not_understood_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(SetupError) as error:
        JobOrder.from_json(json.dumps({**GOOD, **change}))
    assert words in error.value.end.message
    assert error.value.end.exit_code == 83


def test_text_that_is_no_order_is_refused() -> None:
    for text in ("", "no json", "[]", "null"):
        with pytest.raises(SetupError, match="job order"):
            JobOrder.from_json(text)


def test_an_order_in_a_variable_is_not_passed_on(cluster: Cluster) -> None:
    order = cluster.order("import os; print(sorted(os.environ))")
    finished = subprocess.run(
        [sys.executable, "-I", "-S", "-u", str(cluster.injected / "entry.py"), "env:JOB_ORDER"],
        cwd=cluster.work,
        env={
            "PATH": f"{sys.prefix}/bin:/usr/bin:/bin",
            "TMPDIR": str(cluster.tmp),
            "JOB_ORDER": json.dumps(order),
        },
        capture_output=True,
        check=True,
    )
    assert b"'MLFLOW_RUN_ID'" in finished.stdout
    assert b"'JOB_ORDER'" not in finished.stdout


@pytest.mark.parametrize("argv", [[], ["missing.json"], ["env:NOT_SET"], ["a", "b"]])
def test_without_an_order_the_step_ends_as_invalid(cluster: Cluster, argv: list[str]) -> None:
    finished = subprocess.run(
        [sys.executable, "-I", "-S", "-u", str(cluster.injected / "entry.py"), *argv],
        cwd=cluster.work,
        env={"TMPDIR": str(cluster.tmp)},
        capture_output=True,
        check=False,
    )
    assert finished.returncode == 83
    assert b'"category": "invalid_config"' in finished.stdout.splitlines()[-1]


def pythons() -> list[str]:
    """Return the interpreters of this machine that images may have, the oldest first."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = []
    for minor in range(8, 20):
        name = f"python3.{minor}"
        paths = [shutil.which(name), *map(str, pyenv.glob(f"versions/3.*/bin/{name}"))]
        found += [path for path in paths if path and "/shims/" not in path][:1]
    return found


@pytest.mark.parametrize("python", pythons(), ids=lambda path: path.rpartition("/")[2])
def test_the_step_runs_on_every_python_of_this_machine(cluster: Cluster, python: str) -> None:
    finished = cluster.run(cluster.order("print('trained')"), python=python)
    assert finished.end.state == "SUCCEEDED", finished.text

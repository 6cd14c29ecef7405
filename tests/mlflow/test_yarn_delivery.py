"""A project arrives in its container byte for byte, whatever its files are called and its size."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlflow_exec.runs.attach import attach
from tests.mlflow.submitted_runs import PLAIN
from tests.mlflow.yarn_runs import YarnRuns

LISTS = """
import hashlib, json, os
found = {}
for folder, _, names in os.walk("data"):
    for name in names:
        path = os.path.join(folder, name)
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
        found[path] = [digest.hexdigest(), os.access(path, os.X_OK)]
print("FILES", json.dumps(found))
"""
# Submits one call, and says how much memory that has taken at most, in KiB.
CLIENT = """
import json, resource, sys
import mlflow
submitted = mlflow.projects.run(**json.load(open(sys.argv[1])), synchronous=False)
most_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print("TOLD", submitted.run_id, most_kib)
"""
AWKWARD_NAMES = [
    "with spaces '\"$HOME", "中文 🦊.txt", "-dash", "yaml: [x] #.txt", "a&b;c|d`e`", "per%20cent",
    "deep/er/and/deep er/file", ".hidden", "new\nline", "back\\slash", "x" * 200,
]  # fmt: skip
MIB = 1024**2


def make_project(yarn: YarnRuns, size_bytes: int) -> Path:
    """Make a project of this size that cannot be packed any smaller, with awkward names."""
    project = yarn.project(LISTS, PLAIN)
    for name in AWKWARD_NAMES:
        path = project / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size_bytes // len(AWKWARD_NAMES)))
    (project / "data/empty").touch()
    (project / "data/runs").write_text("#!/bin/sh\n")
    (project / "data/runs").chmod(0o755)
    return project


def expected(project: Path) -> dict[str, list[Any]]:
    """Return the sum of each file, and whether it can be run."""
    return {
        str(path.relative_to(project)): [
            hashlib.sha256(path.read_bytes()).hexdigest(), os.access(path, os.X_OK)
        ]
        for path in (project / "data").rglob("*") if path.is_file()
    }  # fmt: skip


def submit_by_a_client(yarn: YarnRuns, project: Path, **settings: Any) -> tuple[str, int]:
    """Submit in a process of its own; return the run, and the most memory that it took."""
    call = {"uri": str(project), "backend": "yarn", "backend_config": yarn.config(**settings)}
    file = yarn.folder / f"call-{project.name}.json"
    file.write_text(json.dumps(call))
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, str(file)],
        env=yarn.environment(), capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    _, run_id, most_kib = next(
        line for line in done.stdout.splitlines() if line.startswith("TOLD")
    ).split()
    return run_id, int(most_kib) * 1024


def arrives(yarn: YarnRuns, run_id: str, project: Path) -> None:
    run = yarn.ends(attach(run_id), "SUCCEEDED", timeout_s=400)
    (line,) = [x for x in yarn.log(run.info.run_id).splitlines() if x.startswith("FILES ")]
    assert json.loads(line.removeprefix("FILES ")) == expected(project)


def test_a_project_arrives_byte_for_byte(yarn: YarnRuns) -> None:
    project = make_project(yarn, 2 * MIB)
    submitted = yarn.run(project)
    arrives(yarn, submitted.run_id, project)


def test_a_project_arrives_by_the_runs_artifacts_too(yarn: YarnRuns) -> None:
    project = make_project(yarn, 2 * MIB)
    submitted = yarn.run(project, source="artifact")
    arrives(yarn, submitted.run_id, project)


@pytest.mark.large
def test_a_project_of_200_mib_arrives_and_takes_no_memory_of_its_size(yarn: YarnRuns) -> None:
    size_bytes = 200 * MIB
    small, large = make_project(yarn, MIB), make_project(yarn, size_bytes)
    run_id, few_bytes = submit_by_a_client(yarn, small)
    arrives(yarn, run_id, small)
    run_id, many_bytes = submit_by_a_client(yarn, large, source_limit="300Mi")
    arrives(yarn, run_id, large)
    more_mib = (many_bytes - few_bytes) / MIB
    print(f"memory: {few_bytes / MIB:.0f} MiB for 1 MiB, {more_mib:.0f} MiB more for 200 MiB")
    assert more_mib < 40

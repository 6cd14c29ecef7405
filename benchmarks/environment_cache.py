"""How long a job takes to start its program: as the image is, with its first build, from the cache.

Runs real jobs on a real cluster through MLflow's own Python API, with a real tracking server. The
moment that the program starts is read there, so the clocks of both machines have to agree.

    python -m benchmarks.environment_cache ray --jobs 10
    python -m benchmarks.environment_cache k8s --backend-config cfg.json --jobs 10

The configuration for k8s has an `environment_cache`. Each call builds one environment anew.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import mlflow.projects

from benchmarks.figures import show
from mlflow_exec.cli import parse_config
from mlflow_exec.runs.submitted import ExecSubmittedRun

LIMIT_S = 2.0
PROGRAM = "import time; print('the program started at', time.time())"
TAKEN = "second start: the cache's part, as the log says"


def start(folder: Path, backend: str, config: dict[str, Any], manager: str) -> tuple[float, str]:
    """Run the project; return how long it took to start the program, and the log."""
    before_s = time.time()
    run = mlflow.projects.run(
        str(folder), backend=backend, backend_config=dict(config), env_manager=manager,
        synchronous=False,
    )  # fmt: skip
    assert isinstance(run, ExecSubmittedRun)
    assert run.wait(), run.failure
    log = "".join(run.logs())
    found = re.search(r"the program started at ([\d.]+)", log)
    assert found, log
    return float(found.group(1)) - before_s, log


def write_project(folder: Path, requirements: list[str]) -> None:
    (folder / "main.py").write_text(PROGRAM)
    (folder / "requirements.txt").write_text("\n".join(requirements))
    (folder / "python_env.yaml").write_text("dependencies:\n  - -r requirements.txt\n")
    point = {"main": {"command": "python3 main.py"}}
    text = json.dumps({"python_env": "python_env.yaml", "entry_points": point})
    (folder / "MLproject").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", choices=["k8s", "ray"])
    parser.add_argument("--backend-config", default=None)
    parser.add_argument("--jobs", type=int, default=10)
    parser.add_argument("--requirement", action="append")
    parser.add_argument("--env-manager", choices=["virtualenv", "uv"], default="virtualenv")
    arguments = parser.parse_args()
    backend, config = arguments.backend, parse_config(arguments.backend_config)
    # No name of an index that anybody has: it makes the environment one that nobody has built.
    new = f"--trusted-host {uuid.uuid4().hex}.invalid"
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_project(folder, [new, *(arguments.requirement or ["pandas==2.2.3"])])
        start(folder, backend, config, "local")  # warms imports, images and a started Ray
        first_s, log = start(folder, backend, config, arguments.env_manager)
        assert "environment: built in" in log, log
        rows["first start: the environment is built"] = [first_s]
        for _ in range(arguments.jobs):
            local_s, _ = start(folder, backend, config, "local")
            second_s, log = start(folder, backend, config, arguments.env_manager)
            taken = re.search(r"taken from the cache \(key \w+…\), ([\d.]+) s", log)
            assert taken, log
            rows.setdefault("start with --env-manager local", []).append(local_s)
            rows.setdefault("second start: from the cache", []).append(second_s)
            rows.setdefault("second start: more than local", []).append(second_s - local_s)
            rows.setdefault(TAKEN, []).append(float(taken.group(1)))
    limits = {"second start: more than local": LIMIT_S}
    good = show(f"Environments from the cache, {backend}", rows, limits)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

"""What our imports add to an ``mlflow run``, the SDK included, beside MLflow's own."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.figures import show

LIMIT_S = 0.7
ROUNDS = 7

# What a submission imports, after what `mlflow run` itself has imported.
_PROGRAM = """
import sys, time
start = time.perf_counter()
import mlflow.cli, mlflow.projects
from mlflow.projects.backend import loader
middle = time.perf_counter()
import mlflow_exec.plugins.project_{backend}, mlflow_exec.plugins.project_backend
from mlflow_exec import registry
backend = registry.backend("{backend}")
registry.load(backend.settings), registry.load(backend.scheduler, backend.extra)
print(middle - start, time.perf_counter() - middle)
"""


def main() -> None:
    rows: dict[str, list[float]] = {}
    for backend in ("k8s", "ray"):
        for _ in range(ROUNDS):
            command = [sys.executable, "-c", _PROGRAM.format(backend=backend)]
            answer = subprocess.run(command, capture_output=True, text=True, check=True)
            mlflow_s, ours_s = map(float, answer.stdout.split()[-2:])
            rows.setdefault("import mlflow.cli", []).append(mlflow_s)
            rows.setdefault(f"our imports, {backend}", []).append(ours_s)
    limits = {name: LIMIT_S for name in rows if name.startswith("our")}
    good = show("Imports", rows, limits)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

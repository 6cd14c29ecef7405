"""What our entry points add to ``import mlflow`` and a client's first request."""

from __future__ import annotations

import subprocess
import sys

from benchmarks.figures import show

ROUNDS = 20
# Of the time of `import mlflow`: less than what it differs by from one run to the next.
LIMIT_S = 0.05

# Both kinds look for entry points by the same detour, so that the detour costs the same.
_PROGRAM = """
import importlib.metadata as metadata, time
found = metadata.entry_points
def entry_points(**given):
    points = found(**given)
    ours = [p for p in points if p.value.startswith("mlflow_exec")]
    return metadata.EntryPoints(p for p in points if {ours} or p not in ours)
metadata.entry_points = entry_points
start = time.perf_counter()
import mlflow
import mlflow.tracking.request_auth.registry, mlflow.tracking.request_header.registry
import mlflow.tracking.context.registry
print(time.perf_counter() - start)
"""


def main() -> None:
    without, ours = "import mlflow, without mlflow-exec", "import mlflow, with mlflow-exec"
    rows: dict[str, list[float]] = {without: [], ours: []}
    for _ in range(ROUNDS):
        for name in (without, ours):
            command = [sys.executable, "-c", _PROGRAM.format(ours=name == ours)]
            answer = subprocess.run(command, capture_output=True, text=True, check=True)
            rows[name].append(float(answer.stdout.split()[-1]))
    added = sorted(b - a for a, b in zip(rows[without], rows[ours], strict=True))
    rows["of which ours (median of the differences)"] = [added[ROUNDS // 2]]
    good = show("Import of MLflow", rows, {"of which ours (median of the differences)": LIMIT_S})
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

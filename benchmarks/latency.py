"""How long a user waits for us: until the job is accepted, and after it has ended.

Runs real jobs on a real cluster through MLflow's own Python API, with a real tracking server.

    python -m benchmarks.latency k8s --backend-config cfg.json --jobs 100
    python -m benchmarks.latency ray --jobs 20
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import mlflow.projects

from benchmarks.figures import show
from mlflow_exec import source
from mlflow_exec.cli import parse_config
from mlflow_exec.jobs import JobState
from mlflow_exec.runs.submitted import ExecSubmittedRun

LIMITS = {
    "k8s": {"our share until accepted": 1.0, "terminal condition to wait()": 1.0,
            "container's end to wait()": 5.0},
    "ray": {"our share until accepted": 1.0, "terminal status to wait()": 1.5},
}  # fmt: skip


_bundling = threading.local()


def time_bundling() -> None:
    """Add up, for each thread, the time spent on bundling: the project's size, not us."""
    bundle = source.bundle

    def timed(*args: Any, **kwargs: Any) -> Any:
        start_s = time.perf_counter()
        try:
            return bundle(*args, **kwargs)
        finally:
            _bundling.spent_s = time.perf_counter() - start_s

    source.bundle = timed


def kubernetes_ends(namespace: str | None, config: dict[str, Any]) -> dict[str, float]:
    """Watch the API server on our own and note when each Job's terminal condition arrives."""
    from mlflow_exec.clients import kubernetes as api
    from mlflow_exec.clients import kubernetes_config
    from mlflow_exec.clients.kubernetes_watch import ListWatch

    client = kubernetes_config.connect(config.get("context"), config.get("kubeconfig"))
    path = api.object_path("jobs", namespace or client.namespace, group="batch/v1")
    ends: dict[str, float] = {}

    def run() -> None:
        for event in ListWatch(client, path, "").events():
            if not event.packed:
                continue
            conditions = (event.object.get("status") or {}).get("conditions") or []
            if any(c["type"] in ("Complete", "Failed") for c in conditions):
                ends.setdefault(event.object["metadata"]["name"], time.monotonic())

    threading.Thread(target=run, daemon=True).start()
    return ends


def container_end_s(native: Any) -> float:
    """Return when the last container ended, in seconds since 1970 (the kubelet's whole seconds)."""
    from datetime import datetime

    times = [
        status["state"]["terminated"]["finishedAt"]
        for pod in native["pods"]
        for status in pod["status"].get("containerStatuses") or ()
    ]
    return datetime.fromisoformat(max(times).replace("Z", "+00:00")).timestamp()


def ray_end(run: ExecSubmittedRun) -> float:
    """Ask the Jobs API almost without a pause until the job is over; return when it was."""
    from mlflow_exec.clients import ray_embedded
    from mlflow_exec.clients.ray import RayClient, find_token

    embedded = ray_embedded.recorded()
    if embedded and run.handle.cluster in embedded.address:
        client = embedded.client()
    else:
        scheme = run.handle.scheme.removeprefix("ray-job+")
        client = RayClient(f"{scheme}://{run.handle.cluster}", token=find_token(None))
    final = ("SUCCEEDED", "FAILED", "STOPPED")
    while (client.job(run.handle.name) or {}).get("status") not in final:
        time.sleep(0.02)
    return time.monotonic()


def one(
    backend: str, project: str, config: dict[str, Any], ends: dict[str, float]
) -> dict[str, float]:
    start_s = time.perf_counter()
    run = mlflow.projects.run(
        project, backend=backend, backend_config=dict(config), synchronous=False
    )
    accepted_s = time.perf_counter() - start_s
    assert isinstance(run, ExecSubmittedRun)
    result = {"our share until accepted": accepted_s - _bundling.spent_s}
    if backend == "ray":
        with ThreadPoolExecutor(1) as pool:
            ended = pool.submit(ray_end, run)
            succeeded = run.wait()
            returned_s = time.monotonic()
            result["terminal status to wait()"] = returned_s - ended.result()
    else:
        status = run.follow()
        succeeded = status.state is JobState.SUCCEEDED
        returned_s, now_s = time.monotonic(), time.time()
        result["terminal condition to wait()"] = returned_s - ends[run.handle.name]
        result["container's end to wait()"] = now_s - container_end_s(status.native)
    assert succeeded, run.failure
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("backend", choices=["k8s", "ray"])
    parser.add_argument("--backend-config", default=None)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--at-once", type=int, default=2)
    arguments = parser.parse_args()
    config = parse_config(arguments.backend_config)
    time_bundling()
    ends: dict[str, float] = {}
    if arguments.backend == "k8s":
        ends = kubernetes_ends(config.get("namespace"), config)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "MLproject").write_text(
            json.dumps({"entry_points": {"main": {"command": "echo done"}}})
        )
        one(arguments.backend, folder, config, ends)  # warms imports and a started Ray
        with ThreadPoolExecutor(arguments.at_once) as pool:
            calls = [
                pool.submit(one, arguments.backend, folder, config, ends)
                for _ in range(arguments.jobs)
            ]
            results = [call.result() for call in calls]
    rows = {name: [result[name] for result in results] for name in results[0]}
    good = show(f"Waiting for us, {arguments.backend}", rows, LIMITS[arguments.backend])
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

"""What it costs to know how many jobs are doing, on a real API server.

    python -m benchmarks.tracking --jobs 1000

The Jobs are real objects that nobody runs (``managedBy`` keeps the Job controller away); ending
one is a write of its terminal condition, so that nothing but the way of the news is measured. The
second row is a loop over ``GET job`` for each job, as MLflow's own Kubernetes backend does it.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
import tracemalloc
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from benchmarks.figures import show
from mlflow_exec.cli import parse_config
from mlflow_exec.clients.kubernetes import KubernetesClient, object_path
from mlflow_exec.clients.kubernetes_config import connect
from mlflow_exec.jobs import JobHandle, job_name
from mlflow_exec.schedulers.kubernetes import KubernetesScheduler
from mlflow_exec.settings import KubernetesSettings, parse_settings

LIMIT_S = 1.0
_WRITERS = 8
_CONTAINER = {"name": "job", "image": "none", "command": ["none"]}


def job(run_id: str, namespace: str) -> dict[str, Any]:
    labels = {"app.kubernetes.io/managed-by": "mlflow-exec", "mlflow-exec/run-id": run_id}
    pod = {"restartPolicy": "Never", "containers": [_CONTAINER]}
    metadata = {"name": job_name(run_id, 1), "namespace": namespace, "labels": labels}
    spec = {"managedBy": "example.com/benchmark", "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def complete(client: KubernetesClient, handle: JobHandle) -> float:
    """Write the terminal condition of a job and return when it was there."""
    now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    conditions = [
        {"type": kind, "status": "True", "reason": "CompletionsReached", "lastTransitionTime": now}
        for kind in ("SuccessCriteriaMet", "Complete")
    ]
    status = {"conditions": conditions, "startTime": now, "completionTime": now, "succeeded": 1}
    path = object_path("jobs", handle.path[0], handle.name, group="batch/v1", sub="status")
    body = {"status": status}
    client.request("PATCH", path, body=body, content_type="application/merge-patch+json")
    return time.monotonic()


@contextmanager
def jobs(client: KubernetesClient, namespace: str, count: int) -> Iterator[list[JobHandle]]:
    """Make the Jobs, in a namespace of their own."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
    client.request("POST", "/api/v1/namespaces", body=body)
    path, identity = object_path("jobs", namespace, group="batch/v1"), client.identity()

    def make(_: int) -> JobHandle:
        made = client.request("POST", path, body=job(uuid.uuid4().hex, namespace))["metadata"]
        return JobHandle("k8s", identity, (namespace, made["name"]), made["uid"])

    try:
        with ThreadPoolExecutor(_WRITERS) as pool:
            yield list(pool.map(make, range(count)))
    finally:
        client.request("DELETE", f"/api/v1/namespaces/{namespace}")


@contextmanager
def counted(client: KubernetesClient) -> Iterator[list[str]]:
    """Note every request that a client sends."""
    sent: list[str] = []
    send = client._send

    def noted(method: str, path: str, *rest: Any, **more: Any) -> Any:
        sent.append(f"{method} {path}")
        return send(method, path, *rest, **more)

    client._send = noted  # type: ignore[method-assign]
    yield sent
    client._send = send  # type: ignore[method-assign]


def ours(scheduler: KubernetesScheduler, writer: KubernetesClient, handles: list[JobHandle],
         ends: int) -> tuple[list[float], float, float]:  # fmt: skip
    """Return the delays, the requests per job, and the memory in KiB per job."""
    client = scheduler._client_of(handles[0])
    with counted(client) as sent:
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for handle in [handles[0], *handles]:
            scheduler.glance(handle)
        for handle in handles:
            while scheduler.glance(handle).native:  # until it is known without asking
                time.sleep(0.05)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        delays = delays_of(lambda handle: scheduler.glance(handle).state.is_final, writer,
                           handles[:ends])  # fmt: skip
    return delays, len(sent) / len(handles), (after - before) / 1024 / len(handles)


def one_by_one(client: KubernetesClient, writer: KubernetesClient, handles: list[JobHandle],
               ends: int) -> tuple[list[float], float]:  # fmt: skip
    """Ask for every job in turn, again and again, as clients without a watch do."""
    final: set[str] = set()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            for handle in handles:
                path = object_path("jobs", handle.path[0], handle.name, group="batch/v1")
                found = client.request("GET", path)
                if (found.get("status") or {}).get("succeeded"):
                    final.add(handle.name)

    with counted(client) as sent:
        thread = threading.Thread(target=ask)
        thread.start()
        delays = delays_of(lambda handle: handle.name in final, writer, handles[:ends])
        stop.set()
        thread.join()
    return delays, len(sent) / len(handles)


def delays_of(is_final: Any, writer: KubernetesClient, handles: list[JobHandle]) -> list[float]:
    """End jobs one after the other and return how long it took until each was told."""
    delays = []
    for handle in handles:
        ended_s = complete(writer, handle)
        while not is_final(handle):
            time.sleep(0.002)
        delays.append(time.monotonic() - ended_s)
    return delays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend-config", default=None)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--ends", type=int, default=100, help="how many of them end")
    arguments = parser.parse_args()
    config = parse_config(arguments.backend_config)
    settings = parse_settings(KubernetesSettings, config, "--backend-config")
    scheduler = KubernetesScheduler(settings)
    writer = connect(settings.context, settings.kubeconfig)
    rows: dict[str, list[float]] = {}
    name = f"mlflow-exec-benchmark-{uuid.uuid4().hex[:8]}"
    with jobs(writer, name, arguments.jobs) as handles:
        rows["ours"], requests, kib = ours(scheduler, writer, handles, arguments.ends)
    print(f"ours: {requests:.3f} requests and {kib:.1f} KiB per job, {arguments.jobs} jobs")
    with jobs(writer, name + "-b", arguments.jobs) as handles:
        rows["one by one"], requests = one_by_one(writer, writer, handles, arguments.ends // 10)
    print(f"one by one: {requests:.3f} requests per job until {arguments.ends // 10} ended")
    limits = {"ours": LIMIT_S}
    good = show(f"From the terminal condition to get_status(), {arguments.jobs} jobs", rows, limits)
    sys.exit(0 if good and kib < 4 else 1)


if __name__ == "__main__":
    main()

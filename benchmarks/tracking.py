"""What it costs to know how many jobs are doing, on a real API server.

    python -m benchmarks.tracking --jobs 1000

The Jobs are real objects that nobody runs; ending one is a write of its terminal condition, so that
nothing but the way of the news is measured. Beside ours stands MLflow's own Kubernetes backend, the
class that it hands to its users, on the same Jobs (only its submission needs a docker): its
``get_status()`` for all jobs in a loop of one thread, without any pause, and its ``wait()`` in a
thread for each of a few jobs, which asks every five seconds.
"""

from __future__ import annotations

import argparse
import logging
import random
import sys
import threading
import time
import tracemalloc
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from kubernetes.client import ApiClient, BatchV1Api
from kubernetes.config import load_kube_config
from mlflow.entities import RunStatus
from mlflow.projects.kubernetes import KubernetesSubmittedRun

from benchmarks import nobody
from benchmarks.figures import show
from benchmarks.sent import Sent, sent
from mlflow_exec.cli import parse_config
from mlflow_exec.clients.kubernetes import KubernetesClient
from mlflow_exec.clients.kubernetes_config import connect
from mlflow_exec.jobs import JobHandle
from mlflow_exec.schedulers.kubernetes import KubernetesScheduler
from mlflow_exec.settings import KubernetesSettings, parse_settings

LIMIT_S = 1.0
_WRITERS = 8
LOOP = "MLflow's own, get_status() in a loop"
WAIT = "MLflow's own, wait() in threads"


@contextmanager
def jobs(client: KubernetesClient, name: str, count: int) -> Iterator[list[JobHandle]]:
    """Make the Jobs, in a namespace of their own."""
    with nobody.namespace(client, name), ThreadPoolExecutor(_WRITERS) as pool:
        ids = [uuid.uuid4().hex for _ in range(count)]
        yield list(pool.map(lambda run_id: nobody.make_job(client, run_id, name), ids))


def ours(scheduler: KubernetesScheduler, writer: KubernetesClient, handles: list[JobHandle],
         ends: int) -> tuple[list[float], float, float]:  # fmt: skip
    """Return the delays, the requests per job, and the memory in KiB per job."""
    with sent() as noted:
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
    return delays, reads(noted) / len(handles), (after - before) / 1024 / len(handles)


def reads(noted: Sent) -> int:
    """Count the requests that ask; those that write are the benchmark's own."""
    return sum(request.method == "GET" for request in noted.requests)


def by_loop(writer: KubernetesClient, handles: list[JobHandle],
            ends: int) -> tuple[list[float], float]:  # fmt: skip
    """Ask MLflow's own runs for their status, one after the other, again and again."""
    runs = [KubernetesSubmittedRun("", handle.name, handle.path[0]) for handle in handles]
    final: set[str] = set()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            for handle, run in zip(handles, runs, strict=True):
                if RunStatus.is_terminated(run.get_status()):
                    final.add(handle.name)

    with sent() as noted:
        thread = threading.Thread(target=ask)
        thread.start()
        delays = delays_of(lambda handle: handle.name in final, writer, handles[:ends])
        stop.set()
        thread.join()
    return delays, reads(noted) / len(handles)


def by_wait(writer: KubernetesClient, handles: list[JobHandle]) -> list[float]:
    """Wait for each job as MLflow's own runs do, in a thread of its own."""

    def wait(handle: JobHandle) -> float:
        KubernetesSubmittedRun("", handle.name, handle.path[0]).wait()
        return time.monotonic()

    ended_s = []
    with ThreadPoolExecutor(len(handles)) as pool:
        calls = [pool.submit(wait, handle) for handle in handles]
        for handle in handles:
            ended_s.append(nobody.complete(writer, handle))
            time.sleep(random.uniform(0, 2 * KubernetesSubmittedRun.POLL_STATUS_INTERVAL))
        return [call.result() - end_s for call, end_s in zip(calls, ended_s, strict=True)]


def accept_a_true_for_pretty() -> None:
    """Let MLflow's class run: it passes ``pretty=True``, which Kubernetes' client refuses by now.

    It is a text in the API, and the client has come to check types.
    """
    read = BatchV1Api.read_namespaced_job_status

    def read_status(self: BatchV1Api, *, pretty: object, **arguments: Any) -> Any:
        return read(self, pretty=str(pretty).lower(), **arguments)

    BatchV1Api.read_namespaced_job_status = read_status


def delays_of(is_final: Any, writer: KubernetesClient, handles: list[JobHandle]) -> list[float]:
    """End jobs one after the other and return how long it took until each was told."""
    delays = []
    for handle in handles:
        ended_s = nobody.complete(writer, handle)
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
    load_kube_config(settings.kubeconfig, settings.context)  # the default of MLflow's own
    accept_a_true_for_pretty()
    ApiClient.set_default(ApiClient())  # else each of its runs opens a connection of its own
    logging.getLogger("mlflow.projects.kubernetes").setLevel(logging.WARNING)
    few = max(1, arguments.ends // 10)
    with jobs(writer, name + "-b", arguments.jobs) as handles:
        rows[LOOP], requests = by_loop(writer, handles[few:], few)
        rows[WAIT] = by_wait(writer, handles[:few])
    print(f"MLflow's own, in a loop: {requests:.3f} requests per job until {few} ended")
    print(f"MLflow's own, wait(): {3600 / KubernetesSubmittedRun.POLL_STATUS_INTERVAL:g} requests "
          f"per job and hour")  # fmt: skip
    limits = {"ours": LIMIT_S}
    good = show(f"From the terminal condition to get_status(), {arguments.jobs} jobs", rows, limits)
    sys.exit(0 if good and kib < 4 else 1)


if __name__ == "__main__":
    main()

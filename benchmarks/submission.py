"""How fast one process submits jobs, beside a bare client that sends the same to the cluster.

    python -m benchmarks.submission --jobs 500

A job is four writing requests: Job, Secret, ConfigMap (the project and the first step, about
150 KB) and the PATCH that starts it. The bare client is Kubernetes' own for Python, which sends
bodies made beforehand, one after the other. Ours is ``mlflow.projects.run``, as users call it, with
its preflight, on the same API server and with a real ``mlflow server``; nobody runs the Jobs.

MLflow's own part (its calls to the tracking server for the run, its tags and its artifacts; looking
for the backend among all installed packages) is most of the time, and no property of ours. So three
rates are shown: that of the cluster's part alone (plan, check, submit), that of our backend without
its calls of MLflow's client (so with reading and bundling the project), and that of the whole. The
limit counts for the first two; the third is what users see, and MLflow's server decides it.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
from kubernetes import client as official
from mlflow.store.artifact import http_artifact_repo
from mlflow.utils import rest_utils

from benchmarks import nobody
from benchmarks.figures import Figure, show_figures
from benchmarks.sent import Sent, sent, show_kinds
from mlflow_exec.cli import parse_config
from mlflow_exec.clients.kubernetes import KubernetesClient
from mlflow_exec.clients.kubernetes_config import connect
from mlflow_exec.plugins.project_backend import run_project
from mlflow_exec.runs import submit
from mlflow_exec.runs.progress import Progress
from mlflow_exec.schedulers.kubernetes.objects import with_contents
from mlflow_exec.settings import KubernetesSettings, parse_settings
from tests.servers import mlflow_server

MOST_WRITES = 4
LEAST_OF_BARE = 0.7
LEAST_BY_THREADS = 2.0
THREADS = 16
_TOKEN = "MLFLOW_EXEC_BENCHMARK_TOKEN"
_PROJECT = {
    "name": "benchmark",
    "entry_points": {
        "main": {
            "parameters": {"alpha": {"type": "float", "default": 0.5}},
            "command": "python3 main.py {alpha}",
        }
    },
}


@dataclass(frozen=True)
class Measured:
    """One way of submitting: how many jobs, how long it took, what was sent."""

    jobs: int
    took_s: float
    noted: Sent
    in_mlflow_s: float

    @property
    def writes_each(self) -> float:
        """Writing requests to the cluster for each job."""
        return len(self.noted.writes()) / self.jobs

    @property
    def rate(self) -> float:
        """Writing requests to the cluster in each second."""
        return len(self.noted.writes()) / self.took_s

    @property
    def own_rate(self) -> float:
        """The same without the time that the only thread spent in MLflow's client."""
        return len(self.noted.writes()) / (self.took_s - self.in_mlflow_s)


@contextlib.contextmanager
def time_in_mlflow() -> Iterator[list[float]]:
    """Note how long each call of MLflow's client to its server takes."""
    call, spent_s = rest_utils.http_request, []

    def timed(*args: Any, **kwargs: Any) -> Any:
        start_s = time.perf_counter()
        try:
            return call(*args, **kwargs)
        finally:
            spent_s.append(time.perf_counter() - start_s)

    modules = (rest_utils, http_artifact_repo)
    for module in modules:
        module.http_request = timed
    yield spent_s
    for module in modules:
        module.http_request = call


def measure(one: Callable[[], object], jobs: int, threads: int = 1) -> Measured:
    """Submit so many jobs, one after the other or by threads."""
    with sent() as noted, time_in_mlflow() as spent_s, ThreadPoolExecutor(threads) as pool:
        start_s = time.perf_counter()
        if threads == 1:
            for _ in range(jobs):
                one()
        else:
            for call in [pool.submit(one) for _ in range(jobs)]:
                call.result()
        took_s = time.perf_counter() - start_s
    return Measured(jobs, took_s, noted, sum(spent_s))


@dataclass(frozen=True)
class Project:
    """What is submitted, and how."""

    folder: Path
    config: dict[str, Any]
    tracking_uri: str

    def whole(self) -> None:
        """Submit as users do."""
        mlflow.projects.run(
            str(self.folder), parameters={"alpha": 0.1}, backend="k8s",
            backend_config=dict(self.config), synchronous=False,
        )  # fmt: skip

    def backend(self) -> None:
        """Submit as MLflow calls our backend."""
        run_project("k8s", str(self.folder), "main", {"alpha": 0.1}, None, dict(self.config),
                    self.tracking_uri, "0")  # fmt: skip

    def prepared(self) -> submit.Prepared:
        """Return the same call, checked as far as this machine can."""
        call = submit.Call("k8s", str(self.folder), "main", {"alpha": 0.1}, None,
                           self.config, self.tracking_uri, "0")  # fmt: skip
        return submit.prepare(call, Progress())

    def cluster_part(self, prepared: submit.Prepared) -> Callable[[], object]:
        """Return what submits a job of a call without a run."""
        scheduler = prepared.scheduler

        def one() -> None:
            submit.check(prepared, Progress())
            scheduler.submit(scheduler.plan(submit.make_spec(prepared, uuid.uuid4().hex)))

        return one


def bare(client: KubernetesClient, prepared: submit.Prepared, jobs: int) -> Callable[[], None]:
    """Return what sends the bodies of one job after the other by Kubernetes' own client."""
    api = client._load()
    batch, core = official.BatchV1Api(api), official.CoreV1Api(api)
    bodies = []
    for _ in range(jobs):
        plan = prepared.scheduler.plan(submit.make_spec(prepared, uuid.uuid4().hex))
        bodies.append([with_contents(item, plan) for item in plan.objects])
    left = iter(bodies)

    def one() -> None:
        job, secret, files = next(left)
        metadata = job["metadata"]
        space, name = metadata["namespace"], metadata["name"]
        made = batch.create_namespaced_job(space, job)
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": made.metadata.uid}
        for item in (secret, files):
            item["metadata"]["ownerReferences"] = [owner]
        core.create_namespaced_secret(space, secret)
        core.create_namespaced_config_map(space, files)
        batch.patch_namespaced_job(name, space, {"spec": {"suspend": False}})

    return one


def figures(found: dict[str, Measured]) -> dict[str, Figure]:
    """Return the figures, with the limits of those that have one."""
    base, part, backend = found["bare"].rate, found["part"].rate, found["backend"].own_rate
    serial, threads = found["serial"], found["threads"]
    return {
        "writing requests for each job": Figure(serial.writes_each, at_most=MOST_WRITES),
        "the same by 16 threads": Figure(threads.writes_each, at_most=MOST_WRITES),
        "requests to MLflow for each job": Figure(
            sum(serial.noted.kinds(to_mlflow=True).values()) / serial.jobs
        ),
        "bare client, writing requests/s": Figure(base),
        "ours, the cluster's part, requests/s": Figure(part),
        "times the bare client, the cluster's part": Figure(part / base, at_least=LEAST_OF_BARE),
        "our backend without MLflow's calls, requests/s": Figure(backend),
        "times the bare client, our backend": Figure(backend / base, at_least=LEAST_OF_BARE),
        "mlflow.projects.run, the whole, requests/s": Figure(serial.rate),
        "times the bare client, the whole": Figure(serial.rate / base),
        "the whole by 16 threads, requests/s": Figure(threads.rate),
        "times our serial rate": Figure(
            threads.rate / serial.rate, at_least=LEAST_BY_THREADS
        ),
    }


def measured(client: KubernetesClient, project: Project, jobs: int) -> dict[str, Measured]:
    """Submit by each way; the checks of the first submission are not counted."""
    found: dict[str, Measured] = {}
    with contextlib.closing(project.prepared()) as prepared:
        part = project.cluster_part(prepared)
        part()
        found["bare"] = measure(bare(client, prepared, jobs), jobs)
        found["part"] = measure(part, jobs)
    project.whole()
    found["backend"] = measure(project.backend, jobs)
    found["serial"] = measure(project.whole, jobs)
    found["threads"] = measure(project.whole, jobs, THREADS)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend-config", default=None)
    parser.add_argument("--jobs", type=int, default=500)
    arguments = parser.parse_args()
    config = parse_config(arguments.backend_config)
    settings = parse_settings(KubernetesSettings, config, "--backend-config")
    client = connect(settings.context, settings.kubeconfig)
    os.environ[_TOKEN] = "not-a-secret"
    name = f"mlflow-exec-benchmark-{uuid.uuid4().hex[:8]}"
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory() as server_folder,
        mlflow_server(Path(server_folder), workers=None) as server,
        nobody.namespace(client, name),
        contextlib.redirect_stderr(io.StringIO()),  # a line for each job
    ):
        mlflow.set_tracking_uri(server.url)
        Path(folder, "MLproject").write_text(json.dumps(_PROJECT))
        Path(folder, "main.py").write_text("import sys\nprint(sys.argv)\n")
        config |= {
            "namespace": name, "image": "none", "secrets": {_TOKEN: {"env": _TOKEN}},
            "patch": {"spec": {"managedBy": nobody.MANAGED_BY}},
            "tracking_uri": "http://mlflow.example:5000",  # no job is there to ask for it
        }  # fmt: skip
        found = measured(client, Project(Path(folder), config, server.url), arguments.jobs)
    show_kinds("Requests for one job, by us", {
        f"{arguments.jobs} jobs": found["serial"].noted.kinds(to_mlflow=False)
        + found["serial"].noted.kinds(to_mlflow=True)
    })  # fmt: skip
    good = show_figures(f"Submitting {arguments.jobs} jobs", figures(found))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()

"""What it costs to bring the runs of ten thousand jobs to the truth, five hundred of which ended.

    python -m benchmarks.reconcile --runs 10000

A real API server and a real ``mlflow server`` with sqlite and artifacts of its own, over HTTP. The
Jobs and pods are real objects that nobody runs. One in ten of those that go on waits for its pod;
half of those that ended failed, with a part of their log on the run. What is timed is what
``mlflow-exec reconcile`` does, without its imports. It is done twice, the first time at a tenth of
the size, to see with what the requests grow.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from rich.console import Console

from benchmarks import nobody
from benchmarks.figures import show
from benchmarks.open_runs import insert
from benchmarks.sent import Sent, sent, show_kinds
from mlflow_exec.cli import parse_config
from mlflow_exec.clients.kubernetes import KubernetesClient
from mlflow_exec.clients.kubernetes_config import connect
from mlflow_exec.clients.kubernetes_watch import PAGE
from mlflow_exec.jobs import JobHandle
from mlflow_exec.runs.progress import Progress
from mlflow_exec.runs.reconcile import Outcome, Reconciler
from mlflow_exec.runtime import end
from mlflow_exec.settings import KubernetesSettings, parse_settings
from tests.servers import MlflowServer, mlflow_server

LIMIT_S = 60.0
# What one ended run needs: what it tells (two reads), a list of its log, its diagnosis, its end
# (a read, status, state, a read) and a tag that nothing is left to do; a failed one another list,
# the part of its log, the whole and its reason, too; half of them failed, so that is 11 each. In
# the cluster the pod's log and the Job's ttl.
MLFLOW_REQUESTS = 11
CLUSTER_REQUESTS = 2
RUNS_PAGE = 1000
_WRITERS = 8
_KILLED = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "startedAt": None}}
_DONE = {"terminated": {"exitCode": 0, "reason": "Completed", "startedAt": None}}


@dataclass(frozen=True)
class Size:
    """How many runs are open, and of how many the job has ended."""

    runs: int
    ended: int

    @property
    def title(self) -> str:
        """For the tables."""
        return f"{self.runs:,} open, {self.ended:,} ended"


@dataclass
class World:
    """The runs of one experiment and their jobs in one namespace."""

    client: KubernetesClient
    namespace: str
    server: MlflowServer
    experiment_id: str

    def fill(self, size: Size, there: int) -> dict[str, str]:
        """Make runs and jobs up to this size; return the states of those that ended, by run."""
        with ThreadPoolExecutor(_WRITERS) as pool:
            made = list(pool.map(lambda n: self._one(n, size), range(size.runs - there)))
        insert(self.server, self.experiment_id, [tags for tags, _ in made])
        return {tags["run"]: state for tags, state in made if state}

    def _one(self, number: int, size: Size) -> tuple[dict[str, str], str]:
        """Make one job; return the tags of its run, and the state if it has ended."""
        run_id = uuid.uuid4().hex
        waits = number >= size.ended and number % 10 == 0
        handle = nobody.make_job(self.client, run_id, self.namespace)
        tags = {
            "run": run_id, "mlflow.source.name": "a/project", end.TAG_BACKEND: "k8s",
            end.TAG_KEPT: "false", end.TAG_SETTINGS: "{}", end.TAG_HANDLE: str(handle),
            end.TAG_HANDLE_UID: handle.uid, end.TAG_STATE: "QUEUED" if waits else "RUNNING",
            **({} if waits else {end.TAG_ATTEMPT: "1"}),
        }  # fmt: skip
        if not waits:
            nobody.make_pod(self.client, run_id, handle)
        ended = number < size.ended
        return tags, self._end(run_id, handle, failed=number % 2 == 0) if ended else ""

    def _end(self, run_id: str, handle: JobHandle, *, failed: bool) -> str:
        if not failed:
            nobody.set_container(self.client, handle, "Succeeded", _DONE)
            nobody.complete(self.client, handle)
            return "SUCCEEDED"
        nobody.set_container(self.client, handle, "Failed", _KILLED)
        nobody.fail(self.client, handle)
        part = Path(self.server.dir, "artifacts", self.experiment_id, run_id, "artifacts",
                    "mlflow-exec", "log", f"{0:012}.txt")  # fmt: skip
        part.parent.mkdir(parents=True)
        part.write_text("mlflow-exec-start: here\nit began\n")
        return "FAILED"


def measure(world: World, config: dict[str, Any], size: Size, there: int) -> tuple[float, Sent]:
    """Make what is not there yet and reconcile all; return the time and the requests."""
    mlflow = MlflowClient(world.server.url)
    expected = world.fill(size, there)
    print(f"filled: {size.title}", flush=True)
    quiet = Progress(Console(file=io.StringIO()))  # there are no logs of pods that never ran
    reconciler = Reconciler(mlflow, {"k8s": config}, namespace=world.namespace, progress=quiet)
    with sent("MainThread", "mlflow-exec-reconcile") as noted:
        start_s = time.monotonic()
        outcomes = list(reconciler.once())
        took_s = time.monotonic() - start_s
    check(outcomes, expected, size, mlflow)
    return took_s, noted


@contextmanager
def worlds(client: KubernetesClient) -> Iterator[World]:
    """Start a tracking server, and make a namespace."""
    name = f"mlflow-exec-benchmark-{uuid.uuid4().hex[:8]}"
    with (
        tempfile.TemporaryDirectory() as folder,
        mlflow_server(Path(folder), workers=None) as server,
        nobody.namespace(client, name),
    ):
        experiment = MlflowClient(server.url).create_experiment(name)
        yield World(client, name, server, experiment)


def check(
    outcomes: list[Outcome], expected: dict[str, str], size: Size, mlflow: MlflowClient
) -> None:
    """Make sure that what was timed is the whole work, and is right."""
    actions = Counter(outcome.action for outcome in outcomes)
    assert actions == {"ended": size.ended, "open": size.runs - size.ended}, actions
    for run_id, state in expected.items():
        run = mlflow.get_run(run_id)
        assert run.data.tags[end.TAG_STATE] == state, run
        assert run.info.status == end.STATUS_OF_STATE[state], run
        category = run.data.tags.get(end.TAG_FAILURE_CATEGORY)
        assert category == ("out_of_memory" if state == "FAILED" else None), run


def excess(noted: Sent, size: Size) -> list[str]:
    """Return where the requests are more than pages and ended runs explain."""
    pages = math.ceil(size.runs / PAGE)
    run_pages = math.ceil((size.runs + 1) / RUNS_PAGE)
    cluster, mlflow = noted.kinds(to_mlflow=False), noted.kinds(to_mlflow=True)
    lists = "GET /apis/batch/v1/namespaces/*/jobs", "GET /api/v1/namespaces/*/pods"
    search = "POST /api/2.0/mlflow/runs/search"
    limits = {
        "lists of the cluster": (sum(cluster[kind] for kind in lists), 2 * pages),
        "its other requests": (
            sum(n for kind, n in cluster.items() if kind not in lists),
            CLUSTER_REQUESTS * size.ended + 3,  # who it is, and its warnings of Jobs and pods
        ),
        "searches for runs": (mlflow[search], run_pages + 1),  # open ones, and ended ones
        "MLflow's other requests": (
            sum(n for kind, n in mlflow.items() if kind != search),
            MLFLOW_REQUESTS * size.ended + 3,  # which experiments there are, and what it can do
        ),
    }
    return [
        f"{size.title}: {what}: {count}, at most {most} are explained"
        for what, (count, most) in limits.items()
        if count > most
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend-config", default=None)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--ended", type=int, default=None, help="one in twenty by default")
    arguments = parser.parse_args()
    config = parse_config(arguments.backend_config)
    settings = parse_settings(KubernetesSettings, config, "--backend-config")
    client = connect(settings.context, settings.kubeconfig)
    large = Size(arguments.runs, arguments.ended or arguments.runs // 20)
    rows: dict[str, list[float]] = {}
    kinds: dict[bool, dict[str, Counter[str]]] = {False: {}, True: {}}
    wrong: list[str] = []
    with worlds(client) as world:
        small = Size(large.runs // 10, large.ended // 10)
        for size, there in ((small, 0), (large, small.runs - small.ended)):
            took_s, noted = measure(world, config, size, there)
            rows[f"reconcile, {size.title}"] = [took_s]
            for to_mlflow, columns in kinds.items():
                columns[size.title] = noted.kinds(to_mlflow=to_mlflow)
            wrong += excess(noted, size)
    show_kinds("Requests to the cluster", kinds[False])
    show_kinds("Requests to the tracking server", kinds[True])
    good = show("Reconcile", rows, {f"reconcile, {large.title}": LIMIT_S})
    print(*wrong, sep="\n")
    sys.exit(0 if good and not wrong else 1)


if __name__ == "__main__":
    main()

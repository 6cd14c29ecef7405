"""What it costs to know how a thousand applications of a YARN are doing, and to end their runs.

    python -m benchmarks.yarn_reconcile --runs 1000

A real YARN and HDFS, those of the tests, and a real ``mlflow server`` with sqlite and artifacts of
its own, over HTTP. The applications are real, and wait in a queue that is too small for them; those
that ended were killed there. Timed are what ``mlflow-exec reconcile`` does, without its imports,
and how long it takes until a watch of all of them has told of each. It is done twice, the first
time at a tenth of the size, to see with what the requests grow.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from mlflow import MlflowClient
from rich.console import Console

from benchmarks.figures import show
from benchmarks.open_runs import insert
from benchmarks.reconcile import RUNS_PAGE, Size, check
from benchmarks.sent import Sent, sent, show_kinds
from mlflow_exec.jobs import JobHandle, job_name
from mlflow_exec.runs.progress import Progress
from mlflow_exec.runs.reconcile import Reconciler
from mlflow_exec.runtime import end
from mlflow_exec.schedulers.yarn import YarnScheduler
from mlflow_exec.schedulers.yarn.plan import MANAGED_BY
from mlflow_exec.settings import YarnSettings, parse_settings
from tests.clusters.yarn import applications
from tests.clusters.yarn.cluster import YarnCluster
from tests.servers import MlflowServer, mlflow_server

LIMIT_S = 60.0
WATCH_LIMIT_S = 10.0
LIST = "GET /ws/v1/cluster/apps"
# Which ResourceManager is the active one; then a list. Of each run that ended, HDFS is asked where
# the user's home is, and to remove what skein may have left there.
CLUSTER_REQUESTS = 2
# Beside what a run of another cluster's job needs: the objects of its submission.
MLFLOW_REQUESTS = 14
_WRITERS = 8


@dataclass
class World:
    """The runs of one experiment and their applications."""

    cluster: YarnCluster
    server: MlflowServer
    experiment_id: str
    handles: list[JobHandle] = field(default_factory=list)
    """Of the applications that wait."""

    @property
    def config(self) -> dict[str, str]:
        """The settings that lead to the cluster."""
        return {"hadoop_conf_dir": str(self.cluster.conf_dir)}

    def fill(self, size: Size) -> dict[str, str]:
        """Make runs and applications up to this size; return the states of ended ones, by run."""
        made = size.runs - len(self.handles)
        with ThreadPoolExecutor(_WRITERS) as pool:
            found = list(pool.map(lambda n: self._one(ended=n < size.ended), range(made)))
        insert(self.server, self.experiment_id, [tags for tags, _, _ in found])
        self.handles += [handle for _, handle, ended in found if not ended]
        killed = [(tags["run"], handle.uid) for tags, handle, ended in found if ended]
        for _, application in killed:
            applications.ended(self.cluster, application)
        return {run_id: "CANCELLED" for run_id, _ in killed}

    def _one(self, *, ended: bool) -> tuple[dict[str, str], JobHandle, bool]:
        run_id = uuid.uuid4().hex
        name = job_name(run_id, 1)
        application = applications.submit(
            self.cluster, "sleep 60", user=self.cluster.superuser, queue="small", memory_mb=3072,
            tags=[MANAGED_BY, f"mlflow-{run_id}", name],
        )  # fmt: skip
        if ended:
            applications.kill(self.cluster, application, user=self.cluster.superuser)
        address = urlsplit(self.cluster.resource_manager_url).netloc
        handle = JobHandle("yarn", address, (name,), application)
        tags = {
            "run": run_id, "mlflow.source.name": "a/project", end.TAG_BACKEND: "yarn",
            end.TAG_KEPT: "false", end.TAG_SETTINGS: "{}", end.TAG_HANDLE: str(handle),
            end.TAG_HANDLE_UID: handle.uid, end.TAG_STATE: "QUEUED",
        }  # fmt: skip
        return tags, handle, ended


def measure(world: World, size: Size) -> tuple[float, Sent]:
    """Make what is not there yet and reconcile all; return the time and the requests."""
    mlflow = MlflowClient(world.server.url)
    expected = world.fill(size)
    quiet = Progress(Console(file=io.StringIO()))
    reconciler = Reconciler(mlflow, {"yarn": world.config}, progress=quiet)
    with sent("MainThread", "mlflow-exec-reconcile") as noted:
        start_s = time.monotonic()
        outcomes = list(reconciler.once())
        took_s = time.monotonic() - start_s
    check(outcomes, expected, size, mlflow)
    return took_s, noted


def measure_watch(world: World) -> tuple[float, Sent]:
    """Watch all applications that wait until each was told of; return the time and the requests."""
    scheduler = YarnScheduler(parse_settings(YarnSettings, world.config, "--backend-config"))
    stop, left = threading.Event(), {handle.name for handle in world.handles}
    with sent("MainThread") as noted:
        start_s = time.monotonic()
        for handle, status in scheduler.watch(world.handles, stop):
            assert status is not None
            left.discard(handle.name)
            if not left:
                stop.set()
                break
        return time.monotonic() - start_s, noted


def excess(noted: Sent, size: Size) -> list[str]:
    """Return where the requests of a reconciler are more than lists and ended runs explain."""
    run_pages = math.ceil((size.runs + 1) / RUNS_PAGE)
    cluster, mlflow = noted.kinds(to_mlflow=False), noted.kinds(to_mlflow=True)
    search = "POST /api/2.0/mlflow/runs/search"
    limits = {
        # One of all jobs, and of each that has ended one of its own applications, which are few.
        "lists of the cluster": (cluster[LIST], 1 + size.ended),
        "its other requests": (
            sum(n for kind, n in cluster.items() if kind != LIST), CLUSTER_REQUESTS * size.ended + 1
        ),
        "searches for runs": (mlflow[search], run_pages + 1),  # open ones, and ended ones
        "MLflow's other requests": (
            sum(n for kind, n in mlflow.items() if kind != search),
            MLFLOW_REQUESTS * size.ended + 3,  # which experiments there are, and what it can do
        ),
    }  # fmt: skip
    return [
        f"{size.title}: {what}: {count}, at most {most} are explained"
        for what, (count, most) in limits.items()
        if count > most
    ]


@contextmanager
def worlds() -> Iterator[World]:
    """Start a YARN and a tracking server."""
    cluster = YarnCluster().start()
    os.environ.update(cluster.environment())
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            mlflow_server(Path(folder), workers=None) as server,
        ):
            cluster.make_home(cluster.superuser)
            experiment = MlflowClient(server.url).create_experiment("benchmark")
            yield World(cluster, server, experiment)
    finally:
        cluster.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000, help="a queue takes that many at most")
    parser.add_argument("--ended", type=int, default=None, help="one in twenty by default")
    arguments = parser.parse_args()
    large = Size(arguments.runs, arguments.ended or arguments.runs // 20)
    small = Size(large.runs // 10, large.ended // 10)
    rows: dict[str, list[float]] = {}
    kinds: dict[bool, dict[str, Counter[str]]] = {False: {}, True: {}}
    wrong: list[str] = []
    with worlds() as world:
        for size in (small, large):
            took_s, noted = measure(world, size)
            rows[f"reconcile, {size.title}"] = [took_s]
            for to_mlflow, columns in kinds.items():
                columns[size.title] = noted.kinds(to_mlflow=to_mlflow)
            wrong += excess(noted, size)
            took_s, noted = measure_watch(world)
            rows[f"watch, {size.title}"] = [took_s]
            kinds[False][f"watch, {size.title}"] = noted.kinds(to_mlflow=False)
            if len(noted.requests) > 1:
                wrong.append(f"watch, {size.title}: {len(noted.requests)} requests")
    show_kinds("Requests to the cluster", kinds[False])
    show_kinds("Requests to the tracking server", kinds[True])
    limits = {f"reconcile, {large.title}": LIMIT_S, f"watch, {large.title}": WATCH_LIMIT_S}
    good = show("Applications of a YARN", rows, limits)
    print(*wrong, sep="\n")
    sys.exit(0 if good and not wrong else 1)


if __name__ == "__main__":
    main()

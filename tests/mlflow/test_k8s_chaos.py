"""Many jobs through an API server that fails in every way at once: each ends right."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client as kubernetes

from mlflow_exec.testing.collecting import until
from tests.clusters.kubernetes.faulty_api import RETRY_AFTER_S, FaultyApi, by_chance, faulty_api
from tests.clusters.pytest_kubernetes import unavailable
from tests.mlflow.k8s_runs import K8sRuns
from tests.mlflow.killed_submissions import PROGRAM as COUNTS_ITS_START
from tests.mlflow.many_jobs import Order

MLPROJECT = """
name: chaos
entry_points:
  main:
    parameters:
      role: string
    command: python3 main.py {role}
"""
PROGRAM = COUNTS_ITS_START + """
import signal, sys

if sys.argv[1] in ("cancelled", "deleted"):
    signal.pause()
sys.exit(7 if sys.argv[1] == "fails" else 0)
"""
# libfaketime leaves the monotonic clock alone, as a wrong clock does; but then it answers EINVAL to
# the system call by which time.sleep waits on that clock.
OTHER_SLEEP = "import select, time; time.sleep = lambda s: select.select([], [], [], s)"
# What becomes of a job by what is done to it: state, MLflow's status, category.
ENDS = {
    "succeeds": ("SUCCEEDED", "FINISHED", ""),
    "fails": ("FAILED", "FAILED", "user_error"),
    "cancelled": ("CANCELLED", "KILLED", ""),
    "deleted": ("CANCELLED", "KILLED", ""),
}
ROLES = ("succeeds", "fails", "succeeds", "cancelled", "succeeds", "deleted", "succeeds", "fails")
CONTEXT = "through the proxy"
_JOB = re.compile(r"mlflow-[0-9a-f]{32}-\d")
_SKEW_S = 600.0
NOTICED_S = 40.0  # as the docs say of a network that drops connections, and a little more


@dataclass
class Client:
    """A process with a clock of its own and a share of the jobs."""

    process: subprocess.Popen[bytes]
    told_in: Path
    output: Path

    def told(self, word: str) -> list[dict[str, Any]]:
        """Return what it told with this word so far."""
        lines = self.told_in.read_text().splitlines() if self.told_in.exists() else []
        return [line for line in map(json.loads, lines) if word in line]

    def check(self) -> None:
        """Fail if it died or told of an error."""
        assert self.process.poll() in (None, 0), self.output.read_text()[-3000:]
        assert not self.told("error"), self.told("error")[:3]


@dataclass
class Chaos:
    """Clients with many jobs, and the API between them and the cluster."""

    k8s: K8sRuns
    api: FaultyApi
    clients: list[Client]

    def start(self, roles: list[str], skew: str) -> None:
        """Start a client whose clock differs from the cluster's by so much."""
        number = len(self.clients)
        folder = self.k8s.folder.parent / f"{self.k8s.folder.name}-client-{number}"
        folder.mkdir()
        config = self.k8s.config(
            kubeconfig=str(self.api.kubeconfig(folder / "kubeconfig", CONTEXT)), context=CONTEXT,
            ttl_s=3600,
        )  # fmt: skip
        project = self.k8s.project(PROGRAM, MLPROJECT)
        order = Order(
            self.k8s.server.url, self.k8s.experiment_id, str(project), config, roles,
            str(folder / "told"),
        ).write(folder / "order")  # fmt: skip
        (folder / "sitecustomize.py").write_text(OTHER_SLEEP)
        environment = {
            **os.environ, "FAKETIME_DONT_FAKE_MONOTONIC": "1", "PYTHONPATH": str(folder),
        }  # fmt: skip
        with (folder / "output").open("wb") as output:
            process = subprocess.Popen(
                ["faketime", "-m", "-f", skew, sys.executable, "-m", "tests.mlflow.many_jobs",
                 str(order)],
                env=environment,
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self.clients.append(Client(process, folder / "told", folder / "output"))

    def told(self, word: str) -> list[dict[str, Any]]:
        for one in self.clients:
            one.check()
        return [line for one in self.clients for line in one.told(word)]

    def close(self) -> None:
        for one in self.clients:
            with suppress(ProcessLookupError):
                os.killpg(one.process.pid, signal.SIGKILL)  # faketime has the client as its child
            one.process.wait()


@pytest.fixture
def chaos(k8s: K8sRuns) -> Iterator[Chaos]:
    if shutil.which("faketime") is None:
        unavailable("a process with another clock needs faketime")
    k8s.experiment_id = k8s.mlflow.create_experiment(f"chaos {k8s.folder.name}")
    with k8s.cluster.api_client() as api_client, faulty_api(api_client) as api:
        made = Chaos(k8s, api, [])
        yield made
        made.close()


def delete_those_that_run(chaos: Chaos) -> None:
    """Delete Jobs as an operator does, past the clients."""
    k8s = chaos.k8s
    names = {line["job"]: line["submitted"] for line in chaos.told("submitted")
             if line["role"] == "deleted"}  # fmt: skip
    for run_id in names.values():
        until(lambda run_id=run_id: starts(k8s, run_id), "a job that waits runs", 300)  # type: ignore[misc]
    with k8s.cluster.api_client() as api:
        for name in names:
            kubernetes.BatchV1Api(api).delete_namespaced_job(
                name, k8s.namespace, propagation_policy="Foreground"
            )


def starts(k8s: K8sRuns, run_id: str) -> int:
    """Return how often the program was started."""
    return len(k8s.mlflow.get_metric_history(run_id, "starts"))


def each_has_ended_right(k8s: K8sRuns, roles: dict[str, str]) -> None:
    runs = {run.info.run_id: run for run in k8s.mlflow.search_runs([k8s.experiment_id])}
    assert runs.keys() == roles.keys(), "one run for one job"
    for run_id, role in roles.items():
        tags = runs[run_id].data.tags
        end = (
            tags["mlflow_exec.state"], runs[run_id].info.status,
            tags.get("mlflow_exec.failure.category", ""),
        )  # fmt: skip
        shown = {k: v for k, v in tags.items() if k.startswith("mlflow_exec.")}
        assert end == ENDS[role], f"{role}: {shown}\n{k8s.log(run_id)[-2000:]}"
        # A cancel may come before the program does.
        assert starts(k8s, run_id) in ((0, 1) if role == "cancelled" else (1,)), f"{role}: {run_id}"
        assert json.loads(k8s.artifact(run_id, "diagnosis.json"))["state"] == ENDS[role][0]
        assert (runs[run_id].info.end_time or 0) >= runs[run_id].info.start_time, shown


def nothing_is_left(k8s: K8sRuns, roles: dict[str, str]) -> None:
    """Jobs that have ended stay for a while; nothing else does."""
    stay = {run_id for run_id, role in roles.items() if role in ("succeeds", "fails")}
    with k8s.cluster.api_client() as api:
        core, batch = kubernetes.CoreV1Api(api), kubernetes.BatchV1Api(api)

        def gone() -> bool:
            objects = [
                *batch.list_namespaced_job(k8s.namespace).items,
                *core.list_namespaced_pod(k8s.namespace).items,
                *core.list_namespaced_config_map(k8s.namespace).items,
            ]
            names = [item.metadata.name for item in objects]
            return not [n for n in names for run_id in roles.keys() - stay if run_id in n]

        until(gone, "what belonged to jobs that were stopped is gone")
        ours = f"mlflow-exec/experiment-id={k8s.experiment_id}"
        jobs = batch.list_namespaced_job(k8s.namespace, label_selector=ours).items
    assert sorted(job.metadata.labels["mlflow-exec/run-id"] for job in jobs) == sorted(stay)
    assert {job.spec.ttl_seconds_after_finished for job in jobs} == {3600}


def requests_were_few(api: FaultyApi, jobs: int) -> None:
    """No tight loop anywhere, and whoever was asked to wait has waited."""
    by_second = Counter(int(asked.at_s) for asked in api.asked)
    watches = [asked for asked in api.asked if asked.is_watch]
    print(
        f"{len(api.asked) / jobs:.1f} requests per job, {len(watches)} watches, "
        f"{max(by_second.values())} at most in a second, faults: "
        f"{Counter(asked.fault for asked in api.asked)}"
    )
    assert len(api.asked) <= 40 * jobs
    assert len(watches) <= 100
    # Only a request with a job's name in it is surely that of one client.
    own = [asked for asked in api.asked if _JOB.search(asked.target)]
    key = lambda a: (a.method, a.target, a.content)  # noqa: E731
    for _, same in itertools.groupby(sorted(own, key=key), key=key):
        for first, second in itertools.pairwise(sorted(same, key=lambda a: a.at_s)):
            if "Retry-After" in first.fault:
                assert second.at_s - first.at_s >= RETRY_AFTER_S, (first, second)


@pytest.mark.parametrize("jobs", [40, pytest.param(200, marks=pytest.mark.large)])
def test_each_job_ends_right_through_all_faults_at_once(chaos: Chaos, jobs: int) -> None:
    k8s, api = chaos.k8s, chaos.api
    cluster = k8s.cluster.processes()
    seed = int(os.environ.get("MLFLOW_EXEC_TEST_SEED") or random.randrange(10**6))
    print(f"MLFLOW_EXEC_TEST_SEED={seed}")
    api.choose, api.skew_s = by_chance(seed, 0.1), _SKEW_S
    roles = list(itertools.islice(itertools.cycle(ROLES), jobs))
    chaos.start(roles[: jobs // 2], "+10m")
    chaos.start(roles[jobs // 2 :], "-10m")

    until(lambda: len(chaos.told("submitted")) >= jobs // 3, "a third is submitted", 300)
    cluster.restart("kube-apiserver")
    until(lambda: len(chaos.told("submitted")) == jobs, "all are submitted", 600)
    told = {line["submitted"]: line["role"] for line in chaos.told("submitted")}
    # From here on the clients hear nothing; what happens meanwhile the server forgets.
    until(api.black_hole, "there are watches to be dropped")
    dropped_s = time.monotonic()
    delete_those_that_run(chaos)
    cluster.compact()
    cluster.restart("kube-apiserver")
    until(lambda: len(chaos.told("over")) == len(chaos.clients), "all have ended", 300 + 5 * jobs)

    assert len(chaos.told("ended")) == jobs
    clocks = [line["clock"] - time.time() for line in chaos.told("over")]
    assert sorted(round(clock / _SKEW_S) for clock in clocks) == [-1, 1]
    each_has_ended_right(k8s, told)
    nothing_is_left(k8s, told)
    requests_were_few(api, jobs)
    watches_s = [asked.at_s - dropped_s for asked in api.asked if asked.is_watch]
    assert min(at_s for at_s in watches_s if at_s > 0) < NOTICED_S

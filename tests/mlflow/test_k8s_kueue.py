"""Jobs in a queue of a real Kueue, which starts them, holds them and takes their place away."""

from __future__ import annotations

import json
import uuid
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from mlflow_exec.runs.progress import Progress
from mlflow_exec.runs.reconcile import Reconciler
from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import Collected, until
from tests.clusters.kueue.manager import API, Kueue
from tests.mlflow.k8s_runs import WAIT, K8sRuns
from tests.mlflow.test_k8s_handles import (
    colleague,
    entries,
    mlflow_exec_command,
    write_kubeconfig,
)

ONE_PLACE = {"cpu": 0.1}
URGENT = "mlflow-exec-test-urgent"
FULL = "insufficient unused quota for cpu"

WAITS_AT_ITS_FIRST_START = """
import json, os, signal, sys, urllib.request
url = "{MLFLOW_TRACKING_URI}/api/2.0/mlflow/runs/get?run_id={MLFLOW_RUN_ID}".format(**os.environ)
tags = json.load(urllib.request.urlopen(url))["run"]["data"]["tags"]
attempt = next(tag["value"] for tag in tags if tag["key"] == "mlflow_exec.attempt")
print("start", attempt, flush=True)
if attempt == "1":
    signal.pause()
sys.exit(EXIT_CODE)
"""


class Told(Progress):
    """Keeps what somebody who follows a job is told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def changed(self, text: str) -> None:
        self.lines.append(text)

    @property
    def states(self) -> list[str]:
        """The job's states, one after the other."""
        states = [line.split(":")[0] for line in self.lines]
        return [s for s, before in zip(states, ["", *states], strict=False) if s != before]


@pytest.fixture
def queue(k8s: K8sRuns, kueue: Kueue) -> str:
    """A queue with one place; an urgent job takes it away from another one."""
    name = f"one-place-{uuid.uuid4().hex[:8]}"
    flavor = {"name": "any", "resources": [{"name": "cpu", "nominalQuota": "100m"}]}
    kueue.apply(
        {"apiVersion": API, "kind": "ResourceFlavor", "metadata": {"name": "any"}},
        {"apiVersion": API, "kind": "ClusterQueue", "metadata": {"name": name}, "spec": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": k8s.namespace}},
            "resourceGroups": [{"coveredResources": ["cpu"], "flavors": [flavor]}],
            "preemption": {"withinClusterQueue": "LowerPriority"},
        }},
        {"apiVersion": API, "kind": "LocalQueue",
         "metadata": {"name": name, "namespace": k8s.namespace}, "spec": {"clusterQueue": name}},
        {"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass",
         "metadata": {"name": URGENT}, "value": 1000},
    )  # fmt: skip
    return name


def workloads(kueue: Kueue, submitted: ExecSubmittedRun) -> list[dict[str, Any]]:
    """Return what Kueue keeps of a job: one object, or none."""
    return [
        item
        for item in kueue.items("Workload", submitted.handle.path[0])
        if item["metadata"]["labels"]["kueue.x-k8s.io/job-uid"] == submitted.handle.uid
    ]


def test_a_job_in_a_queue_with_room(k8s: K8sRuns, kueue: Kueue, queue: str) -> None:
    submitted = k8s.run(k8s.project("print('it ran')"), queue=queue, resources=ONE_PLACE)
    k8s.ends(submitted, "SUCCEEDED")
    assert "it ran" in k8s.log(submitted.run_id)
    with k8s.cluster.api_client() as api:
        of_it = f"involvedObject.uid={submitted.handle.uid}"
        events = client.CoreV1Api(api).list_namespaced_event(k8s.namespace, field_selector=of_it)
    said = {(event.reason, event.message) for event in events.items}
    assert ("Started", f"Admitted by clusterQueue {queue}") in said
    assert "Stopped" not in {reason for reason, _ in said}, "nobody else had started it"
    [workload] = workloads(kueue, submitted)
    ended = {c["type"] for c in workload["status"]["conditions"] if c["status"] == "True"}
    assert "Finished" in ended, "its place is free again"


def test_a_job_without_room_starts_when_there_is_some(k8s: K8sRuns, queue: str) -> None:
    first = k8s.run(k8s.project(WAIT), queue=queue, resources=ONE_PLACE)
    k8s.says(first, "it waits")
    second = k8s.run(k8s.project("print('it ran')"), queue=queue, resources=ONE_PLACE)
    until(lambda: FULL in second.status().message, "Kueue says why it holds the job")
    assert second.status().message.startswith(f"waits in queue {queue!r}: ")
    assert second.get_status() == "SCHEDULED"
    first.cancel()
    k8s.ends(second, "SUCCEEDED")


def test_a_held_job_ends_only_when_it_is_cancelled(k8s: K8sRuns, kueue: Kueue, queue: str) -> None:
    first = k8s.run(k8s.project(WAIT), queue=queue, resources=ONE_PLACE)
    k8s.says(first, "it waits")
    before = k8s.objects()
    held = k8s.run(k8s.project(""), queue=queue, resources=ONE_PLACE, queue_timeout_s=0.001)
    told = Told()
    followed = Collected(held.follow(progress=told) for _ in range(1))
    until(lambda: any(FULL in line for line in told.lines), "the reason, after seconds")
    held.cancel()
    k8s.ends(held, "CANCELLED")
    followed.all()
    assert told.states == ["QUEUED", "CANCELLED"], told.lines
    assert k8s.objects() == before
    until(lambda: not workloads(kueue, held), "Kueue keeps nothing of it")


def test_a_queue_that_does_not_exist(k8s: K8sRuns, kueue: Kueue, tmp_path: Path) -> None:
    submitted = k8s.run(k8s.project(""), queue="none-such")
    until(lambda: "none-such doesn't exist" in submitted.status().message, "Kueue's own words")
    assert submitted.status().state.value == "QUEUED"
    # Somebody who may not read Kueue's objects is told the rest.
    here, _ = entries(k8s.cluster.kubeconfig, k8s.cluster.context)
    user = {"token": colleague(k8s)[1]}
    theirs = write_kubeconfig(tmp_path / "theirs", "a", {"a": (here, user)})
    code, out, err = mlflow_exec_command(
        k8s, theirs, "status", submitted.run_id, "--output", "json"
    )
    assert code == 0, err
    seen = json.loads(out)
    assert (seen["state"], seen["message"]) == ("QUEUED", "waits in queue 'none-such'")


def run_says(k8s: K8sRuns, submitted: ExecSubmittedRun) -> tuple[str, str]:
    """Return the state and the status that everybody sees who only looks at the run."""
    run = k8s.mlflow.get_run(submitted.run_id)
    return run.data.tags["mlflow_exec.state"], run.info.status


@pytest.mark.parametrize(("exit_code", "state"), [(0, "SUCCEEDED"), (7, "FAILED")])
def test_a_preempted_job_waits_again_and_runs_to_its_end(
    k8s: K8sRuns, queue: str, exit_code: int, state: str
) -> None:
    program = WAITS_AT_ITS_FIRST_START.replace("EXIT_CODE", str(exit_code))
    preempted = k8s.run(
        k8s.project(program), queue=queue, resources=ONE_PLACE, retries=0, infra_retries=0
    )
    k8s.says(preempted, "start 1")
    assert run_says(k8s, preempted) == ("RUNNING", "RUNNING")
    told = Told()
    followed = Collected(preempted.follow(progress=told) for _ in range(1))
    until(lambda: told.states == ["RUNNING"], "somebody follows the job")
    urgent = k8s.run(k8s.project(WAIT), queue=queue, resources=ONE_PLACE, priority_class=URGENT)
    until(lambda: run_says(k8s, preempted) == ("QUEUED", "SCHEDULED"), "the run says it, too")
    k8s.says(urgent, "it waits")  # so the pod that had to go is gone
    urgent.cancel()
    followed.all()
    assert told.states[:3] == ["RUNNING", "QUEUED", "STARTING"], told.lines
    run = k8s.ends(preempted, state, "user_error" if exit_code else "")
    assert run.data.tags["mlflow_exec.attempt"] == "2"
    log = k8s.log(preempted.run_id)
    assert log.index("start 1") < log.index("start 2")


def test_the_run_of_a_preempted_job_that_nobody_follows_is_put_right(
    k8s: K8sRuns, queue: str
) -> None:
    preempted = k8s.run(k8s.project(WAIT), queue=queue, resources=ONE_PLACE)
    k8s.says(preempted, "it waits")
    urgent = k8s.run(k8s.project(WAIT), queue=queue, resources=ONE_PLACE, priority_class=URGENT)
    k8s.says(urgent, "it waits")
    assert run_says(k8s, preempted) == ("RUNNING", "RUNNING"), "its first step knew no better"
    list(Reconciler(k8s.mlflow, {"k8s": {}}, lost_grace_s=1).once())
    assert run_says(k8s, preempted) == ("QUEUED", "SCHEDULED")
    assert run_says(k8s, urgent) == ("RUNNING", "RUNNING")
    urgent.cancel()
    until(lambda: run_says(k8s, preempted) == ("RUNNING", "RUNNING"), "it says so itself again")
    preempted.cancel()

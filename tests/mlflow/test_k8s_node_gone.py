"""A node does not answer any more while jobs run on it, and later it is back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from threading import Event, Thread
from typing import Any

import pytest
from kubernetes import client
from kubernetes.client import ApiException
from urllib3.exceptions import HTTPError

from mlflow_exec.errors import CancelError
from mlflow_exec.runs.reconcile import Reconciler
from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import Collected, until
from tests.clusters.kubernetes.slots import NODE
from tests.clusters.pytest_kubernetes import KubernetesCluster
from tests.mlflow.interventions import WAITS_AT_ITS_FIRST_START, left_behind, pods
from tests.mlflow.k8s_runs import ENDS, K8sRuns

# Without them a pod stays five minutes on a node that does not answer.
FOR_A_SECOND = [
    {"key": f"node.kubernetes.io/{what}", "operator": "Exists", "effect": "NoExecute",
     "tolerationSeconds": 1}
    for what in ("unreachable", "not-ready")
]  # fmt: skip
# As the scheduler may know already that the node does not answer.
EVEN_SO = [
    {"key": toleration["key"], "operator": "Exists", "effect": "NoSchedule"}
    for toleration in FOR_A_SECOND
]
SOON = ("--node-monitor-period=1s", "--node-monitor-grace-period=4s")
CANCEL_S = 3.0


@contextmanager
def another_node(cluster: KubernetesCluster) -> Iterator[None]:
    """Have a node that answers: where none does, the cluster takes itself for the broken one."""
    name, over = "n2", Event()
    metadata = {"name": name, "namespace": "kube-node-lease"}
    spec = {"holderIdentity": name, "leaseDurationSeconds": 40}
    ready = {"type": "Ready", "status": "True", "reason": "KubeletReady"}
    with cluster.api_client() as api:
        core, leases = client.CoreV1Api(api), client.CoordinationV1Api(api)

        def now() -> str:
            return datetime.now(timezone.utc).isoformat(timespec="microseconds")

        def answer() -> None:
            while not over.wait(0.5):
                with suppress(ApiException, HTTPError):
                    leases.patch_namespaced_lease(
                        name, "kube-node-lease", {"spec": {"renewTime": now()}}, _request_timeout=5
                    )

        core.create_node(
            {"metadata": {"name": name}, "spec": {"unschedulable": True},
             "status": {"conditions": [ready]}}
        )  # fmt: skip
        leases.create_namespaced_lease(
            "kube-node-lease", {"metadata": metadata, "spec": {**spec, "renewTime": now()}}
        )
        thread = Thread(target=answer, daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            core.delete_node(name)
            leases.delete_namespaced_lease(name, "kube-node-lease")


@dataclass
class Gone:
    """A node that does not answer, and the jobs on it.

    Attributes:
        again: Starts again, as infra_retries allows.
        too_often: Must not.
        cancelled: Is cancelled by a test.
        late: Has a deadline.
        unstarted: Was given to the node when it did not answer any more.
    """

    cluster: KubernetesCluster
    again: ExecSubmittedRun
    too_often: ExecSubmittedRun
    cancelled: ExecSubmittedRun
    late: ExecSubmittedRun
    unstarted: ExecSubmittedRun = field(init=False)
    followers: list[Collected[bool]] = field(default_factory=list)
    is_back: bool = False

    def comes_back(self) -> None:
        """Let the node answer again."""
        if not self.is_back:
            self.is_back = True
            self.cluster.processes().launch("kubelet")
            self.cluster.restart("kube-controller-manager")


@pytest.fixture(scope="module")
def node(module_k8s: K8sRuns) -> Iterator[Gone]:
    k8s, ours = module_k8s, module_k8s.cluster.processes()
    settings: list[dict[str, Any]] = [
        {"infra_retries": 1}, {"infra_retries": 0}, {}, {"deadline_s": 60},
    ]  # fmt: skip
    jobs = [
        k8s.run(k8s.project(WAITS_AT_ITS_FIRST_START), tolerations=FOR_A_SECOND, ttl_s=0,
                cancel_timeout_s=CANCEL_S, **changes)
        for changes in settings
    ]  # fmt: skip
    gone = Gone(k8s.cluster, *jobs)
    for job in (gone.again, gone.too_often, gone.late):
        gone.followers.append(Collected(job.wait() for _ in range(1)))
    for job in jobs:
        k8s.says(job, "start 1")
        until(lambda job=job: job.get_status() == "RUNNING", "the node says so, too")  # type: ignore[misc]
    with another_node(k8s.cluster):
        ours.kill("kubelet")
        try:
            gone.unstarted = k8s.run(k8s.project("print('start')"), infra_retries=1, ttl_s=0,
                                     tolerations=[*FOR_A_SECOND, *EVEN_SO])  # fmt: skip
            gone.followers.append(Collected(gone.unstarted.wait() for _ in range(1)))
            until(lambda: gone.unstarted.status().state.value == "STARTING", "it got the node")
            ours.restart("kube-controller-manager", *SOON)
            yield gone
        finally:
            gone.comes_back()


def reported(job: ExecSubmittedRun) -> bool:
    """Whether a job's status tells that its node is gone."""
    why = job.status().failure
    return why is not None and why.category.value == "node_lost"


def test_a_job_on_a_node_that_does_not_answer_says_so_and_goes_on(
    module_k8s: K8sRuns, node: Gone
) -> None:
    k8s = module_k8s
    for job in (node.again, node.too_often):
        until(lambda job=job: reported(job), "the loss is told", 180)  # type: ignore[misc]
        status = job.status()
        assert (status.state.value, job.get_status()) == ("RUNNING", "RUNNING")
        assert "'n1' does not answer" in status.message
        assert status.failure is not None
        assert "cancel the job" in status.failure.hint

        def taken(job: ExecSubmittedRun = job) -> bool:
            return all(pod.metadata.deletion_timestamp for pod in pods(k8s, job))

        until(taken, "the cluster deletes the pod, which nobody carries out", 60)
        assert reported(job), "still"
        assert len(pods(k8s, job)) == 1, "nothing was deleted by force"


def test_cancelling_returns_in_time_and_says_what_is_left(module_k8s: K8sRuns, node: Gone) -> None:
    job = node.cancelled
    until(lambda: reported(job), "the loss is told", 180)
    before_s = time.monotonic()
    (pod,) = pods(module_k8s, job)
    with pytest.raises(CancelError, match=rf"{pod.metadata.name} on node n1.*kubectl"):
        job.cancel()
    assert time.monotonic() - before_s < CANCEL_S + 60, "it waits for no node"
    tags = module_k8s.server.tags(job.run_id)
    assert tags["mlflow_exec.state"] not in ENDS, "it may still run"


def test_a_job_that_the_node_did_not_start_says_so(module_k8s: K8sRuns, node: Gone) -> None:
    job = node.unstarted
    until(lambda: reported(job), "the loss is told", 180)
    status = job.status()
    assert (status.state.value, job.get_status()) == ("STARTING", "SCHEDULED")
    assert "'n1' does not answer" in status.message


def test_a_deadline_ends_the_run_all_the_same(module_k8s: K8sRuns, node: Gone) -> None:
    run = module_k8s.ends(node.late, "FAILED", "deadline")
    assert "'n1' does not answer" in run.data.tags["mlflow_exec.failure.message"]


def test_the_ends_are_right_when_the_node_is_back(module_k8s: K8sRuns, node: Gone) -> None:
    k8s = module_k8s
    node.comes_back()
    run = k8s.ends(node.again, "SUCCEEDED")
    assert run.data.tags["mlflow_exec.attempt"] == "2"
    log = k8s.log(node.again.run_id)
    assert [log.count(f"start {n}") for n in (1, 2)] == [1, 1]
    k8s.ends(node.unstarted, "SUCCEEDED")
    run = k8s.ends(node.too_often, "FAILED", "node_lost")
    assert "lost" in run.data.tags["mlflow_exec.failure.message"]
    assert "infra_retries" in run.data.tags["mlflow_exec.failure.hint"]
    for job in (node.again, node.too_often, node.cancelled, node.late, node.unstarted):
        until(lambda job=job: not left_behind(k8s, job), "nothing is left in the cluster")  # type: ignore[misc]

    outcomes = Reconciler(k8s.mlflow, {"k8s": {}}, lost_grace_s=1).once()
    assert {o.run_id: o.state for o in outcomes}[node.cancelled.run_id] == "CANCELLED"
    tags = k8s.server.tags(node.cancelled.run_id)
    assert tags["mlflow_exec.state"] == "CANCELLED"
    assert k8s.server.status(node.cancelled.run_id) == "KILLED"


def test_a_job_whose_node_is_deleted_starts_again_on_another(
    module_k8s: K8sRuns, node: Gone
) -> None:
    k8s, ours = module_k8s, module_k8s.cluster.processes()
    again, too_often = (
        k8s.run(k8s.project(WAITS_AT_ITS_FIRST_START), infra_retries=allowed, ttl_s=0)
        for allowed in (1, 0)
    )
    followers = [Collected(job.wait() for _ in range(1)) for job in (again, too_often)]
    for job in (again, too_often):
        k8s.says(job, "start 1")
    ours.kill("kubelet")
    try:
        with k8s.cluster.api_client() as api:
            client.CoreV1Api(api).delete_node(NODE)
        assert followers[1].all(180) == [False], "without waiting for a node"
        until(lambda: again.get_status() == "SCHEDULED", "the other one does")
    finally:
        ours.launch("kubelet")
    run = k8s.ends(too_often, "FAILED", "node_lost")
    assert "once, and infra_retries allows 0" in run.data.tags["mlflow_exec.failure.message"]
    assert followers[0].all(180) == [True]
    assert k8s.ends(again, "SUCCEEDED").data.tags["mlflow_exec.attempt"] == "2"

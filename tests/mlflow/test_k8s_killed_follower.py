"""Two clients follow a job, one is killed in the middle of writing its end: the end is right."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from kubernetes import client as kubernetes

from mlflow_exec.runs.attach import attach
from mlflow_exec.runs.reconcile import Reconciler
from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import Collected, until
from tests.mlflow.artifact_servers import s3_server
from tests.mlflow.k8s_runs import WAIT, K8sRuns
from tests.mlflow.killed_clients import Client, Clients, both, writes

FAILURE = "1 POST /api/2.0/mlflow/runs/log-batch"
STATUS = "1 POST /api/2.0/mlflow/runs/update"
AT_A_TIME = 3


@pytest.fixture
def clients(k8s: K8sRuns) -> Iterator[Clients]:
    """Clients of jobs that cannot keep their log by themselves."""
    with s3_server(str(k8s.cluster.node_ip)) as store:
        k8s.experiment_id = k8s.mlflow.create_experiment(
            f"in S3 {store.process.pid}", artifact_location=store.bucket
        )
        clients = Clients(k8s)
        yield clients
        clients.close()


def waiting_jobs(k8s: K8sRuns, number: int) -> list[ExecSubmittedRun]:
    project = k8s.project(WAIT)
    jobs = [k8s.run(project, ttl_s=3600) for _ in range(number)]
    for job in jobs:
        k8s.says(job, "it waits")
    return jobs


def deadline_comes(k8s: K8sRuns, jobs: list[ExecSubmittedRun]) -> None:
    """Let jobs be over in such a way that they write no end themselves, and their pods go."""
    with k8s.cluster.api_client() as api:
        for job in jobs:
            namespace, name = job.handle.path
            body = {"spec": {"activeDeadlineSeconds": 1}}
            kubernetes.BatchV1Api(api).patch_namespaced_job(name, namespace, body)


def follow_all(clients: list[Client]) -> None:
    """Wait until each of these clients reads its job's log."""
    reads = "/pods/POD/log"
    until(lambda: all(reads in "".join(c.calls()) for c in clients), "all follow their job")


def end_is_right(k8s: K8sRuns, run_id: str) -> None:
    run = k8s.ends(attach(run_id), "FAILED", "deadline")
    tags = run.data.tags
    assert tags["mlflow_exec.failure.message"].startswith("The job was still running at its")
    assert (tags["mlflow_exec.state.by"], tags["mlflow_exec.log.complete"]) == ("client", "true")
    log = k8s.log(run_id)
    assert (log.count("mlflow-exec-start"), log.count("it waits\n")) == (1, 1), log


def kill_one_of_two(clients: Clients, points: list[str]) -> None:
    """Kill a client at each point, while another one is about to write the same end."""
    k8s = clients.k8s
    jobs = waiting_jobs(k8s, len(points))
    run_ids = [job.run_id for job in jobs]
    dying = [clients.attach(r, point=p) for r, p in zip(run_ids, points, strict=True)]
    living = [clients.attach(run_id, hold_at=f"before {FAILURE}") for run_id in run_ids]
    follow_all([*dying, *living])
    deadline_comes(k8s, jobs)
    until(lambda: all(client.over for client in dying), "one client of each job is dead", 180)
    assert all(client.killed for client in dying)
    until(
        lambda: all(f"before {FAILURE}" in client.calls() or client.over for client in living),
        "the others have read that the run has no end, and are about to write it",
    )
    stop = threading.Event()
    passes = Collected(Reconciler(k8s.mlflow, {"k8s": {}}).forever(0.5, stop))
    for client in living:
        client.go_on()
    until(lambda: all(client.over for client in living), "the other clients have ended", 180)
    stop.set()
    assert not [o for o in passes.all() if o.run_id in run_ids and o.action == "unknown"]
    for run_id, client in zip(run_ids, living, strict=True):
        assert client.code == 1
        assert "FAILED: deadline" in client.said()
        end_is_right(k8s, run_id)


def test_a_client_that_dies_while_it_writes_an_end_damages_none(clients: Clients) -> None:
    kill_one_of_two(clients, [f"before {FAILURE}", f"after {FAILURE}", f"after {STATUS}"])


@pytest.mark.large
def test_a_client_may_die_before_and_after_all_that_an_end_consists_of(clients: Clients) -> None:
    jobs = waiting_jobs(clients.k8s, 1)
    alone = clients.attach(jobs[0].run_id)
    follow_all([alone])
    deadline_comes(clients.k8s, jobs)
    assert "FAILED: deadline" in alone.said()
    points = both([call for call in alone.calls() if writes(call)])
    for start in range(0, len(points), AT_A_TIME):
        kill_one_of_two(clients, points[start : start + AT_A_TIME])


def test_a_log_that_nobody_has_read_in_time_is_not_said_to_be_whole(clients: Clients) -> None:
    k8s = clients.k8s
    (job,) = waiting_jobs(k8s, 1)
    deadline_comes(k8s, [job])
    until(lambda: not any("Pod" in o and job.run_id in o for o in k8s.objects()), "its pod is gone")
    run = k8s.ends(job, "FAILED", "deadline")
    assert run.data.tags["mlflow_exec.log.complete"] == "false"

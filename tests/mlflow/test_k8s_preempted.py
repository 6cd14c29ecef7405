"""A pod has to give way to one of a higher priority, which needs what only that one has."""

from __future__ import annotations

from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import Collected, until
from tests.mlflow.interventions import WAITS_AT_ITS_FIRST_START, given_way, left_behind, pods
from tests.mlflow.k8s_runs import K8sRuns


def submit(k8s: K8sRuns, gpu_resource: str, infra_retries: int) -> ExecSubmittedRun:
    job = k8s.run(k8s.project(WAITS_AT_ITS_FIRST_START), gpu_resource=gpu_resource,
                  resources={"gpu": 1}, infra_retries=infra_retries, ttl_s=0)  # fmt: skip
    k8s.says(job, "start 1")
    return job


def waits_for(job: ExecSubmittedRun, resource: str) -> bool:
    return job.get_status() == "SCHEDULED" and resource in job.status().message


def test_it_waits_for_its_place_and_starts_again(k8s: K8sRuns, gpu_resource: str) -> None:
    job = submit(k8s, gpu_resource, infra_retries=1)
    end = Collected(job.wait() for _ in range(1))
    with given_way(k8s, job):
        until(lambda: waits_for(job, gpu_resource), "it waits")
    assert end.all(180) == [True]
    run = k8s.ends(job, "SUCCEEDED")
    assert run.data.tags["mlflow_exec.attempt"] == "2"


def test_it_ends_where_it_may_not_start_again_though_it_gets_no_place(
    k8s: K8sRuns, gpu_resource: str
) -> None:
    job = submit(k8s, gpu_resource, infra_retries=0)
    end = Collected(job.wait() for _ in range(1))
    with given_way(k8s, job):
        assert end.all(180) == [False]
        run = k8s.ends(job, "FAILED", "preempted")
        message = run.data.tags["mlflow_exec.failure.message"]
        assert message.startswith("The pod had to give way to one of a higher priority"), message
        assert "once, and infra_retries allows 0" in message
        assert "start 1" in k8s.log(job.run_id)
        until(lambda: not left_behind(k8s, job), "nothing of it is left in the cluster")


def test_it_ends_alike_where_nobody_follows_it(k8s: K8sRuns, gpu_resource: str) -> None:
    job = submit(k8s, gpu_resource, infra_retries=0)
    with given_way(k8s, job):
        until(lambda: job.status().hopeless, "its next pod gets no place")
        until(lambda: len(pods(k8s, job)) == 1, "the preempted pod is gone with its record")
        k8s.command_line("mlflow-exec", "reconcile", "--namespace", k8s.namespace).wait(120)
        run = k8s.ends(job, "FAILED", "infrastructure")
        assert "once, and infra_retries allows 0" in run.data.tags["mlflow_exec.failure.message"]
        until(lambda: not left_behind(k8s, job), "nothing of it is left in the cluster")

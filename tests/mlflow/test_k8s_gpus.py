"""Jobs that ask for GPUs, on a node that has one: a resource that is only counted."""

from __future__ import annotations

from kubernetes import client

from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import until
from tests.mlflow.k8s_runs import WAIT, K8sRuns


def submit(k8s: K8sRuns, program: str, resource: str) -> ExecSubmittedRun:
    return k8s.run(k8s.project(program), gpu_resource=resource, resources={"gpu": 1})


def test_a_gpu_is_for_one_job_at_a_time(k8s: K8sRuns, gpu_resource: str) -> None:
    first = submit(k8s, WAIT, gpu_resource)
    k8s.says(first, "it waits")
    with k8s.cluster.api_client() as api:
        chosen = f"mlflow-exec/run-id={first.run_id}"
        pods = client.CoreV1Api(api).list_namespaced_pod(k8s.namespace, label_selector=chosen)
    resources = pods.items[0].spec.containers[0].resources
    assert resources.limits == resources.requests == {gpu_resource: "1"}

    second = submit(k8s, "print('its turn')", gpu_resource)
    until(lambda: gpu_resource in second.status().message, "the job says what it waits for")
    assert second.status().state.value == "QUEUED"
    assert first.status().state.value == "RUNNING"

    first.cancel()
    run = k8s.ends(second, "SUCCEEDED")
    assert "its turn" in k8s.log(run.info.run_id)

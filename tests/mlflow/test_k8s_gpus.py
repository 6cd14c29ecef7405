"""Jobs that ask for GPUs, on a node that has one: a resource that is only counted."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from kubernetes import client

from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import until
from tests.clusters.kubernetes.slots import NODE
from tests.mlflow.k8s_runs import WAIT, K8sRuns


def offer(core: client.CoreV1Api, resource: str, count: str | None) -> None:
    """Let the node have so many of a resource, as a device plugin would say; None for no longer."""
    has = {"capacity": {resource: count}, "allocatable": {resource: count}}
    core.patch_node_status(NODE, {"status": has})
    until(
        lambda: core.read_node_status(NODE).status.allocatable.get(resource) == count,
        f"the node has {count} {resource}",
    )


@pytest.fixture
def gpu_resource(k8s: K8sRuns) -> Iterator[str]:
    """The name of a resource of which the node has one."""
    k8s.cluster.processes()  # a user's own nodes are left as they are
    name = f"mlflow-exec.test/gpu-{os.getpid()}"
    with k8s.cluster.api_client() as api:
        core = client.CoreV1Api(api)
        offer(core, name, "1")
        yield name
        offer(core, name, None)


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

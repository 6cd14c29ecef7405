"""What operators, controllers and accidents do to jobs and to what they need."""

from __future__ import annotations

import base64
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kubernetes import client

from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import until
from tests.clusters.kubernetes.slots import NODE
from tests.mlflow.k8s_runs import K8sRuns

HELD = {"spec": {"template": {"spec": {"schedulingGates": [{"name": "mlflow-exec-test/held"}]}}}}
"""A patch: the job's pod is there and no node takes it, until `release`."""

SAYS_ITS_START = """
import json, os, signal, sys, urllib.request
url = "{MLFLOW_TRACKING_URI}/api/2.0/mlflow/runs/get?run_id={MLFLOW_RUN_ID}".format(**os.environ)


def tag(name):
    tags = json.load(urllib.request.urlopen(url, timeout=30))["run"]["data"].get("tags", [])
    return {tag["key"]: tag["value"] for tag in tags}.get(name)


attempt = tag("mlflow_exec.attempt")
print("start", attempt, flush=True)
"""
"""The head of a program that knows the how many-th start it is of."""

WAITS_AT_ITS_FIRST_START = SAYS_ITS_START + """
if attempt == "1":
    signal.pause()
"""


def pods(k8s: K8sRuns, submitted: ExecSubmittedRun) -> list[Any]:
    """Return the pods of a job that are there, the oldest first."""
    namespace, name = submitted.handle.path
    with k8s.cluster.api_client() as api:
        found = client.CoreV1Api(api).list_namespaced_pod(
            namespace, label_selector=f"batch.kubernetes.io/job-name={name}"
        )
    return sorted(found.items, key=lambda pod: pod.metadata.creation_timestamp)


def pod(k8s: K8sRuns, submitted: ExecSubmittedRun) -> Any:
    """Wait for a job's pod and return the newest one."""
    return until(lambda: pods(k8s, submitted), "the job has a pod")[-1]


def evict(k8s: K8sRuns, submitted: ExecSubmittedRun) -> None:
    """Evict the newest pod as ``kubectl drain`` does."""
    metadata = pod(k8s, submitted).metadata
    body = client.V1Eviction(
        metadata=client.V1ObjectMeta(name=metadata.name, namespace=metadata.namespace)
    )
    with k8s.cluster.api_client() as api:
        core = client.CoreV1Api(api)
        core.create_namespaced_pod_eviction(metadata.name, metadata.namespace, body)


def offer(core: client.CoreV1Api, resource: str, count: str | None) -> None:
    """Let the node have so many of a resource, as a device plugin would say; None for no longer."""
    has = {"capacity": {resource: count}, "allocatable": {resource: count}}
    core.patch_node_status(NODE, {"status": has})
    until(
        lambda: core.read_node_status(NODE).status.allocatable.get(resource) == count,
        f"the node has {count} {resource}",
    )


def _admitted(core: client.CoreV1Api, namespace: str, name: str, spec: dict[str, Any]) -> bool:
    """Create a pod; False where its priority class is so new that admission does not know it."""
    try:
        core.create_namespaced_pod(namespace, {"metadata": {"name": name}, "spec": spec})
    except client.ApiException as error:
        if "no PriorityClass with name" not in str(error.body):
            raise
        return False
    return True


@contextmanager
def given_way(k8s: K8sRuns, submitted: ExecSubmittedRun) -> Iterator[None]:
    """Have the scheduler preempt the newest pod, for one that needs what only that pod has."""
    job = pod(k8s, submitted)
    space, name = job.metadata.namespace, f"more-important-{submitted.run_id[:12]}"
    priority = {"metadata": {"name": name}, "value": 1000}
    container = {"name": "c", "image": k8s.cluster.image, "command": ["sleep", "600"],
                 "resources": job.spec.containers[0].resources}  # fmt: skip
    spec = {"priorityClassName": name, "containers": [container], "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 0}  # fmt: skip
    with k8s.cluster.api_client() as api:
        core, scheduling = client.CoreV1Api(api), client.SchedulingV1Api(api)
        scheduling.create_priority_class(priority)
        until(lambda: _admitted(core, space, name, spec), "admission knows of the priority class")
        try:
            yield
        finally:
            core.delete_namespaced_pod(name, space)
            scheduling.delete_priority_class(name)


def delete_pod(k8s: K8sRuns, submitted: ExecSubmittedRun) -> None:
    """Delete the newest pod as ``kubectl delete pod`` does."""
    metadata = pod(k8s, submitted).metadata
    with k8s.cluster.api_client() as api:
        client.CoreV1Api(api).delete_namespaced_pod(metadata.name, metadata.namespace)


def start_deleting(k8s: K8sRuns, submitted: ExecSubmittedRun) -> None:
    """Delete the Job as ``kubectl delete job`` does, and wait for nothing."""
    namespace, name = submitted.handle.path
    with k8s.cluster.api_client() as api:
        client.BatchV1Api(api).delete_namespaced_job(
            name, namespace, propagation_policy="Background"
        )


def release(k8s: K8sRuns, submitted: ExecSubmittedRun) -> None:
    """Let a node take the pod of a job that was submitted with `HELD`."""
    metadata = pod(k8s, submitted).metadata
    with k8s.cluster.api_client() as api:
        client.CoreV1Api(api).patch_namespaced_pod(
            metadata.name, metadata.namespace, [{"op": "remove", "path": "/spec/schedulingGates"}]
        )


def another_program() -> bytes:
    """Return a packed project that nobody submitted."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("main.py", "print('it ran')")
    return packed.getvalue()


def exchange_artifact(k8s: K8sRuns, submitted: ExecSubmittedRun) -> None:
    """Put another project in the place of the one that was uploaded."""
    run = k8s.mlflow.get_run(submitted.run_id)
    folder = k8s.server.dir / "artifacts" / run.info.experiment_id / submitted.run_id
    (bundle,) = folder.glob("artifacts/mlflow-exec/source-*.zip")
    bundle.write_bytes(another_program())


def exchange_configmap(k8s: K8sRuns, submitted: ExecSubmittedRun) -> None:
    """Put another ConfigMap in the place of the job's, which nobody can change: another project."""
    namespace, name = submitted.handle.path
    with k8s.cluster.api_client() as api:
        core = client.CoreV1Api(api)
        found = core.read_namespaced_config_map(name, namespace)
        core.delete_namespaced_config_map(name, namespace)
        packed = {"source.zip": base64.b64encode(another_program()).decode()}
        found.binary_data, found.metadata.resource_version = {**found.binary_data, **packed}, None
        core.create_namespaced_config_map(namespace, found)


def ended_in_cluster(k8s: K8sRuns, submitted: ExecSubmittedRun) -> bool:
    """Whether the Job itself says that it is over."""
    namespace, name = submitted.handle.path
    with k8s.cluster.api_client() as api:
        job = client.BatchV1Api(api).read_namespaced_job(name, namespace)
    return any(c.type in ("Complete", "Failed") for c in job.status.conditions or [])


def left_behind(k8s: K8sRuns, submitted: ExecSubmittedRun) -> set[str]:
    """Return what the cluster still has of a job."""
    return {name for name in k8s.objects(submitted.handle.path[0]) if submitted.run_id in name}

"""Real Jobs and pods of a real API server that nobody runs.

``managedBy`` keeps the Job controller away and ``schedulerName`` the scheduler; what happens to
them is written by us, so that nothing but the way of the news is measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import Any

from mlflow_exec.clients.kubernetes import KubernetesClient, object_path
from mlflow_exec.jobs import JobHandle, job_name

MERGE_PATCH = "application/merge-patch+json"
MANAGED_BY = "example.com/benchmark"
_CONTAINER = {"name": "job", "image": "none", "command": ["none"]}


@contextmanager
def namespace(client: KubernetesClient, name: str) -> Iterator[str]:
    """Make a namespace and delete it with all that is in it."""
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    client.request("POST", "/api/v1/namespaces", body=body)
    accounts = object_path("serviceaccounts", name)
    while not client.request("GET", accounts)["items"]:  # no pod can be made before
        time.sleep(0.1)
    try:
        yield name
    finally:
        client.request("DELETE", f"/api/v1/namespaces/{name}")


def job(run_id: str, namespace: str) -> dict[str, Any]:
    """Return a Job as ours are labelled and named."""
    labels = {"app.kubernetes.io/managed-by": "mlflow-exec", "mlflow-exec/run-id": run_id}
    pod = {"restartPolicy": "Never", "containers": [_CONTAINER]}
    metadata = {"name": job_name(run_id, 1), "namespace": namespace, "labels": labels}
    spec = {"managedBy": MANAGED_BY, "template": {"spec": pod}}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


def make_job(client: KubernetesClient, run_id: str, namespace: str) -> JobHandle:
    """Create a Job and return its address."""
    path = object_path("jobs", namespace, group="batch/v1")
    made = client.request("POST", path, body=job(run_id, namespace))["metadata"]
    return JobHandle("k8s", client.identity(), (namespace, made["name"]), made["uid"])


def make_pod(client: KubernetesClient, run_id: str, handle: JobHandle) -> None:
    """Create the pod of a Job, and say that its container runs."""
    space, name = handle.path[0], f"{handle.name}-pod"
    labels = {
        "app.kubernetes.io/managed-by": "mlflow-exec",
        "mlflow-exec/run-id": run_id,
        "batch.kubernetes.io/job-name": handle.name,
        "batch.kubernetes.io/controller-uid": handle.uid,
    }
    spec = {"restartPolicy": "Never", "schedulerName": "nobody", "containers": [_CONTAINER]}
    # Without an owner the Job controller looks through all Jobs for one, at each change of a pod.
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": handle.name, "uid": handle.uid,
             "controller": True}  # fmt: skip
    metadata = {
        "name": name, "namespace": space, "labels": labels, "ownerReferences": [owner]
    }  # fmt: skip
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    client.request("POST", object_path("pods", space), body=body)
    set_container(client, handle, "Running", {"running": {"startedAt": now()}})


def set_container(
    client: KubernetesClient, handle: JobHandle, phase: str, state: dict[str, Any]
) -> None:
    """Write the state of the only container of a Job's pod."""
    container = {
        "name": "job", "image": "none", "imageID": "none", "ready": False, "restartCount": 0,
        "state": state,
    }  # fmt: skip
    body = {"status": {"phase": phase, "containerStatuses": [container]}}
    path = object_path("pods", handle.path[0], f"{handle.name}-pod", sub="status")
    client.request("PATCH", path, body=body, content_type=MERGE_PATCH)


def complete(client: KubernetesClient, handle: JobHandle) -> float:
    """Write that a Job succeeded and return when that was there."""
    return _finish(client, handle, "SuccessCriteriaMet", "Complete", "CompletionsReached",
                   {"succeeded": 1, "completionTime": now()})  # fmt: skip


def fail(client: KubernetesClient, handle: JobHandle) -> float:
    """Write that a Job failed and return when that was there."""
    return _finish(client, handle, "FailureTarget", "Failed", "BackoffLimitExceeded", {"failed": 1})


def _finish(client: KubernetesClient, handle: JobHandle, first: str, last: str, reason: str,
            more: dict[str, Any]) -> float:  # fmt: skip
    conditions = [
        {"type": kind, "status": "True", "reason": reason, "lastTransitionTime": now()}
        for kind in (first, last)
    ]
    path = object_path("jobs", handle.path[0], handle.name, group="batch/v1", sub="status")
    body = {"status": {"conditions": conditions, "startTime": now(), **more}}
    client.request("PATCH", path, body=body, content_type=MERGE_PATCH)
    return time.monotonic()


def now() -> str:
    """Return the time as Kubernetes writes it."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

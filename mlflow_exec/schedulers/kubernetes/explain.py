"""Asks the cluster why a job waits or failed; what it does not tell is no error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mlflow_exec.clients.kubernetes import KubernetesClient, object_path
from mlflow_exec.errors import ClusterError
from mlflow_exec.schedulers.kubernetes.status import queue_of

_JOB_UID = "kueue.x-k8s.io/job-uid"


def job_events(client: KubernetesClient, namespace: str, uids: Sequence[str]) -> list[Any]:
    """Return the events of the objects with these uids; none where they may not be read."""
    found: list[Any] = []
    path = object_path("events", namespace)
    for uid in uids:
        query = {"fieldSelector": f"involvedObject.uid={uid}", "limit": 100}
        try:
            found += client.request("GET", path, query=query).get("items") or []
        except ClusterError:  # events explain, they decide nothing
            return found
    return found


def warnings(client: KubernetesClient, namespace: str, *kinds: str) -> dict[str, list[Any]]:
    """Return the warnings about objects of some kinds in a namespace, by the object's uid.

    One request for all of a kind.
    """
    found: dict[str, list[Any]] = {}
    path = object_path("events", namespace)
    for kind in kinds:
        query = {"fieldSelector": f"involvedObject.kind={kind},type=Warning", "limit": 1000}
        try:
            events = client.request("GET", path, query=query)["items"]
        except ClusterError:  # as with the events of one object
            return found
        for event in events:
            found.setdefault(event["involvedObject"].get("uid", ""), []).append(event)
    return found


def reasons_of_kueue(client: KubernetesClient, namespace: str, uid: str = "") -> dict[str, str]:
    """Return why Kueue holds the Jobs of a namespace, by their uids; only one Job's if given."""
    query = {"labelSelector": f"{_JOB_UID}={uid}" if uid else _JOB_UID}
    try:
        # Each release of Kueue serves some of its versions.
        version = client.request("GET", "/apis/kueue.x-k8s.io")["preferredVersion"]["groupVersion"]
        path = object_path("workloads", namespace, group=version)
        workloads = client.request("GET", path, query=query)["items"]
    except ClusterError:  # as with events
        return {}
    found = {}
    for workload in workloads:
        for condition in (workload.get("status") or {}).get("conditions") or []:
            if condition["type"] == "QuotaReserved" and condition["status"] == "False":
                message = str(condition.get("message") or "")
                found[workload["metadata"]["labels"][_JOB_UID]] = message
    return found


def why_held(client: KubernetesClient, job: dict[str, Any]) -> str:
    """Return why Kueue holds a Job; empty if it does not, or where that may not be read."""
    if not job["spec"].get("suspend") or not queue_of(job):
        return ""
    metadata = job["metadata"]
    found = reasons_of_kueue(client, metadata["namespace"], metadata["uid"])
    return found.get(metadata["uid"], "")

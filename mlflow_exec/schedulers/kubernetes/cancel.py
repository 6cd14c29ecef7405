"""Finds a handle's Job and pods, and removes them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from typing import Any

from mlflow_exec.clients import kubernetes as api
from mlflow_exec.clients.kubernetes_disruptions import true_conditions
from mlflow_exec.errors import CancelError, ConflictError, NotFoundError, UnreachableError
from mlflow_exec.jobs import JobHandle
from mlflow_exec.schedulers.kubernetes.objects import BATCH

_POLL_S = (0.1, 0.2, 0.5, 1.0)


def find_job(
    client: api.KubernetesClient, handle: JobHandle, *, patience_s: float = api.PATIENCE_S
) -> dict[str, Any] | None:
    """Return the handle's Job; None if there is none, or only a namesake.

    Raises:
        ClusterError: The cluster cannot be asked.
    """
    try:
        job = client.request("GET", _path(handle), patience_s=patience_s)
    except NotFoundError:
        return None
    return job if handle.uid in ("", job["metadata"]["uid"]) else None


def find_pods(
    client: api.KubernetesClient, handle: JobHandle, *, patience_s: float = api.PATIENCE_S
) -> list[dict[str, Any]]:
    """Return the pods of the handle's Job, not those of a namesake, the oldest first.

    Raises:
        ClusterError: The cluster cannot be asked.
    """
    namespace, name = handle.path
    owner = f"controller-uid={handle.uid}" if handle.uid else f"job-name={name}"
    query = {"labelSelector": f"batch.kubernetes.io/{owner}"}
    path = api.object_path("pods", namespace)
    items = client.request("GET", path, query=query, patience_s=patience_s)["items"]
    return sorted(items, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))


def delete_job(
    client: api.KubernetesClient,
    path: str,
    expected: Mapping[str, str],
    *,
    patience_s: float = api.PATIENCE_S,
) -> None:
    """Delete a Job and what belongs to it, if it is still as expected; gone already is fine.

    Args:
        client: The cluster.
        path: The Job.
        expected: Its ``uid``, and ``resourceVersion`` if a change forbids the deletion.
        patience_s: How long to try again where no answer comes.

    Raises:
        ConflictError: It is not as expected.
        ClusterError: The cluster refuses, or cannot be asked.
    """
    body = {"propagationPolicy": "Foreground", "preconditions": dict(expected)}
    try:
        client.request("DELETE", path, body=body, patience_s=patience_s)
    except NotFoundError:
        return


def cancel(client: api.KubernetesClient, handle: JobHandle, timeout_s: float) -> None:
    """Delete the Job unless it has ended, and wait until its pods are gone.

    Raises:
        CancelError: A pod may still run after ``timeout_s``, or nobody answers that long.
        ClusterError: The cluster refuses.
    """
    end_s = time.monotonic() + timeout_s
    deleted = False
    for round_ in itertools.count():
        left: list[str] | None = None
        trouble = ""
        left_s = max(0.0, end_s - time.monotonic())
        try:
            if not deleted and not _delete_unfinished(client, handle, left_s):
                return
            deleted = True
            pods = find_pods(client, handle, patience_s=left_s)
            left = [_place(pod) for pod in pods if _may_run(pod)]
            if not left and find_job(client, handle, patience_s=left_s) is None:
                return
        except UnreachableError as error:
            trouble = f"the cluster cannot be asked: {error}"
        if time.monotonic() > end_s:
            if left == []:
                return  # only the record is there, kept by somebody's finalizer
            if left:
                trouble = (
                    f"still running after {timeout_s:g} s: {', '.join(left)}; if the node is "
                    f"gone, delete it or the pod by force with kubectl"
                )
            raise CancelError(f"cancel: {handle}: {trouble}")
        time.sleep(_POLL_S[min(round_, len(_POLL_S) - 1)])


def _delete_unfinished(
    client: api.KubernetesClient, handle: JobHandle, patience_s: float
) -> bool:
    """Delete the Job unless it has ended, be it at this very moment; False if it had."""
    while (job := find_job(client, handle, patience_s=patience_s)) is not None:
        if {"Complete", "Failed"} & set(true_conditions(job)):
            return False
        metadata = job["metadata"]
        seen = {"uid": metadata["uid"], "resourceVersion": metadata["resourceVersion"]}
        try:
            delete_job(client, _path(handle), seen, patience_s=patience_s)
            break
        except ConflictError:
            continue  # it changed since it was read
    return True


def _path(handle: JobHandle) -> str:
    namespace, name = handle.path
    return api.object_path("jobs", namespace, name, group=BATCH)


def _place(pod: Mapping[str, Any]) -> str:
    return f"{pod['metadata']['name']} on node {pod['spec'].get('nodeName')}"


def _may_run(pod: Mapping[str, Any]) -> bool:
    return pod["status"].get("phase") not in ("Succeeded", "Failed")

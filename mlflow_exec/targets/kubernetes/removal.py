"""Removes a deployment, and returns when nothing of it is left."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_exec.clients.kubernetes import KubernetesClient, object_path
from mlflow_exec.clients.kubernetes_apply import RESOURCES, path_of
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConflictError,
    NotFoundError,
    UnreachableError,
)
from mlflow_exec.targets.kubernetes.kinds import KINDS
from mlflow_exec.targets.kubernetes.objects import APPS, find_head, listed, selector

_POLL_S = (0.1, 0.2, 0.5, 1.0)
# Gone with the head, when it is deleted in the foreground.
_FOLLOWING = {"ReplicaSet": ("replicasets", APPS), "Pod": ("pods", "")}


def remove(client: KubernetesClient, namespace: str, name: str, timeout_s: float) -> None:
    """Remove a deployment with all its objects; none being there is fine.

    Raises:
        ClusterError: Something is left after ``timeout_s``; the message names it.
    """
    end_s = time.monotonic() + timeout_s
    for round_ in itertools.count():
        left: list[str] = []
        try:
            _delete_head(client, namespace, name)
            for kind, resource, group, item in _objects(client, namespace, name):
                metadata = item["metadata"]
                left.append(f"{kind} {metadata['name']}")
                gone_by_itself = kind in _FOLLOWING or kind in KINDS
                if not gone_by_itself and not metadata.get("deletionTimestamp"):
                    _delete(client, object_path(resource, namespace, metadata["name"], group=group))
            if not left:
                return
        except UnreachableError as error:
            left = [f"the cluster cannot be asked: {error}"]
        if time.monotonic() > end_s:
            raise ClusterError(
                f"delete: {name}: left in namespace {namespace!r} after {timeout_s:g} s: "
                f"{', '.join(left)}; if a node is gone, delete its pods by force with kubectl"
            )
        time.sleep(_POLL_S[min(round_, len(_POLL_S) - 1)])


def _delete_head(client: KubernetesClient, namespace: str, name: str) -> None:
    found = find_head(client, namespace, name)
    if found is None or found["metadata"].get("deletionTimestamp"):
        return
    _delete(client, path_of(found), {"uid": found["metadata"]["uid"]})


def _delete(
    client: KubernetesClient, path: str, expected: Mapping[str, str] | None = None
) -> None:
    body: dict[str, Any] = {"propagationPolicy": "Foreground"}
    if expected:
        body["preconditions"] = dict(expected)
    try:
        client.request("DELETE", path, body=body)
    except (NotFoundError, ConflictError):
        return  # gone, or another one by now: the next round looks


def _objects(
    client: KubernetesClient, namespace: str, name: str
) -> Iterator[tuple[str, str, str, dict[str, Any]]]:
    """Yield every object of a deployment: kind, resource, group, object."""
    for kind, (resource, group) in {**RESOURCES, **_FOLLOWING}.items():
        try:
            for item in listed(client, resource, namespace, selector(name), group=group):
                yield kind, resource, group, item
        except (AccessDeniedError, NotFoundError):
            continue  # what one may not list, or the cluster has not, was not made from here

"""Server-side apply: objects as they are to be, and who else has a say in them.

https://kubernetes.io/docs/reference/using-api/server-side-apply/
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_exec.clients.kubernetes import KubernetesClient, object_path
from mlflow_exec.errors import ConflictError

Json = Mapping[str, Any]

FIELD_MANAGER = "mlflow-exec"
_APPLY = "application/apply-patch+yaml"  # JSON is YAML
_MERGE = "application/merge-patch+json"

RESOURCES = {
    "Deployment": ("deployments", "apps/v1"),
    "InferenceService": ("inferenceservices", "serving.kserve.io/v1beta1"),
    "Service": ("services", ""),
    "PodDisruptionBudget": ("poddisruptionbudgets", "policy/v1"),
    "HorizontalPodAutoscaler": ("horizontalpodautoscalers", "autoscaling/v2"),
    "Ingress": ("ingresses", "networking.k8s.io/v1"),
    "HTTPRoute": ("httproutes", "gateway.networking.k8s.io/v1"),
    "ConfigMap": ("configmaps", ""),
    "Secret": ("secrets", ""),
}
"""The kinds of objects that can be applied: resource and group."""


def collection_of(kind: str, namespace: str) -> str:
    """Return the path of all objects of a kind in a namespace."""
    resource, group = RESOURCES[kind]
    return object_path(resource, namespace, group=group)


def path_of(item: Json, *, sub: str = "") -> str:
    """Return the path of an object, or of something below it."""
    resource, group = RESOURCES[item["kind"]]
    metadata = item["metadata"]
    return object_path(resource, metadata["namespace"], metadata["name"], group=group, sub=sub)


def apply(client: KubernetesClient, item: Json, *, dry: bool = False) -> dict[str, Any]:
    """Make an object as it is to be, and return it as it is then.

    Fields that somebody else has set otherwise stay as they are.

    Args:
        client: The cluster.
        item: The object, with all that we want of it.
        dry: Only let the cluster say what it would do.

    Raises:
        ConflictError: Somebody else has set one of the fields; the message names both.
        ClusterError: The cluster refuses it.
    """
    query = {"fieldManager": FIELD_MANAGER, "fieldValidation": "Strict"}
    if dry:
        query["dryRun"] = "All"
    try:
        return client.request(
            "PATCH", path_of(item), body=dict(item), query=query, content_type=_APPLY
        )
    except ConflictError as error:
        raise ConflictError(
            f"{item['kind']} {item['metadata']['name']!r}: somebody else has set what is to be "
            f"set, and it stays as it is: {error}; take that change back there, or delete the "
            f"deployment and create it anew",
            status=error.status,
            reason=error.reason,
        ) from error


def managers_of(item: Json, *path: str) -> set[tuple[str, str]]:
    """Return who has set a field of an object: manager and operation, of each."""
    keys = [f"f:{part}" for part in path]
    found = set()
    for entry in item["metadata"].get("managedFields") or ():
        fields: Any = entry.get("fieldsV1") or {}
        for key in keys:
            fields = fields.get(key) if isinstance(fields, dict) else None
        if fields is not None:
            found.add((str(entry.get("manager")), str(entry.get("operation"))))
    return found


def applied_at(item: Json) -> str:
    """Return when we have last changed an object, by the cluster's clock; empty if it is not told.

    As times in Kubernetes' objects are written: of two, the later text is the later time.
    """
    times = [
        str(entry.get("time") or "")
        for entry in item["metadata"].get("managedFields") or ()
        if (entry.get("manager"), entry.get("operation")) == (FIELD_MANAGER, "Apply")
    ]
    return max(times, default="")


def scale(client: KubernetesClient, deployment: Json, replicas: int) -> None:
    """Set the number of replicas, whoever has set it before.

    Raises:
        ClusterError: The cluster refuses it.
    """
    client.request(
        "PATCH",
        path_of(deployment, sub="scale"),
        body={"spec": {"replicas": replicas}},
        query={"fieldManager": FIELD_MANAGER},
        content_type=_MERGE,
    )

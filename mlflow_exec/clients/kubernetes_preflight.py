"""What is asked of a cluster before a pod is made there; nothing is created."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any

from mlflow_exec.clients.kubernetes import KubernetesClient, object_path
from mlflow_exec.clients.kubernetes_watch import list_pages
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConfigError,
    NotFoundError,
    RejectedError,
)
from mlflow_exec.settings import parse_quantity

Json = Mapping[str, Any]

DRY = {"dryRun": "All", "fieldValidation": "Strict"}
"""The query of a request that changes nothing and is looked at closely."""


def dry_run(client: KubernetesClient, path: str, body: Json) -> None:
    """Let the cluster say whether it would create an object.

    Raises:
        ClusterError: It would not, and why.
    """
    try:
        client.request("POST", path, body=body, query=DRY)
    except (RejectedError, NotFoundError, AccessDeniedError) as error:
        raise type(error)(
            f"preflight: the cluster refuses the {body['kind']}: {error}",
            status=error.status,
            reason=error.reason,
        ) from error


def check_references(
    client: KubernetesClient, namespace: str, pod: Json, own: set[str]
) -> Iterator[str]:
    """Look whether what a pod refers to is there.

    Args:
        client: The cluster.
        namespace: Of the pod.
        pod: Its specification.
        own: Names of what is going to be created with it.

    Yields:
        Warnings.

    Raises:
        ConfigError: Something that it cannot start without does not exist.
    """
    for resource, name, keys in _references(pod):
        if name in own:
            continue
        found = find(client, object_path(resource, namespace, name))
        if found is None:
            raise ConfigError(
                f"preflight: {_WORDS[resource]} {name!r} does not exist in namespace {namespace!r}"
            )
        lacking = keys - set(found.get("data") or ()) if "data" in found or keys else set()
        if found and lacking:
            known = ", ".join(sorted(found.get("data") or ())) or "none"
            raise ConfigError(
                f"preflight: {_WORDS[resource]} {name!r} has no key {min(lacking)!r}; its keys: "
                f"{known}"
            )
    for secret in pod.get("imagePullSecrets") or []:
        if find(client, object_path("secrets", namespace, secret["name"])) is None:
            yield f"image_pull_secrets: there is no Secret {secret['name']!r} in {namespace!r}"


_WORDS = {
    "serviceaccounts": "the service account",
    "secrets": "the Secret",
    "configmaps": "the ConfigMap",
    "persistentvolumeclaims": "the PersistentVolumeClaim",
}


def _references(pod: Json) -> Iterator[tuple[str, str, set[str]]]:
    """Yield what a pod cannot start without: resource, name, keys."""
    if pod.get("serviceAccountName"):
        yield "serviceaccounts", pod["serviceAccountName"], set()
    for container in [*(pod.get("initContainers") or ()), *pod["containers"]]:
        for variable in container.get("env") or ():
            source = variable.get("valueFrom") or {}
            for kind, resource in (("secretKeyRef", "secrets"), ("configMapKeyRef", "configmaps")):
                if kind in source and not source[kind].get("optional"):
                    yield resource, source[kind]["name"], {source[kind]["key"]}
        for source in container.get("envFrom") or ():
            for kind, resource in (("secretRef", "secrets"), ("configMapRef", "configmaps")):
                if kind in source and not source[kind].get("optional"):
                    yield resource, source[kind]["name"], set()
    for volume in pod.get("volumes") or ():
        secret, config = volume.get("secret"), volume.get("configMap")
        if secret and not secret.get("optional"):
            yield "secrets", secret["secretName"], set()
        if config and not config.get("optional"):
            yield "configmaps", config["name"], set()
        if claim := volume.get("persistentVolumeClaim"):
            yield "persistentvolumeclaims", claim["claimName"], set()


def find(client: KubernetesClient, path: str) -> dict[str, Any] | None:
    """Return an object; None if there is none, empty where it may not be read."""
    try:
        return client.request("GET", path)
    except NotFoundError:
        return None
    except AccessDeniedError:
        return {}


def check_pod(
    client: KubernetesClient, owner: Json, template: Json, who: str
) -> Iterator[str]:
    """Let the cluster look at the pod too, which only a right to create pods makes possible.

    Args:
        client: The cluster.
        owner: The metadata of the object that makes pods.
        template: Its template of them.
        who: What waits for the pod, in words.

    Yields:
        Warnings.

    Raises:
        AccessDeniedError: Something forbids it.
        RejectedError: It is invalid.
    """
    namespace = owner["namespace"]
    metadata = {**template["metadata"], "name": owner["name"], "namespace": namespace}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    try:
        client.request("POST", object_path("pods", namespace), body=body, query=DRY)
    except AccessDeniedError as error:
        if 'cannot create resource "pods"' in str(error):
            return
        if "exceeded quota" not in str(error):
            raise AccessDeniedError(
                f"preflight: the cluster forbids the pod: {error}", status=403, reason=error.reason
            ) from error
        yield f"the quota is used up, {who} waits: {error}"
    except RejectedError as error:
        raise RejectedError(
            f"preflight: the cluster refuses the pod: {error}", status=error.status
        ) from error


def check_nodes(
    client: KubernetesClient, pod: Json, container: str, who: str
) -> Iterator[str]:
    """Say if no node could ever hold the pod; an autoscaler may still bring one."""
    main = next(item for item in pod["containers"] if item["name"] == container)
    requests = dict((main.get("resources") or {}).get("requests") or {})
    wanted = {name: _amount(value) for name, value in requests.items()}
    labels = pod.get("nodeSelector") or {}
    if not wanted and not labels:
        return
    try:
        nodes = [n for page in list_pages(client, "/api/v1/nodes", "") for n in page["items"]]
    except ClusterError:
        return  # nodes are the cluster's own business; few users may list them
    fitting = [n for n in nodes if labels.items() <= (n["metadata"].get("labels") or {}).items()]
    if not fitting:
        yield f"no node has the labels of node_selector {dict(labels)}; {who} waits for one"
        return
    for name, amount in wanted.items():
        largest = max(_amount(n["status"]["allocatable"].get(name, 0)) for n in fitting)
        if largest < amount:
            yield (
                f"resources: no node can hold {name} {requests[name]} (the largest has "
                f"{largest:f}); {who} waits unless one is added"
            )


def _amount(quantity: object) -> Decimal:
    """Return a quantity as a number; one in a notation that nobody uses counts for nothing."""
    try:
        return parse_quantity(quantity)
    except ValueError:
        return Decimal(0)

"""The objects of a deployment in the cluster: how they are found and read."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from copy import deepcopy
from typing import Any

from mlflow_exec.clients.kubernetes import KubernetesClient, object_path
from mlflow_exec.clients.kubernetes_apply import collection_of
from mlflow_exec.clients.kubernetes_watch import list_pages
from mlflow_exec.errors import AccessDeniedError, ConfigError, ConflictError, NotFoundError
from mlflow_exec.releases import MANAGED_BY, Revision
from mlflow_exec.targets.base import ReleasePlan
from mlflow_exec.targets.kubernetes.kinds import DEPLOYMENT, KINDS, kind_of
from mlflow_exec.targets.kubernetes.plan import (
    LABEL_DEPLOYMENT,
    LABEL_MANAGED,
    LABEL_REVISION,
    revision_name,
)
from mlflow_exec.targets.kubernetes.pods import ROUTER, SCORING

Json = Mapping[str, Any]

APPS = "apps/v1"
_RECORD = "revision.json"
_LOG = logging.getLogger(__name__)


def is_ours(item: Json, name: str) -> bool:
    """Whether an object is of the deployment of mlflow-exec that has this name."""
    labels = item["metadata"].get("labels") or {}
    return labels.get(LABEL_MANAGED) == MANAGED_BY and labels.get(LABEL_DEPLOYMENT) == name


def selector(name: str | None = None, *further: str) -> str:
    """Return the label selector of a deployment's objects; of all deployments' if None."""
    one = LABEL_DEPLOYMENT if name is None else f"{LABEL_DEPLOYMENT}={name}"
    return ",".join([f"{LABEL_MANAGED}={MANAGED_BY}", one, *further])


def find_head(client: KubernetesClient, namespace: str, name: str) -> dict[str, Any] | None:
    """Return the object at the head of the deployment of that name; None if there is none of ours.

    Raises:
        AccessDeniedError: There is one, and it may not be read.
        ClusterError: The cluster cannot be asked.
    """
    for kind in KINDS:
        path = f"{collection_of(kind, namespace)}/{name}"
        try:
            found = client.request("GET", path)
        except NotFoundError:
            continue
        except AccessDeniedError:
            # A cluster denies also what it has never heard of.
            if kind == DEPLOYMENT.name or kind in _owners(client, namespace, name):
                raise
            continue
        if is_ours(found, name):
            return {**found, "kind": kind}
    return None


def heads(client: KubernetesClient, namespace: str) -> list[dict[str, Any]]:
    """Return the objects at the heads of all deployments of ours."""
    found = []
    for kind in KINDS:
        path = collection_of(kind, namespace)
        try:
            for page in list_pages(client, path, selector()):
                # A controller makes more of them, with the same labels and names of their own.
                found += [
                    {**item, "kind": kind}
                    for item in page["items"]
                    if is_ours(item, item["metadata"]["name"])
                ]
        except NotFoundError:
            continue
        except AccessDeniedError as error:
            if kind == DEPLOYMENT.name:
                raise
            if kind in _owners(client, namespace):
                _LOG.warning("deployments are left out that are of kind %s: %s", kind, error)
    return found


def _owners(client: KubernetesClient, namespace: str, name: str | None = None) -> set[str]:
    """Return the kinds of the heads that recorded revisions belong to."""
    found = listed(client, "configmaps", namespace, selector(name, LABEL_REVISION))
    return {
        owner["kind"] for item in found for owner in item["metadata"].get("ownerReferences") or ()
    }


def refuse_another_kind(head: Json, live: Json | None) -> None:
    """Refuse to make something else of a deployment than it is.

    Raises:
        ConfigError: It is planned as another kind than it is there.
    """
    if live is not None and live["kind"] != head["kind"]:
        raise ConfigError(
            f"kind: {head['metadata']['name']!r} is served by {_with_article(live['kind'])}, and "
            f"cannot become {_with_article(head['kind'])} while it serves; deploy it under another "
            f"name, or delete it and create it anew"
        )


def _with_article(kind: str) -> str:
    return f"an {kind}" if kind[0] in "AEIOU" else f"a {kind}"


def refuse_foreign(client: KubernetesClient, item: Json) -> None:
    """Refuse to touch an object of that kind and name that is not of the same deployment.

    Raises:
        ConflictError: There is one.
    """
    kind, metadata = item["kind"], item["metadata"]
    path = f"{collection_of(kind, metadata['namespace'])}/{metadata['name']}"
    with suppress(NotFoundError):
        there = client.request("GET", path)
        name = metadata["labels"][LABEL_DEPLOYMENT]
        if not is_ours(there, name):
            owner = (there["metadata"].get("labels") or {}).get(LABEL_DEPLOYMENT)
            whose = f"of the deployment {owner!r}" if owner else "not of mlflow-exec"
            raise ConflictError(
                f"name: namespace {metadata['namespace']!r} has {_with_article(kind)} "
                f"{metadata['name']!r} that is {whose}; choose another name"
            )


def largest_request_bytes(head: Json) -> int | None:
    """Return how large the body of a request to a deployment may be; None if it is not told."""
    for container in kind_of(head).pods_of(head)["spec"]["containers"]:
        for entry in container.get("env") or ():
            if entry["name"] in (SCORING, ROUTER):
                with suppress(ValueError, KeyError, TypeError):
                    options = json.loads(entry["value"])
                    return int(options.get("router", options)["max_request_bytes"])
    return None


def number_of(item: Json) -> int:
    """Return the number of the revision that an object is labelled with; 0 if there is none."""
    text = str((item["metadata"].get("labels") or {}).get(LABEL_REVISION, ""))
    return int(text) if text.isdigit() else 0


def pods_number(revision: Revision) -> int:
    """Return the number that the pods of a revision are labelled with.

    It is that of an earlier one where it has left that one's pods as they were.
    """
    head = revision.objects[0]
    return number_of(kind_of(head).pods_of(head))


def ready_pods_numbers(replica_sets: Iterable[Json]) -> set[int]:
    """Return the numbers by which pods that answer are labelled."""
    return {
        number
        for item in replica_sets
        if (item.get("status") or {}).get("readyReplicas") and (number := number_of(item))
    }


def listed(
    client: KubernetesClient, resource: str, namespace: str, chosen: str, *, group: str = ""
) -> list[dict[str, Any]]:
    """Return all objects of a resource that a label selector finds."""
    path = object_path(resource, namespace, group=group)
    return [item for page in list_pages(client, path, chosen) for item in page["items"]]


def records(
    client: KubernetesClient, namespace: str, name: str | None = None
) -> dict[tuple[str, int], Revision]:
    """Return the recorded revisions by name and number, of one deployment or of all."""
    found = {}
    for item in listed(client, "configmaps", namespace, selector(name, LABEL_REVISION)):
        if (revision := read_record(item)) is not None:
            found[revision.name, revision.number] = revision
    return found


def revision_of(client: KubernetesClient, head: Json | None) -> Revision | None:
    """Return the revision that a deployment is now; None where its record is not there."""
    if head is None:
        return None
    metadata = head["metadata"]
    name = revision_name(metadata["name"], number_of(head))
    try:
        path = object_path("configmaps", metadata["namespace"], name)
        return read_record(client.request("GET", path))
    except NotFoundError:
        return None


def read_record(item: Json) -> Revision | None:
    """Return the revision that a ConfigMap records; None where it cannot be read."""
    try:
        return Revision.from_json((item.get("data") or {})[_RECORD])
    except (KeyError, ValueError):
        return None


def holds(secret: Json, plan: ReleasePlan) -> bool:
    """Whether a Secret in the cluster has just the values that a plan brings."""
    wanted = {
        key: base64.b64encode(value.reveal().encode()).decode()
        for key, value in plan.secrets.items()
    }
    return (secret.get("data") or {}) == wanted


def with_contents(item: Json, plan: ReleasePlan, *, dry: bool = False) -> dict[str, Any]:
    """Return an object with what the plan only refers to: secret values and binary data.

    With ``dry`` no secret is read; its value is empty.
    """
    body = deepcopy(dict(item))
    name = body["metadata"]["name"]
    if body["kind"] == "Secret":
        values = {key: ("" if dry else s.reveal()) for key, s in plan.secrets.items()}
        body["stringData"] = values
    if body["kind"] == "ConfigMap":
        body["binaryData"] = {
            key: base64.b64encode(plan.data[f"{name}/{key}"]).decode() for key in body["binaryData"]
        }
    return body

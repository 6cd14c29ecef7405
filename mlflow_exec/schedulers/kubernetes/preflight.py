"""Whether a cluster would take a job, asked before anything is created.

What can never succeed is refused; what is only full now is a warning, and the job waits.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
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
from mlflow_exec.schedulers.base import Plan, Report
from mlflow_exec.schedulers.kubernetes.objects import collection_of, with_contents
from mlflow_exec.schedulers.kubernetes.plan import CONTAINER, LABEL_QUEUE
from mlflow_exec.schedulers.kubernetes.rights import missing_rights
from mlflow_exec.settings import parse_quantity

Json = Mapping[str, Any]

_DRY = {"dryRun": "All", "fieldValidation": "Strict"}
# So long a passed check counts for jobs of the same shape on the same cluster.
_KNOWN_S = 300.0
_known: dict[str, tuple[float, Report]] = {}
_lock = threading.Lock()


def check(client: KubernetesClient, plan: Plan) -> Report:
    """Refuse a job that can never run, and return warnings; nothing is created.

    Raises:
        AccessDeniedError: A right is missing, or something in the cluster forbids the job.
        ConfigError: Something that the job refers to does not exist.
        ClusterError: The cluster refuses the job, or cannot be asked.
    """
    key = _shape(client, plan)
    with _lock:
        at_s, report = _known.get(key, (0.0, Report()))
    if at_s and time.monotonic() - at_s < _KNOWN_S:
        return report
    job = plan.objects[0]
    namespace = job["metadata"]["namespace"]
    warnings = list(_check_rights(client, namespace, plan))
    for item in plan.objects:
        _dry_run(client, collection_of(item), with_contents(item, plan, dry=True))
    own = {item["metadata"]["name"] for item in plan.objects}
    warnings += _check_references(client, job, own)
    warnings += _check_pod(client, job)
    warnings += _check_nodes(client, job["spec"]["template"]["spec"])
    report = Report(tuple(warnings))
    with _lock:
        _known[key] = (time.monotonic(), report)
    return report


def _shape(client: KubernetesClient, plan: Plan) -> str:
    """Return what two jobs have in common for which all answers are the same."""
    job = {k: v for k, v in plan.objects[0].items() if k != "metadata"}
    # Only the ConfigMap's content differs, and the names, which hold the run's id.
    sizes = {name: len(data) for name, data in plan.data.items()}
    parts = [client.host, id(client), plan.objects[0]["metadata"]["namespace"], job, sizes]
    text = json.dumps([*parts, sorted(plan.secrets)], sort_keys=True, default=str)
    return hashlib.sha256(text.replace(plan.spec.run_id, "").encode()).hexdigest()


def _check_rights(client: KubernetesClient, namespace: str, plan: Plan) -> Iterator[str]:
    unused = set() if plan.secrets else {"create secrets", "get secrets"}
    missing = [right for right in missing_rights(client, namespace) if right not in unused]
    if "list events" in missing:
        missing.remove("list events")
        yield (
            f"namespace {namespace!r}: the right to 'list events' is missing; without it some "
            f"reasons of failures cannot be told"
        )
    if missing:
        raise AccessDeniedError(
            f"preflight: {client.name}: in namespace {namespace!r} these rights are missing: "
            f"{', '.join(missing)}; ask for the Role in docs/kubernetes.md",
            status=403,
        )


def _dry_run(client: KubernetesClient, path: str, body: Json) -> None:
    try:
        client.request("POST", path, body=body, query=_DRY)
    except (RejectedError, NotFoundError, AccessDeniedError) as error:
        raise type(error)(
            f"preflight: the cluster refuses the {body['kind']}: {error}",
            status=error.status,
            reason=error.reason,
        ) from error


# -- what the job refers to -----------------------------------------------------------------


def _check_references(client: KubernetesClient, job: Json, own: set[str]) -> Iterator[str]:
    namespace = job["metadata"]["namespace"]
    pod = job["spec"]["template"]["spec"]
    for resource, name, keys in _references(pod):
        if name in own:
            continue
        found = _find(client, object_path(resource, namespace, name))
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
        if _find(client, object_path("secrets", namespace, secret["name"])) is None:
            yield f"image_pull_secrets: there is no Secret {secret['name']!r} in {namespace!r}"
    queue = (job["metadata"].get("labels") or {}).get(LABEL_QUEUE)
    if queue and _lacks_queue(client, namespace, queue):
        yield f"queue: there is no LocalQueue {queue!r} in {namespace!r}; the job waits for it"


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


def _find(client: KubernetesClient, path: str) -> dict[str, Any] | None:
    """Return an object; None if there is none, empty where it may not be read."""
    try:
        return client.request("GET", path)
    except NotFoundError:
        return None
    except AccessDeniedError:
        return {}


def _lacks_queue(client: KubernetesClient, namespace: str, queue: str) -> bool:
    try:
        version = client.request("GET", "/apis/kueue.x-k8s.io")["preferredVersion"]["groupVersion"]
    except NotFoundError:
        raise ConfigError(
            f"queue: {queue!r} is given, but the cluster has no Kueue, and nobody would start the "
            f"job; leave 'queue' out"
        ) from None
    except ClusterError:
        return False
    return _find(client, object_path("localqueues", namespace, queue, group=version)) is None


# -- the pod itself -------------------------------------------------------------------------


def _check_pod(client: KubernetesClient, job: Json) -> Iterator[str]:
    """Let the cluster look at the pod too, which only a right to create pods makes possible."""
    template = job["spec"]["template"]
    namespace = job["metadata"]["namespace"]
    metadata = {**template["metadata"], "name": job["metadata"]["name"], "namespace": namespace}
    body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
    try:
        client.request("POST", object_path("pods", namespace), body=body, query=_DRY)
    except AccessDeniedError as error:
        if 'cannot create resource "pods"' in str(error):
            return
        if "exceeded quota" not in str(error):
            raise AccessDeniedError(
                f"preflight: the cluster forbids the pod: {error}", status=403, reason=error.reason
            ) from error
        yield f"the quota is used up, the job waits: {error}"
    except RejectedError as error:
        raise RejectedError(
            f"preflight: the cluster refuses the pod: {error}", status=error.status
        ) from error


def _check_nodes(client: KubernetesClient, pod: Json) -> Iterator[str]:
    """Say if no node could ever hold the pod; an autoscaler may still bring one."""
    main = next(item for item in pod["containers"] if item["name"] == CONTAINER)
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
        yield f"no node has the labels of node_selector {dict(labels)}; the job waits for one"
        return
    for name, amount in wanted.items():
        largest = max(_amount(n["status"]["allocatable"].get(name, 0)) for n in fitting)
        if largest < amount:
            yield (
                f"resources: no node can hold {name} {requests[name]} (the largest has "
                f"{largest:f}); the job waits unless one is added"
            )


def _amount(quantity: object) -> Decimal:
    """Return a quantity as a number; one in a notation that nobody uses counts for nothing."""
    try:
        return parse_quantity(quantity)
    except ValueError:
        return Decimal(0)

"""Whether a cluster would take a job, asked before anything is created.

What can never succeed is refused; what is only full now is a warning, and the job waits.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_exec.clients.kubernetes import KubernetesClient, object_path
from mlflow_exec.clients.kubernetes_preflight import (
    check_nodes,
    check_pod,
    check_references,
    dry_run,
    find,
)
from mlflow_exec.clients.kubernetes_rights import missing_rights
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConfigError,
    NotFoundError,
)
from mlflow_exec.reports import Report
from mlflow_exec.schedulers.base import Plan
from mlflow_exec.schedulers.kubernetes.objects import collection_of, with_contents
from mlflow_exec.schedulers.kubernetes.plan import CONTAINER, LABEL_QUEUE
from mlflow_exec.schedulers.kubernetes.rights import RIGHTS

Json = Mapping[str, Any]

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
        dry_run(client, collection_of(item), with_contents(item, plan, dry=True))
    own = {item["metadata"]["name"] for item in plan.objects}
    template = job["spec"]["template"]
    warnings += check_references(client, namespace, template["spec"], own)
    warnings += _check_queue(client, job)
    warnings += check_pod(client, job["metadata"], template, "the job")
    warnings += check_nodes(client, template["spec"], CONTAINER, "the job")
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
    missing = [right for right in missing_rights(client, namespace, RIGHTS) if right not in unused]
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


def _check_queue(client: KubernetesClient, job: Json) -> Iterator[str]:
    namespace = job["metadata"]["namespace"]
    queue = (job["metadata"].get("labels") or {}).get(LABEL_QUEUE)
    if queue and _lacks_queue(client, namespace, queue):
        yield f"queue: there is no LocalQueue {queue!r} in {namespace!r}; the job waits for it"


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
    return find(client, object_path("localqueues", namespace, queue, group=version)) is None

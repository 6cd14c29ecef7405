"""The objects of a job: their paths, their bodies, and how they are found again."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any

from mlflow_exec.clients.kubernetes import object_path
from mlflow_exec.jobs import JobHandle
from mlflow_exec.schedulers.base import Plan
from mlflow_exec.schedulers.kubernetes.plan import LABEL_MANAGED, LABEL_RUN, MANAGED_BY

Json = Mapping[str, Any]
BATCH = "batch/v1"
# A label selector of this many run ids is still a short URL; above, all of ours are selected.
SELECTED_RUNS = 20
_RESOURCES = {"Job": ("jobs", BATCH), "ConfigMap": ("configmaps", ""), "Secret": ("secrets", "")}


def collection_of(item: Mapping[str, Any]) -> str:
    """Return the path of the collection that an object is created in."""
    resource, group = _RESOURCES[item["kind"]]
    return object_path(resource, item["metadata"]["namespace"], group=group)


def path_of(item: Mapping[str, Any]) -> str:
    """Return the path of an object; one without a kind is a Job, as answers for Jobs are."""
    resource, group = _RESOURCES[item.get("kind", "Job")]
    metadata = item["metadata"]
    return object_path(resource, metadata["namespace"], metadata["name"], group=group)


def with_contents(item: Mapping[str, Any], plan: Plan, *, dry: bool = False) -> dict[str, Any]:
    """Return an object with what the plan only refers to: secret values and binary data.

    With ``dry`` no secret is read; its value is empty.
    """
    body = deepcopy(dict(item))
    if body["kind"] == "Secret":
        values = {name: ("" if dry else s.reveal()) for name, s in plan.secrets.items()}
        body["stringData"] = values
    if body["kind"] == "ConfigMap" and plan.data:
        body["binaryData"] = {k: base64.b64encode(v).decode() for k, v in plan.data.items()}
    return body


def selector(run_ids: Iterable[str]) -> str:
    """Return the label selector of these runs' objects, made so that the server filters."""
    ours, runs = f"{LABEL_MANAGED}={MANAGED_BY}", set(run_ids)
    if not runs or len(runs) > SELECTED_RUNS:
        return ours
    return f"{ours},{LABEL_RUN} in ({','.join(sorted(runs))})"


def job_of(pod: dict[str, Any]) -> str:
    """Return the name of the Job that a pod belongs to."""
    labels = pod["metadata"].get("labels") or {}
    return str(labels.get("batch.kubernetes.io/job-name") or labels.get("job-name") or "")


_METADATA = (
    "name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "labels", "annotations",
)  # fmt: skip
_SPEC = ("suspend", "nodeName")


def essential(item: dict[str, Any]) -> dict[str, Any]:
    """Return what a status is made of; the rest of a Job or pod is ten times as large."""
    metadata = {key: item["metadata"][key] for key in _METADATA if key in item["metadata"]}
    spec = {key: item["spec"][key] for key in _SPEC if key in item["spec"]}
    spec.update(_sidecars(item))
    return {"metadata": metadata, "spec": spec, "status": item.get("status") or {}}


def _sidecars(pod: Json) -> dict[str, Any]:
    """Return the part of a pod's spec that tells which of its first containers run on.

    https://kubernetes.io/docs/concepts/workloads/pods/sidecar-containers/
    """
    first = pod["spec"].get("initContainers") or ()
    found = [
        {"name": container["name"], "restartPolicy": "Always"}
        for container in first
        if container.get("restartPolicy") == "Always"
    ]
    return {"initContainers": found} if found else {}


def container_statuses(pod: Json) -> list[Json]:
    """Return the statuses of all containers of a pod, those that start first before the others."""
    status = pod.get("status") or {}
    return [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]


def preparing(pod: Json) -> list[Json]:
    """Return the statuses of the containers that end before the others begin, in their order.

    Args:
        pod: As the cluster has it, or what `essential` or `record_of` keeps of it.
    """
    running_on = {container["name"] for container in _sidecars(pod).get("initContainers", ())}
    statuses = (pod.get("status") or {}).get("initContainerStatuses") or ()
    return [status for status in statuses if status["name"] not in running_on]


def owner_of(pod: dict[str, Any]) -> str:
    """Return the uid of the Job that a pod belongs to; empty if it does not tell."""
    return str((pod["metadata"].get("labels") or {}).get("batch.kubernetes.io/controller-uid", ""))


def run_of(handle: JobHandle) -> str:
    """Return the run that a job's name holds."""
    return handle.name.split("-")[1]


def record_of(job: Json, pods: Sequence[Json], events: Sequence[Json]) -> dict[str, Any]:
    """Return the cluster's own record of a job, for ``diagnosis.json``."""
    return {
        "job": {"name": job["metadata"]["name"], "uid": job["metadata"]["uid"],
                "status": job.get("status") or {}},
        "pods": [
            {"name": pod["metadata"]["name"], "node": pod["spec"].get("nodeName"),
             "spec": _sidecars(pod), "status": pod.get("status") or {}}
            for pod in pods
        ],
        "events": [
            {key: event.get(key) for key in ("type", "reason", "message", "count",
                                             "lastTimestamp", "involvedObject")}
            for event in events
        ],
    }  # fmt: skip

"""The paths and bodies of the objects of a plan."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from mlflow_exec.clients.kubernetes import object_path
from mlflow_exec.schedulers.base import Plan

BATCH = "batch/v1"
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

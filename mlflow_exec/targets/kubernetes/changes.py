"""What stays between two revisions: pods that would be the same, and whose number of them. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

from mlflow_exec.clients.kubernetes_apply import FIELD_MANAGER, managers_of
from mlflow_exec.releases import Revision
from mlflow_exec.targets.kubernetes.kinds import kind_of
from mlflow_exec.targets.kubernetes.plan import LABEL_REVISION

Json = Mapping[str, Any]

_AUTOSCALER = "HorizontalPodAutoscaler"
# It writes the number in the autoscaler's name.
_CONTROLLERS = "kube-controller-manager"


def with_same_pods(
    revision: Revision, live: Json, previous: Revision, *, same_values: bool
) -> Revision:
    """Return a revision that keeps the pods that are there, where they would be the same anew.

    They keep the number in their labels, the name of a Secret that has the same values, and how
    long they may take to start, where the head has a deadline of its own.

    Args:
        revision: As it is planned.
        live: The head in the cluster.
        previous: Its revision there.
        same_values: Whether the Secret of ``previous`` has the values that this one brings.
    """
    kind = kind_of(live)
    label = (kind.pods_of(live)["metadata"].get("labels") or {}).get(LABEL_REVISION)
    there = deepcopy(kind.pods_of(previous.objects[0]))
    ours, theirs = secret_of(revision.objects), secret_of(previous.objects)
    objects = deepcopy(list(revision.objects))
    if same_values and ours and theirs:
        names = ours["metadata"]["name"], theirs["metadata"]["name"]
        objects = [_renamed(item, *names) for item in objects]
    pods = kind.pods_of(objects[0])
    same_start = kind.has_deadline and all(
        revision.settings.get(key) == previous.settings.get(key) for key in ("patch", "template")
    )
    if label is None or _compared(pods, same_start) != _compared(there, same_start):
        return revision
    there["metadata"]["labels"][LABEL_REVISION] = label
    objects[0] = kind.with_pods(objects[0], there)
    return replace(revision, objects=tuple(objects))


def secret_of(objects: Iterable[Json]) -> Json | None:
    """Return the Secret with the values that a revision brought along; None if it has none."""
    return next((item for item in objects if item["kind"] == "Secret"), None)


def _renamed(part: Any, old: str, new: str) -> Any:
    """Return it with another name wherever an object, or a reference to one, has the old one."""
    if isinstance(part, list):
        return [_renamed(item, old, new) for item in part]
    if not isinstance(part, dict):
        return part
    return {
        key: new if key in ("name", "secretName") and value == old else _renamed(value, old, new)
        for key, value in part.items()
    }


def _startup_probes(template: Json) -> list[dict[str, Any]]:
    containers = template["spec"]["containers"]
    return [container["startupProbe"] for container in containers if container.get("startupProbe")]


def _compared(template: Json, same_start: bool) -> dict[str, Any]:
    """Return what has to be the same; with ``same_start`` not by when they must have started."""
    compared = deepcopy(dict(template))
    compared["metadata"]["labels"].pop(LABEL_REVISION, None)
    for probe in _startup_probes(compared) if same_start else ():
        probe.pop("failureThreshold", None)
    return compared


def with_replicas(
    head: Json, live: Json, previous: Revision | None
) -> tuple[dict[str, Any], int | None]:
    """Return a head as it is to be applied, and the number that has to be set before.

    Args:
        head: As it is planned.
        live: As it is in the cluster.
        previous: Its revision there.

    Returns:
        The number is None where applying alone sets it, or where it is not to be touched: applied
        all the same, somebody else's number is then told as a conflict.
    """
    item = deepcopy(dict(head))
    if not kind_of(head).has_scale:
        return item, None
    setters = managers_of(live, "spec", "replicas")
    wanted, there = item["spec"].get("replicas"), live["spec"].get("replicas")
    ours = (FIELD_MANAGER, "Apply")
    if wanted is None and ours in setters:
        # Left out now it would fall back to 1, before the autoscaler decides.
        item["spec"]["replicas"] = there
    elif wanted is not None and wanted != there and setters - {ours}:
        had_one = previous is not None and any(o["kind"] == _AUTOSCALER for o in previous.objects)
        allowed = {FIELD_MANAGER, _CONTROLLERS} if had_one else {FIELD_MANAGER}
        if {manager for manager, _ in setters} <= allowed:
            return item, int(wanted)
    return item, None

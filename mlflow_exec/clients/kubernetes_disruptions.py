"""What the cluster does to a pod, which is not its own fault, read from its conditions. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_exec.jobs import Failure, FailureCategory

Json = Mapping[str, Any]

# https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions
DISRUPTIONS = {
    "PreemptionByScheduler": FailureCategory.PREEMPTED,
    "PreemptionByKubeScheduler": FailureCategory.PREEMPTED,
    "DeletionByTaintManager": FailureCategory.NODE_LOST,
    "DeletionByPodGC": FailureCategory.NODE_LOST,
    "EvictionByEvictionAPI": FailureCategory.EVICTED,
    "TerminationByKubelet": FailureCategory.EVICTED,
}
DISRUPTED = {
    FailureCategory.PREEMPTED: "The pod had to give way to one of a higher priority",
    FailureCategory.EVICTED: "The pod was evicted from its node",
    FailureCategory.NODE_LOST: "The node of the pod was lost",
}


def true_conditions(obj: Json) -> dict[str, Json]:
    """Return the conditions of an object that are true, by type."""
    conditions = (obj.get("status") or {}).get("conditions") or []
    return {c["type"]: c for c in conditions if c.get("status") == "True"}


def node_lost(pod: Json) -> Failure | None:
    """Why nobody knows how a pod is, while its Job still counts on it.

    A node that does not answer leaves its pods' states as they were. The node controller only says
    that they are not ready, although all of their containers are; later it has them deleted, which
    nobody carries out.
    """
    conditions = {c["type"]: c for c in (pod.get("status") or {}).get("conditions") or []}
    taken = true_conditions(pod).get("DisruptionTarget")
    ready = conditions.get("Ready") or {}
    if taken is not None:
        if DISRUPTIONS.get(str(taken.get("reason"))) is not FailureCategory.NODE_LOST:
            return None
    elif (
        ready.get("status") != "False"
        or (conditions.get("ContainersReady") or {}).get("status") != "True"
        or ready.get("reason") == "ReadinessGatesNotReady"
    ):
        return None
    node = pod["spec"].get("nodeName")
    return Failure(
        FailureCategory.NODE_LOST,
        f"The node {node!r} does not answer, and nobody knows whether the pod runs on it.",
        "It goes on when the node is back; if the node is gone for good, delete it from the "
        "cluster, or cancel the job.",
    )

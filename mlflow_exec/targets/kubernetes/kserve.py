"""What an InferenceService, and what KServe has made of it, say as one rollout. Pure.

The conditions of an InferenceService are a summary of its Deployment's, and tell no generation that
they are of. So the Deployment is read as if it were ours, once it is that of the newest revision.
https://github.com/kserve/kserve/blob/master/pkg/apis/serving/v1beta1/inference_service_status.go
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from mlflow_exec.clients.kubernetes_reasons import not_created
from mlflow_exec.jobs import Failure
from mlflow_exec.releases import Revision, Rollout, RolloutState
from mlflow_exec.targets.kubernetes.kinds import INFERENCE_SERVICE
from mlflow_exec.targets.kubernetes.objects import number_of, pods_number
from mlflow_exec.targets.kubernetes.plan import LABEL_REVISION
from mlflow_exec.targets.kubernetes.status import explained, rollout_of

Json = Mapping[str, Any]

_READY = "Ready"
_NOT_MADE = "ReconcileFailed"
_ALL_THERE = "NewReplicaSetAvailable"


def service_rollout(
    service: Json,
    made: Json | None,
    replica_sets: Sequence[Json],
    pods: Sequence[Json],
    revision: Revision | None,
    url: str,
    known: Sequence[Revision],
    now: datetime | None,
) -> Rollout:
    """Return the rollout.

    Args:
        service: The InferenceService.
        made: The Deployment that KServe has made of it, if it has.
        replica_sets: That one's.
        pods: Those of it.
        revision: The record of the revision that the InferenceService is labelled with.
        url: Where our own Service answers.
        known: All the recorded revisions.
        now: By the cluster's clock.
    """
    name, status = service["metadata"]["name"], service.get("status") or {}
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    url = str(status.get("url") or url)
    state, message = _before_its_deployment(service, made)
    failure = _refused(conditions)
    if failure is not None:
        message = failure.message
    if made is None:
        native = {"inference_service": {"name": name, "status": status}}
        state = state or RolloutState.DEPLOYING
        return Rollout(name, state, revision, url=url, message=message, failure=failure,
                       native=native)  # fmt: skip
    seen = _as_ours(service, made, known, newest=not state)
    found = rollout_of(
        seen, replica_sets, pods, revision, url, known, late=_late(made, pods, now)
    )
    found = replace(found, native={**found.native, "inference_service": status})
    if state:
        return replace(found, state=state, message=message, failure=failure)
    ready = conditions.get(_READY) or {}
    if found.state is RolloutState.READY and ready.get("status") != "True":
        return replace(found, state=RolloutState.DEPLOYING, message=_waits_for(conditions))
    return found


def _before_its_deployment(
    service: Json, made: Json | None
) -> tuple[RolloutState | None, str]:
    """Return state and message where its Deployment says nothing of the newest revision yet."""
    if service["metadata"].get("deletionTimestamp"):
        return RolloutState.DELETING, "its pods are being stopped"
    if INFERENCE_SERVICE.is_held(service):
        return RolloutState.DEPLOYING, "is being made, or was left unfinished"
    if made is None or not _is_of(made, service):
        return RolloutState.DEPLOYING, "waits for KServe's controller"
    return None, ""


def _is_of(made: Json, service: Json) -> bool:
    """Whether a Deployment is what KServe makes of the InferenceService as it is now."""
    predictor, replicas = service["spec"]["predictor"], int(made["spec"].get("replicas", 1))
    least = int(predictor.get("minReplicas", 1))
    most = int(predictor.get("maxReplicas") or least)
    same_pods = number_of(made["spec"]["template"]) == number_of(
        INFERENCE_SERVICE.pods_of(service)
    )
    return same_pods and least <= replicas <= most


def _as_ours(
    service: Json, made: Json, known: Iterable[Revision], *, newest: bool
) -> dict[str, Any]:
    """Return the Deployment with the name and the number that its deployment has."""
    pods = number_of(made["spec"]["template"])
    number = number_of(service)
    if not newest:
        number = max((r.number for r in known if pods_number(r) == pods), default=pods)
    labels = {**(made["metadata"].get("labels") or {}), LABEL_REVISION: str(number)}
    metadata = {**made["metadata"], "name": service["metadata"]["name"], "labels": labels}
    return {**made, "metadata": metadata}


def _late(made: Json, pods: Iterable[Json], now: datetime | None) -> bool | None:
    """Whether the newest pods have had their time; None where that is not known.

    KServe lets nobody choose the Deployment's own deadline. So it is as long as the pods may take
    to start, from when the last of them was made; once all were there, none is late any more.
    """
    template = made["spec"]["template"]
    seconds = [
        container["startupProbe"]["failureThreshold"]
        * container["startupProbe"].get("periodSeconds", 10)
        for container in template["spec"]["containers"]
        if container.get("startupProbe")
    ]
    if now is None or not seconds:
        return None
    begun = [
        datetime.fromisoformat(str(item["metadata"]["creationTimestamp"]).replace("Z", "+00:00"))
        for item in pods
        if number_of(item) == number_of(template)
    ]
    if any(c.get("reason") == _ALL_THERE for c in made.get("status", {}).get("conditions") or ()):
        return False
    return bool(begun) and now - max(begun) > timedelta(seconds=max(seconds))


def _refused(conditions: Mapping[str, Json]) -> Failure | None:
    """Return why KServe can make nothing of it, if it says so."""
    for condition in conditions.values():
        if condition.get("reason") == _NOT_MADE and condition.get("status") == "False":
            text = str(condition.get("message") or "no reason is told")
            return explained(not_created(text), f"KServe cannot make its Deployment: {text}")
    return None


def _waits_for(conditions: Mapping[str, Json]) -> str:
    """Return what an InferenceService still waits for, in KServe's words."""
    words = [
        f"{kind}: " + ": ".join(filter(None, [found.get("reason"), found.get("message")]))
        for kind, found in conditions.items()
        if found.get("status") != "True" and kind != _READY and found.get("severity") != "Info"
    ]
    return "its replicas answer; KServe waits for " + ("; ".join(words) or "itself")

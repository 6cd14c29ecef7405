"""What a Deployment, its ReplicaSets and its pods say, as one rollout. Pure.

Read from conditions and container states. A failure of the newest revision is final where the same
happened twice or cannot pass; what may pass (no room on the nodes, a quota, a registry's limit) is
told while it is waited for, until the Deployment's own deadline.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mlflow_exec.clients.kubernetes_apply import applied_at
from mlflow_exec.clients.kubernetes_disruptions import node_lost, true_conditions
from mlflow_exec.clients.kubernetes_reasons import (
    CONFIG_REASONS,
    IMAGE_REASONS,
    PULL_DENIED,
    TRANSIENT_PULL,
    last_words,
    not_created,
)
from mlflow_exec.jobs import Failure, FailureCategory
from mlflow_exec.releases import Revision, Rollout, RolloutState
from mlflow_exec.runtime.end import End
from mlflow_exec.targets.kubernetes.objects import pods_number, ready_pods_numbers
from mlflow_exec.targets.kubernetes.plan import LABEL_REVISION
from mlflow_exec.targets.kubernetes.pods import PREPARE_CONTAINER

Json = Mapping[str, Any]

# https://github.com/kubernetes/kubernetes/blob/v1.34.1/pkg/controller/deployment/util/deployment_util.go
_LATE = "ProgressDeadlineExceeded"
_COMPLETE = "NewReplicaSetAvailable"
# https://github.com/kubernetes/kubernetes/blob/v1.34.1/pkg/kubelet/container/sync_result.go
_CRASH_LOOP = "CrashLoopBackOff"
# The first failed pull may be bad luck; the kubelet has tried again when it says this.
_PULLED_TWICE = {"ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull"}

_HINTS = {
    FailureCategory.OUT_OF_MEMORY: "Raise resources.memory.",
    FailureCategory.IMAGE_PULL: "Check the image's name and tag, and image_pull_secrets.",
    FailureCategory.UNSCHEDULABLE: "No node fits: check resources, node_selector, tolerations.",
    FailureCategory.QUOTA: "Ask for less, or have the quota raised; an update needs room for one "
    "replica more.",
    FailureCategory.INVALID_CONFIG: "Check the settings that the message names.",
    FailureCategory.PERMISSION: "Ask for what the message names, or change what it forbids.",
    FailureCategory.USER_ERROR: "Test it where it was logged: mlflow-exec serve -m MODEL.",
    FailureCategory.NODE_LOST: "Another replica takes its place when the cluster gives it up.",
    FailureCategory.DEADLINE: "Raise timeout_s, or see why its pods take so long.",
}


def explained(category: FailureCategory, message: str, hint: str = "") -> Failure:
    """Return a failure with the usual hint of its category, where there is no better one."""
    return Failure(category, message, hint or _HINTS.get(category, ""))


def rollout_of(
    deployment: Json,
    replica_sets: Sequence[Json],
    pods: Sequence[Json],
    revision: Revision | None,
    url: str,
    known: Iterable[Revision] = (),
    late: bool | None = None,
) -> Rollout:
    """Return the rollout.

    Args:
        deployment: The Deployment.
        replica_sets: Its ReplicaSets.
        pods: Its pods.
        revision: The record of the revision that the Deployment is labelled with, if it is known.
        url: Where the Service answers.
        known: All the recorded revisions: which one serves, where several have the same pods.
        late: Whether the newest pods have had their time; None: the Deployment itself says so.
    """
    metadata, spec = deployment["metadata"], deployment["spec"]
    status = deployment.get("status") or {}
    # Pods that a later revision has left as they were are still labelled by the earlier one.
    labelled = _number(spec["template"])
    replicas = int(spec.get("replicas", 1))
    ready = ready_pods_numbers(replica_sets)
    serving = _number(deployment)
    if labelled not in ready:
        earlier = max(ready, default=None)
        serving = max((r.number for r in known if pods_number(r) == earlier), default=earlier)
    newest = [pod for pod in pods if _number(pod) == labelled]
    state, message, failure = _state(deployment, newest, replicas, late)
    return Rollout(
        name=metadata["name"],
        state=state,
        revision=revision,
        serving=serving,
        replicas=replicas,
        ready=int(status.get("readyReplicas") or 0),
        url=url,
        message=message,
        failure=failure,
        native=_record(deployment, replica_sets, pods),
    )


def _number(item: Json) -> int | None:
    text = str((item["metadata"].get("labels") or {}).get(LABEL_REVISION, ""))
    return int(text) if text.isdigit() else None


def _state(
    deployment: Json, newest: Sequence[Json], replicas: int, late: bool | None
) -> tuple[RolloutState, str, Failure | None]:
    """Return state, message and failure.

    Args:
        deployment: The Deployment.
        newest: The pods of its newest revision.
        replicas: How many are asked for.
        late: See `rollout_of`.
    """
    metadata, status = deployment["metadata"], deployment.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return RolloutState.DELETING, "its pods are being stopped", None
    if deployment["spec"].get("paused"):
        return RolloutState.DEPLOYING, "is being made, or was left unfinished", None
    if int(status.get("observedGeneration") or 0) < int(metadata.get("generation") or 0):
        return RolloutState.DEPLOYING, "waits for the controller", None
    counts = [int(status.get(f"{kind}Replicas") or 0) for kind in ("updated", "available")]
    if [*counts, int(status.get("replicas") or 0)] == [replicas] * 3:
        return RolloutState.READY, f"{replicas} of {replicas} replicas answer", None
    conditions = {c["type"]: c for c in status.get("conditions") or ()}
    progressing = conditions.get("Progressing") or {}
    final, failure = _why(deployment, newest)
    late = _is_late(deployment, progressing) if late is None else late
    if late and failure is None:
        text = f"Its replicas were not ready in time: {progressing.get('message')}"
        failure = explained(FailureCategory.DEADLINE, text)
    message = f"{counts[1]} of {replicas} replicas answer"
    if failure is None:
        return RolloutState.DEPLOYING, f"{message}; {_waits_for(newest)}", None
    if progressing.get("reason") == _COMPLETE:
        return RolloutState.UNHEALTHY, message, failure
    if final or late:
        return RolloutState.FAILED, message, failure
    return RolloutState.DEPLOYING, f"{message}; {failure.message}", failure


def _is_late(deployment: Json, progressing: Json) -> bool:
    """Whether the Deployment's deadline is over for what it is now.

    Its controller leaves what it said of the revision before until it sees progress. The times
    are in whole seconds, as deadlines are: what was said in the second of the change is older.
    """
    said_at = str(progressing.get("lastUpdateTime") or "")
    return progressing.get("reason") == _LATE and said_at > applied_at(deployment)


def _waits_for(pods: Sequence[Json]) -> str:
    for pod in pods:
        status = pod.get("status") or {}
        for container in status.get("initContainerStatuses") or ():
            if container["name"] == PREPARE_CONTAINER and "running" in container["state"]:
                return "builds the environment and fetches the model"
        for container in status.get("containerStatuses") or ():
            if "running" in container["state"] and not container.get("ready"):
                return "loads the model"
    return "waits for its pods"


def _why(deployment: Json, pods: Sequence[Json]) -> tuple[bool, Failure | None]:
    """Return what keeps the newest revision from being ready, and whether it is hopeless."""
    found = [why for pod in pods if (why := pod_failure(pod)) is not None]
    hopeless = [why for final, why in found if final]
    if hopeless:
        return True, hopeless[0]
    refused = true_conditions(deployment).get("ReplicaFailure")
    if refused is not None:
        text = str(refused.get("message"))
        category = not_created(text)
        passes = category in (FailureCategory.QUOTA, FailureCategory.INFRASTRUCTURE)
        return not passes, explained(category, f"The pod cannot be created: {text}")
    return (False, found[0][1]) if found else (False, None)


def pod_failure(pod: Json) -> tuple[bool, Failure] | None:
    """Return why a pod does not run, and whether that is hopeless; None if nothing says so."""
    status = pod.get("status") or {}
    # One that is over, such as an evicted one, has another in its place.
    if pod["metadata"].get("deletionTimestamp") or status.get("phase") in ("Failed", "Succeeded"):
        return None
    if (lost := node_lost(pod)) is not None:
        return False, explained(lost.category, lost.message)
    for condition in status.get("conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            text = str(condition.get("message") or "no node takes it")
            return False, explained(FailureCategory.UNSCHEDULABLE, text)
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or ():
            if (why := _container_failure(container)) is not None:
                return why
    return None


def _container_failure(container: Json) -> tuple[bool, Failure] | None:
    waiting = container["state"].get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    text = f"{reason}: {waiting.get('message')}" if waiting.get("message") else reason
    if reason in IMAGE_REASONS:
        return _not_pulled(container.get("image"), reason, text)
    if reason in CONFIG_REASONS:
        message = f"The container cannot be created: {text}"
        return True, explained(FailureCategory.INVALID_CONFIG, message)
    ended = container["state"].get("terminated") or (
        (container.get("lastState") or {}).get("terminated") if not container.get("ready") else None
    )
    if not ended or not ended.get("exitCode"):
        return None
    failure = _ended(str(container["name"]), ended)
    # What fails once may have had bad luck, such as with an index of packages that was busy.
    again = reason == _CRASH_LOOP or int(container.get("restartCount") or 0) > 1
    return again or failure.category is FailureCategory.INVALID_CONFIG, failure


def _not_pulled(image: object, reason: str, text: str) -> tuple[bool, Failure]:
    if TRANSIENT_PULL.search(text):
        message = f"The image {image!r} cannot be pulled yet, its registry limits pulls: {text}"
        return False, explained(FailureCategory.INFRASTRUCTURE, message)
    hint = ""
    if PULL_DENIED.search(text):
        hint = "Its registry asks for credentials: check image_pull_secrets, and the image's name."
    message = f"The image {image!r} cannot be pulled: {text}"
    return reason in _PULLED_TWICE, explained(FailureCategory.IMAGE_PULL, message, hint)


def _ended(name: str, ended: Json) -> Failure:
    """Return why a container ended that should not have."""
    said = str(ended.get("message") or "")
    try:  # what the first step itself says
        told = End.from_json(said)
        return explained(FailureCategory(told.category), told.message, told.hint)
    except ValueError:
        pass
    if ended.get("reason") in ("StartError", "ContainerCannotRun"):
        message = f"The container cannot be started: {said}"
        return explained(FailureCategory.INVALID_CONFIG, message)
    step = "The first step (environment and model)" if name == PREPARE_CONTAINER else "The server"
    if ended.get("reason") == "OOMKilled":
        message = f"{step} was killed because it used more memory than its limit."
        return explained(FailureCategory.OUT_OF_MEMORY, message)
    words = last_words(said) or str(ended.get("reason") or "")
    message = f"{step} ended with exit code {ended.get('exitCode')}: {words}"
    return explained(FailureCategory.USER_ERROR, message)


def _record(deployment: Json, replica_sets: Sequence[Json], pods: Sequence[Json]) -> dict[str, Any]:
    def brief(item: Json) -> dict[str, Any]:
        return {"name": item["metadata"]["name"], "revision": _number(item),
                "status": item.get("status") or {}}  # fmt: skip

    return {
        "deployment": brief(deployment),
        "replica_sets": [brief(item) for item in replica_sets],
        "pods": [brief(pod) for pod in pods],
    }

"""What a Job, its pods and their events say, as one status. Pure.

Read from conditions and container states, never from counters: a Job that failed by its deadline
or its failure policy has a failed count that says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from mlflow_exec.clients.kubernetes_disruptions import (
    DISRUPTED,
    DISRUPTIONS,
    node_lost,
    true_conditions,
)
from mlflow_exec.clients.kubernetes_reasons import (
    CONFIG_REASONS,
    IMAGE_REASONS,
    PULL_DENIED,
    TRANSIENT_PULL,
    last_words,
    not_created,
)
from mlflow_exec.jobs import Failure, FailureCategory, JobState, JobStatus
from mlflow_exec.runtime.end import (
    EXIT_DISRUPTED,
    EXIT_OVER,
    EXIT_STOPPED,
    taken_too_often,
)
from mlflow_exec.schedulers.ending import parse_ending, user_error
from mlflow_exec.schedulers.kubernetes.objects import (
    container_statuses,
    preparing,
    record_of,
)
from mlflow_exec.schedulers.kubernetes.plan import (
    CONTAINER,
    INFRA_RETRIES,
    LABEL_QUEUE,
    SOURCE_CONTAINER,
    SUBMITTING,
)
from mlflow_exec.schedulers.kubernetes.times import age_s, pull_failed_s, waited_s

Json = Mapping[str, Any]

# Why a node does not start a pod, which only events tell:
# https://github.com/kubernetes/kubernetes/blob/v1.34.1/pkg/kubelet/events/event.go
_NODE_REASONS = {
    "FailedMount", "FailedAttachVolume", "FailedMapVolume", "FailedCreatePodSandBox",
    "NetworkNotReady", "NodeNotReady",
}  # fmt: skip
_MISSING_VOLUME = re.compile(r"not found|non-existent|references non", re.I)
# A submission takes a second; a Job that is not complete after a minute has lost its client.
_SUBMITTING_S = 60.0
_ENDING = "has ended; the controller has not said how yet"
_ABANDONED = "Its submission was interrupted before all that it needs was there."

# https://kubernetes.io/docs/concepts/workloads/controllers/job/#job-termination-and-cleanup
_DEADLINE = "DeadlineExceeded"
_LATE = "The job was still running at its deadline (deadline_s)."

_HINTS = {
    FailureCategory.OUT_OF_MEMORY: "Raise resources.memory, or use less of it.",
    FailureCategory.IMAGE_PULL: "Check the image's name and tag, and image_pull_secrets.",
    FailureCategory.UNSCHEDULABLE: "No node fits: check resources, node_selector, tolerations.",
    FailureCategory.QUOTA: "Ask for less, wait for other jobs, or have the quota raised.",
    FailureCategory.PREEMPTED: "Raise infra_retries, or use a higher priority_class.",
    FailureCategory.EVICTED: "Raise infra_retries; give resources so that the node is not full.",
    FailureCategory.NODE_LOST: "Raise infra_retries to start again on another node.",
    FailureCategory.INFRASTRUCTURE: "Submit it again; diagnosis.json has the cluster's own record.",
    FailureCategory.DEADLINE: "Raise deadline_s, or make the job shorter.",
    FailureCategory.INVALID_CONFIG: "Check the settings that the message names.",
    FailureCategory.PERMISSION: "Ask for what the message names, or change what it forbids.",
    FailureCategory.SOURCE_FETCH: "See the log for what could not be fetched.",
}


def failure(category: FailureCategory, message: str) -> Failure:
    """Return a failure with the usual hint of its category on Kubernetes."""
    return Failure(category, message, _HINTS.get(category, ""))


def job_status(
    job: Json,
    pods: Sequence[Json],
    events: Sequence[Json] = (),
    kueue: str = "",
    now: datetime | None = None,
) -> JobStatus:
    """Return the status of a Job.

    Args:
        job: The Job.
        pods: Its pods, those of earlier attempts too, as far as they are still there.
        events: Events of the Job and its pods, where they were read.
        kueue: Why Kueue holds it, where that was read.
        now: By the cluster's own clock; where it is not known, nothing is told from ages.
    """
    pods = sorted(pods, key=lambda pod: pod["metadata"]["creationTimestamp"])
    native = record_of(job, pods, events)
    conditions = true_conditions(job)
    attempt = _attempt(pods)
    if "Complete" in conditions:
        return JobStatus(JobState.SUCCEEDED, "", None, 0, attempt, native=native)
    if "Failed" in conditions:
        why, exit_code = _why_failed(conditions["Failed"], pods)
        return JobStatus(JobState.FAILED, why.message, why, exit_code, attempt, native=native)
    overdue = conditions.get("FailureTarget") or {}
    lost = node_lost(pods[-1]) if pods else None
    if lost is not None and overdue.get("reason") == _DEADLINE:
        # The controller says Failed only when the pod is gone, and nobody can tell it that.
        why = failure(FailureCategory.DEADLINE, f"{_LATE} {lost.message}")
        return JobStatus(JobState.FAILED, why.message, why, None, attempt, native=native)
    if now is not None and _is_abandoned(job, now):
        why = Failure(FailureCategory.INFRASTRUCTURE, _ABANDONED, "Submit it again.")
        return JobStatus(JobState.QUEUED, _ABANDONED, why, hopeless=True, native=native)
    pods = _of_this_start(job, pods)
    state, message, holding = _live(job, pods, events, kueue)
    if holding is not None and holding.category is FailureCategory.UNSCHEDULABLE:
        # A first step would say so, and there is no node for it.
        too_often = _taken_too_often(job, pods)
        if too_often is not None:
            return JobStatus(state, message, too_often, None, attempt, hopeless=True, native=native)
    suspended = bool(job["spec"].get("suspend"))
    held = suspended or (holding is not None and _passes(holding))
    status = JobStatus(state, message, holding, None, attempt, held, native=native)
    if now is None or suspended:
        return status
    waits_s = waited_s(state, job, pods, attempt, now)
    pulling = holding is not None and holding.category is FailureCategory.IMAGE_PULL
    fails_s = pull_failed_s(pods[-1], events, TRANSIENT_PULL, now) if pulling else None
    return replace(status, waits_s=waits_s, fails_s=fails_s)


def needs_events(status: JobStatus) -> bool:
    """Whether only events may tell what a job waits for that this status is of."""
    waits = status.state in (JobState.QUEUED, JobState.STARTING)
    return waits and status.failure is None


def _of_this_start(job: Json, pods: Sequence[Json]) -> Sequence[Json]:
    """Return the pods of a Job; none where the newest is of before a pause, and not gone yet.

    The controller sets `startTime` anew each time that it has seen that a Job is resumed.
    """
    if not pods or not pods[-1]["metadata"].get("deletionTimestamp"):
        return pods
    started = str((job.get("status") or {}).get("startTime") or "")
    of_before = pods[-1]["metadata"]["creationTimestamp"] < started
    return [] if of_before or "Suspended" in true_conditions(job) else pods


def _live(
    job: Json, pods: Sequence[Json], events: Sequence[Json], kueue: str
) -> tuple[JobState, str, Failure | None]:
    if job["spec"].get("suspend"):
        queue = queue_of(job)
        message = f"waits in queue {queue!r}" if queue else "is suspended"
        return JobState.QUEUED, f"{message}: {kueue}" if kueue else message, None
    if not pods and {"FailureTarget", "SuccessCriteriaMet"} & true_conditions(job).keys():
        return JobState.RUNNING, _ENDING, None  # it will get no other pod
    if not pods:
        holding = _not_created(events)
        # A quota is waited for like a node; what else refuses the pod keeps a job from starting.
        waits = holding is None or holding.category is FailureCategory.QUOTA
        state = JobState.QUEUED if waits else JobState.STARTING
        return state, holding.message if holding else "waits for its pod", holding
    state, message, holding = pod_state(pods[-1])
    if state is JobState.STARTING and holding is None:
        holding = _not_started(pods[-1], events)
        message = holding.message if holding else message
    return state, message, holding


def _taken_too_often(job: Json, pods: Sequence[Json]) -> Failure | None:
    """Why a job whose pod is a new one may start no more, after the cluster took the others."""
    allowed = (job["metadata"].get("annotations") or {}).get(INFRA_RETRIES, "")
    times = _counted(pods[-1], "ignored-failure")
    if not allowed.isdigit() or times <= int(allowed):
        return None
    why = failure(FailureCategory.INFRASTRUCTURE, taken_too_often(times, int(allowed)))
    return _after_disruption(why, pods[:-1])


def _after_disruption(why: Failure, earlier: Sequence[Json]) -> Failure:
    """Return why a job ended that was disrupted too often, by what the pods before it tell."""
    for pod in reversed(earlier):
        told = pod_failure(pod)
        if told is not None and told[0].category in DISRUPTED:
            return Failure(told[0].category, f"{told[0].message} {why.message}", told[0].hint)
    return why


def _is_abandoned(job: Json, now: datetime) -> bool:
    metadata = job["metadata"]
    if SUBMITTING not in (metadata.get("annotations") or {}):
        return False
    return age_s(metadata["creationTimestamp"], now) > _SUBMITTING_S


def queue_of(job: Json) -> str:
    """Return the queue of Kueue that a Job names; empty if it names none."""
    return str(job["metadata"].get("labels", {}).get(LABEL_QUEUE, ""))


def _not_created(events: Iterable[Json]) -> Failure | None:
    """Why the controller cannot create a pod."""
    event = _newest(event for event in events if event.get("reason") == "FailedCreate")
    if event is None:
        return None
    text = str(event.get("message"))
    return failure(not_created(text), f"The pod cannot be created: {text}")


def _not_started(pod: Json, events: Iterable[Json]) -> Failure | None:
    """Why a node does not start a pod's containers, where their states do not say it."""
    if "PodReadyToStartContainers" in true_conditions(pod):
        return None  # it got its volumes and its network; the events are old
    uid = pod["metadata"]["uid"]
    event = _newest(
        event
        for event in events
        if event.get("reason") in _NODE_REASONS and event["involvedObject"].get("uid") == uid
    )
    if event is None:
        return None
    text = f"{event['reason']}: {event.get('message')}"
    missing = event["reason"] == "FailedMount" and _MISSING_VOLUME.search(text)
    category = FailureCategory.INVALID_CONFIG if missing else FailureCategory.INFRASTRUCTURE
    return failure(category, f"The node cannot start the pod: {text}")


def _newest(events: Iterable[Json]) -> Json | None:
    return max(
        events,
        key=lambda e: str(e.get("lastTimestamp") or e.get("eventTime") or ""),
        default=None,
    )


def pod_state(pod: Json) -> tuple[JobState, str, Failure | None]:
    """Return the state of a job whose newest pod this is, while the Job itself is not finished."""
    status = pod.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            text = str(condition.get("message") or "waits for a node")
            return JobState.QUEUED, text, failure(FailureCategory.UNSCHEDULABLE, text)
    main = {c["name"]: c for c in status.get("containerStatuses") or []}.get(CONTAINER)
    main_state = main["state"] if main is not None else {}
    if "terminated" in main_state:
        return JobState.RUNNING, _ENDING, None
    lost = node_lost(pod)
    if "running" in main_state or lost is not None:
        state = JobState.RUNNING if "running" in main_state else JobState.STARTING
        return state, lost.message if lost else "", lost
    first = next((c for c in preparing(pod) if "terminated" not in c["state"]), main)
    if first is None:
        placed = bool(pod["spec"].get("nodeName"))
        return (JobState.STARTING if placed else JobState.QUEUED), "waits for its node", None
    # A sidecar that cannot start holds back the containers after it, and they do not say so.
    waits = [_waiting(container) for container in (first, *container_statuses(pod))]
    return next((found for found in waits if found[2] is not None), waits[0])


def _waiting(container: Json) -> tuple[JobState, str, Failure | None]:
    waiting = container["state"].get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    text = f"{reason}: {waiting.get('message')}" if waiting.get("message") else reason
    if reason in IMAGE_REASONS:
        return JobState.STARTING, text, _not_pulled(container.get("image"), text)
    if reason in CONFIG_REASONS:
        message = f"The container cannot be created: {text}"
        return JobState.STARTING, text, failure(FailureCategory.INVALID_CONFIG, message)
    words = {CONTAINER: "is being started", SOURCE_CONTAINER: "fetches its source"}
    name = str(container["name"])
    return JobState.STARTING, words.get(name, f"waits for its container {name!r}"), None


def _not_pulled(image: object, text: str) -> Failure:
    if TRANSIENT_PULL.search(text):
        return Failure(
            FailureCategory.INFRASTRUCTURE,
            f"The image {image!r} cannot be pulled yet, its registry or the node limits how often "
            f"images are pulled: {text}",
            "Submit it again later; pull with credentials (image_pull_secrets) or from a mirror.",
        )
    message = f"The image {image!r} cannot be pulled: {text}"
    if PULL_DENIED.search(text):
        hint = "Its registry asks for credentials: check image_pull_secrets, and the image's name."
        return Failure(FailureCategory.IMAGE_PULL, message, hint)
    return failure(FailureCategory.IMAGE_PULL, message)


def _passes(why: Failure) -> bool:
    limited = why.category is FailureCategory.INFRASTRUCTURE
    return limited and TRANSIENT_PULL.search(why.message) is not None


def _why_failed(condition: Json, pods: Sequence[Json]) -> tuple[Failure, int | None]:
    if condition.get("reason") == _DEADLINE:
        return failure(FailureCategory.DEADLINE, _LATE), None
    for number in reversed(range(len(pods))):
        found = pod_failure(pods[number])
        if found is not None and found[1] == EXIT_DISRUPTED:  # it only counted the disruptions
            return _after_disruption(found[0], pods[:number]), None
        if found is not None:
            return found
    text = f"{condition.get('reason')}: {condition.get('message')}"
    return failure(FailureCategory.INFRASTRUCTURE, f"The job failed: {text}"), None


def pod_failure(pod: Json) -> tuple[Failure, int | None] | None:
    """Return why a pod failed, and its exit code; None if it did not fail, or nothing says so."""
    terminated = _terminated(pod)
    told = parse_ending(str(terminated.get("message") or ""))
    exit_code = terminated.get("exitCode")
    if told is not None and told[0] is not None:
        return told[0], told[1]
    disruption = true_conditions(pod).get("DisruptionTarget")
    if disruption is not None or (pod.get("status") or {}).get("reason") == "Evicted":
        source = disruption or pod["status"]
        category = DISRUPTIONS.get(str(source.get("reason")), FailureCategory.EVICTED)
        text = f"{DISRUPTED[category]} ({source.get('reason')}: {source.get('message')})."
        return failure(category, text), exit_code
    if terminated.get("reason") == "OOMKilled":
        message = "The container was killed because it used more memory than its limit."
        return failure(FailureCategory.OUT_OF_MEMORY, message), exit_code
    if terminated.get("reason") in ("StartError", "ContainerCannotRun"):
        message = f"The container cannot be started: {terminated.get('message')}"
        return failure(FailureCategory.INVALID_CONFIG, message), exit_code
    if terminated.get("container") == SOURCE_CONTAINER:
        said = last_words(str(terminated.get("message") or ""))
        message = f"Fetching the source failed: {said or f'exit code {exit_code}'}"
        return failure(FailureCategory.SOURCE_FETCH, message), exit_code
    if exit_code == EXIT_STOPPED or (exit_code and pod["metadata"].get("deletionTimestamp")):
        # An exit that the first step saw itself was told above; this one came from outside.
        text = "The pod was deleted, or stopped from outside, before the job had ended."
        return failure(FailureCategory.INFRASTRUCTURE, text), exit_code
    if exit_code == EXIT_OVER:
        text = "The run had ended before the job started, and nothing was run."
        return failure(FailureCategory.INFRASTRUCTURE, text), exit_code
    if exit_code and terminated["container"] != CONTAINER:
        text = f"The container {terminated['container']!r} exited with code {exit_code}."
        return Failure(FailureCategory.USER_ERROR, text, "Its own log says why."), exit_code
    return (user_error(exit_code), exit_code) if exit_code else None


def _terminated(pod: Json) -> dict[str, Any]:
    """Return how the container that failed the pod ended, with its name as ``container``."""
    status = pod.get("status") or {}
    others = sorted(
        status.get("containerStatuses") or (), key=lambda item: item["name"] != CONTAINER
    )
    for item in [*preparing(pod), *others]:
        ended = item["state"].get("terminated")
        if ended and ended.get("exitCode"):
            return {**ended, "container": item["name"]}
    return {}


def _attempt(pods: Sequence[Json]) -> int:
    counted = ("failure", "ignored-failure")
    return 1 + sum(_counted(pods[-1], name) for name in counted) if pods else 1


def _counted(pod: Json, what: str) -> int:
    """Return what the controller has counted before it made a pod."""
    annotations = pod["metadata"].get("annotations") or {}
    return int(annotations.get(f"batch.kubernetes.io/job-index-{what}-count") or 0)

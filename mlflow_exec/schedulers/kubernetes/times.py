"""How long a job has waited, told by the cluster's own records and clock. Pure.

The machines of a cluster have clocks of their own. The times at which objects were created are the
API server's; those that other components wrote are never taken for longer ago than these.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from mlflow_exec.clients.kubernetes_disruptions import true_conditions
from mlflow_exec.jobs import JobState
from mlflow_exec.schedulers.kubernetes.objects import container_statuses

Json = Mapping[str, Any]

# https://github.com/kubernetes/kubernetes/blob/v1.34.1/pkg/kubelet/events/event.go
_PULL_FAILED = {"Failed", "InspectFailed", "ErrImageNeverPull"}


def age_s(time: str, now: datetime) -> float:
    """Return how long ago a time of the cluster was; 0 for one that is still to come."""
    return max(0.0, (now - _moment(time)).total_seconds())


def _moment(time: str) -> datetime:
    return datetime.fromisoformat(time.replace("Z", "+00:00"))


def waited_s(
    state: JobState, job: Json, pods: Sequence[Json], attempt: int, now: datetime
) -> float | None:
    """Return how long a job that nothing suspends has been QUEUED or STARTING.

    Args:
        state: The job's state.
        job: The Job.
        pods: Its pods, the oldest first.
        attempt: Which start of the job this is.
        now: By the API server's clock.

    Returns:
        None in another state, and where the cluster has not noted it.
    """
    if state is JobState.STARTING and pods:
        conditions = (pods[-1].get("status") or {}).get("conditions") or []
        since = [c.get("lastTransitionTime") for c in conditions if c["type"] == "PodScheduled"]
        return _at_most(since[0] if since else None, pods[-1], now)
    if state not in (JobState.QUEUED, JobState.STARTING):
        return None
    if pods and (len(pods) > 1 or attempt > 1):  # an earlier start had its resources
        return age_s(pods[-1]["metadata"]["creationTimestamp"], now)
    # The controller sets it anew each time that a Job is resumed. The pod of an attempt stays
    # until that of the next one is there, so a Job without a pod has had none since then.
    resumed = "Suspended" not in true_conditions(job)
    started = (job.get("status") or {}).get("startTime") if resumed else None
    if not started and pods:  # it writes that down after it has made the pod
        return age_s(pods[-1]["metadata"]["creationTimestamp"], now)
    return _at_most(started, job, now)


def _at_most(since: str | None, item: Json, now: datetime) -> float | None:
    if not since:
        return None
    return min(age_s(since, now), age_s(item["metadata"]["creationTimestamp"], now))


def pull_failed_s(
    pod: Json, events: Sequence[Json], passing: re.Pattern[str], now: datetime
) -> float | None:
    """Return how long the image of a pod's container cannot be pulled, as its events tell.

    Args:
        pod: The pod.
        events: Events, others' among them.
        passing: Finds in a message what is a limit of the registry, which does not count.
        now: By the API server's clock.

    Returns:
        None where there is no such event (any more).
    """
    container = _pulling(pod)
    ours = [
        event
        for event in events
        if event["involvedObject"].get("uid") == pod["metadata"]["uid"]
        and event["involvedObject"].get("fieldPath", "").endswith(f"{{{container}}}")
        and event.get("reason") in _PULL_FAILED
    ]
    limited = [event for event in ours if passing.search(str(event.get("message")))]
    began = [
        age_s(event["metadata"]["creationTimestamp"], now)
        for event in ours
        if event not in limited
    ]
    if not began:
        return None
    return min([max(began), *(_last_s(event, now) for event in limited)])


def _pulling(pod: Json) -> str:
    """Return the container of a pod that waits first."""
    waiting = (i["name"] for i in container_statuses(pod) if "waiting" in i["state"])
    return str(next(waiting, ""))


def _last_s(event: Json, now: datetime) -> float:
    """Return how long ago an event happened for the last time.

    Between two times of the node's clock lies the same as between two of the API server's.
    """
    first, last = event.get("firstTimestamp"), event.get("lastTimestamp")
    repeated_s = (_moment(last) - _moment(first)).total_seconds() if first and last else 0.0
    return max(0.0, age_s(event["metadata"]["creationTimestamp"], now) - repeated_s)

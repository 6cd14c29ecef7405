"""How long a job has waited, by the times that a cluster has written down."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

from mlflow_exec.jobs import JobState, JobStatus
from mlflow_exec.schedulers.kubernetes.status import job_status
from tests.unit.test_kubernetes_status import job, pod, terminated, waiting

Json = dict[str, Any]

NOON = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
SUSPENDED = ("Suspended", "JobSuspended", "Job suspended")
PULL = "Failed to pull image \"x\": not found"
LIMIT = "Failed to pull image \"x\": 429 Too Many Requests"


def ago(seconds: float) -> str:
    return (NOON - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def submitted(
    created_s: float, resumed_s: float | None = None, *conditions: Any, **changes: Any
) -> Json:
    """Return a Job that was created, and resumed, so long ago."""
    item = job(*conditions, **changes)
    item["metadata"]["creationTimestamp"] = ago(created_s)
    if resumed_s is not None:
        item["status"]["startTime"] = ago(resumed_s)
    return item


def unschedulable(born_s: float, **changes: Any) -> Json:
    condition = {"type": "PodScheduled", "status": "False", "message": "0/1 nodes"}
    return pod(conditions=(condition,), born=ago(born_s), node=None, **changes)


def placed(born_s: float, placed_s: float, reason: str = "ContainerCreating") -> Json:
    """Return a pod that got its node so long ago, and whose container waits."""
    moment = {"type": "PodScheduled", "status": "True", "lastTransitionTime": ago(placed_s)}
    return pod(("job", waiting(reason)), conditions=(moment,), born=ago(born_s))


def event(of: Json, message: str, first_s: float, last_s: float | None = None, ahead_s: float = 0,
          **changes: Any) -> Json:  # fmt: skip
    """Return an event of a pod, from a node whose clock is ahead."""
    last_s = first_s if last_s is None else last_s
    return {
        "reason": "Failed", "message": message,
        "metadata": {"creationTimestamp": ago(first_s)},
        "firstTimestamp": ago(first_s - ahead_s), "lastTimestamp": ago(last_s - ahead_s),
        "involvedObject": {"uid": of["metadata"]["uid"], "fieldPath": "spec.containers{job}"},
        **changes,
    }  # fmt: skip


def look(job: Json, *pods: Json, events: tuple[Json, ...] = ()) -> JobStatus:
    return job_status(job, pods, events, now=NOON)


def test_a_job_waits_for_its_first_pod_and_node_since_it_was_started() -> None:
    assert look(submitted(100, 90)).waits_s == 90
    unnoted = look(submitted(100), unschedulable(70))
    assert (unnoted.state, unnoted.waits_s) == (JobState.QUEUED, 70), "it makes the pod first"
    status = look(submitted(100, 90), unschedulable(70))
    assert (status.state, status.waits_s) == (JobState.QUEUED, 90)


def test_the_time_in_a_queue_or_suspended_does_not_count() -> None:
    held = look(submitted(5000, suspend=True, queue="team"))
    assert (held.held, held.waits_s) == (True, None)
    assert look(submitted(5000, 20)).waits_s == 20, "the controller notes when it was resumed"
    assert look(submitted(5000)).waits_s is None, "it has not noted it yet"
    assert look(submitted(5000, 4000, SUSPENDED)).waits_s is None, "nor that it was paused since"
    of_before = pod(("job", terminated(143)), born=ago(4000), counts=(1, 0))
    of_before["metadata"]["deletionTimestamp"] = ago(30)
    resumed = look(submitted(5000, 20), of_before)
    assert (resumed.state, resumed.waits_s) == (JobState.QUEUED, 20), "not since that pod was made"


def test_a_later_attempt_waits_since_its_own_pod_is_there() -> None:
    failed = pod(("job", {"terminated": {"exitCode": 1}}), born=ago(4000))
    assert look(submitted(5000, 5000), failed, unschedulable(30)).waits_s == 30
    alone = unschedulable(30, counts=(0, 1))  # the pod before was evicted, and is gone
    assert look(submitted(5000, 5000), alone).waits_s == 30


def test_a_start_takes_since_the_place_on_a_node() -> None:
    status = look(submitted(5000, 5000), placed(4000, 300))
    assert (status.state, status.waits_s) == (JobState.STARTING, 300)


def test_nothing_waits_longer_than_its_object_exists_whatever_a_components_clock_says() -> None:
    assert look(submitted(100, 700)).waits_s == 100
    assert look(submitted(5000, 5000), placed(40, 640)).waits_s == 40


def test_a_time_that_is_still_to_come_is_now() -> None:
    assert look(submitted(100, -600)).waits_s == 0


def test_running_waits_for_nothing() -> None:
    running = pod(("job", {"running": {}}), born=ago(1000))
    assert look(submitted(5000, 5000), running).waits_s is None


def test_nothing_is_told_without_the_clusters_clock() -> None:
    assert job_status(submitted(100, 90), []).waits_s is None


def test_a_pull_fails_since_its_first_event() -> None:
    starting = placed(900, 900, "ImagePullBackOff")
    assert look(submitted(900, 900), starting).fails_s is None, "no events were read"
    events = (event(starting, PULL, 200, 20), event(starting, "Error: ImagePullBackOff", 190, 10))
    assert look(submitted(900, 900), starting, events=events).fails_s == 200


def test_the_nodes_clock_does_not_matter() -> None:
    starting = placed(900, 900, "ErrImagePull")
    events = (event(starting, PULL, 200, 20, ahead_s=600), event(starting, PULL, 20, ahead_s=-600))
    assert look(submitted(900, 900), starting, events=events).fails_s == 200


def test_events_of_other_pods_containers_and_kinds_do_not_count() -> None:
    starting = placed(900, 900, "ErrImagePull")
    other = {"uid": starting["metadata"]["uid"], "fieldPath": "spec.initContainers{source}"}
    events = (
        event(pod(born="elsewhere"), PULL, 800),
        event(starting, PULL, 700, involvedObject=other),
        event(starting, "Pulling image", 600, reason="Pulling"),
        event(starting, PULL, 50),
    )
    assert look(submitted(900, 900), starting, events=events).fails_s == 50


def test_what_a_registrys_limit_took_does_not_count() -> None:
    starting = placed(900, 900, "ErrImagePull")
    general = event(starting, "Error: ErrImagePull", 500, 5)
    limited = event(starting, LIMIT, 500, 60, ahead_s=600)
    after = (general, limited, event(starting, PULL, 40))
    assert look(submitted(900, 900), starting, events=after).fails_s == 60

"""Native objects as a cluster gave them, cut to what counts, and what we say of them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlflow_exec.clients.kubernetes_disruptions import DISRUPTIONS
from mlflow_exec.clients.kubernetes_reasons import IMAGE_REASONS
from mlflow_exec.jobs import FailureCategory, JobState, JobStatus
from mlflow_exec.runtime.end import EXIT_DISRUPTED
from mlflow_exec.schedulers.kubernetes.status import job_status

Json = dict[str, Any]


def job(*conditions: tuple[str, str, str], suspend: bool = False, queue: str = "") -> Json:
    """Return a Job with true conditions: type, reason, message."""
    labels = {"kueue.x-k8s.io/queue-name": queue} if queue else {}
    found = [
        {"type": kind, "status": "True", "reason": reason, "message": message}
        for kind, reason, message in conditions
    ]
    return {
        "metadata": {"name": "mlflow-x-1", "uid": "u", "labels": labels},
        "spec": {"suspend": suspend},
        "status": {"conditions": found} if found else {},
    }


def pod(
    *containers: tuple[str, Json],
    init: tuple[str, Json] | None = None,
    conditions: tuple[Json, ...] = (),
    node: str | None = "n1",
    born: str = "2026-01-01T00:00:00Z",
    counts: tuple[int, int] | None = None,
    **status: Any,
) -> Json:
    """Return a pod whose containers are in these states."""
    annotations = {}
    if counts is not None:
        annotations = {
            "batch.kubernetes.io/job-index-failure-count": str(counts[0]),
            "batch.kubernetes.io/job-index-ignored-failure-count": str(counts[1]),
        }
    found = {"conditions": list(conditions), **status}
    if containers:
        found["containerStatuses"] = [
            {"name": name, "image": "the-image", "state": state} for name, state in containers
        ]
    if init:
        found["initContainerStatuses"] = [{"name": init[0], "image": "git", "state": init[1]}]
    metadata = {"name": "p", "uid": born, "creationTimestamp": born, "annotations": annotations}
    return {"metadata": metadata, "spec": {"nodeName": node} if node else {}, "status": found}


def waiting(reason: str, message: str = "") -> Json:
    return {"waiting": {"reason": reason, **({"message": message} if message else {})}}


def terminated(exit_code: int, reason: str = "Error", message: str = "") -> Json:
    return {"terminated": {"exitCode": exit_code, "reason": reason, "message": message}}


RUNNING = {"running": {"startedAt": "2026-01-01T00:00:05Z"}}
FAILED = job(("Failed", "MaxFailedIndexesExceeded", "Job has exceeded the limit of failed indexes"))
FULL = {
    "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
    "message": "0/1 nodes are available: 1 Insufficient cpu.",
}  # fmt: skip


def told(state: str, category: str | None, exit_code: int, message: str = "It went wrong.") -> str:
    """Return what the job's first step writes as its termination message."""
    return json.dumps({"state": state, "category": category, "message": message, "hint": "Do so.",
                       "exit_code": exit_code})  # fmt: skip


HAS_VOLUMES = {"type": "PodReadyToStartContainers", "status": "True"}
NOT_READY = {"type": "Ready", "status": "False"}
CONTAINERS_READY = {"type": "ContainersReady", "status": "True"}
TAKEN = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
CREATING = pod(("job", waiting("ContainerCreating")))


def mount(message: str, uid: str = CREATING["metadata"]["uid"]) -> Json:
    """Return the event of a volume that a node cannot mount."""
    return {"reason": "FailedMount", "message": message, "involvedObject": {"uid": uid}}


# It had to go when the Job was suspended; its container has ended, and its record is there still.
OF_BEFORE = pod(("job", terminated(143)))
OF_BEFORE["metadata"]["deletionTimestamp"] = "2026-01-01T00:05:00Z"
RESUMED = job()
RESUMED["status"]["startTime"] = "2026-01-01T00:10:00Z"

LIVE: dict[str, tuple[JobStatus, tuple[str, str | None, str, bool]]] = {
    "suspended": (
        job_status(job(suspend=True), []), ("QUEUED", None, "is suspended", True)),
    "in a queue": (
        job_status(job(suspend=True, queue="team-a"), []), ("QUEUED", None, "'team-a'", True)),
    "in a queue that says why": (
        job_status(job(suspend=True, queue="team-a"), [], kueue="no quota"),
        ("QUEUED", None, "'team-a': no quota", True)),
    "just let go on by its queue": (
        job_status(job(("Suspended", "JobSuspended", "")), [OF_BEFORE]),
        ("QUEUED", None, "waits for its pod", False)),
    "let go on by its submission, which its controller has not seen": (
        job_status(job(("Suspended", "JobSuspended", "")), []),
        ("QUEUED", None, "waits for its pod", False)),
    "resumed before its earlier pod is gone": (
        job_status(RESUMED, [OF_BEFORE]), ("QUEUED", None, "waits for its pod", False)),
    "without a pod": (job_status(job(), []), ("QUEUED", None, "waits for its pod", False)),
    "not yet looked at": (
        job_status(job(), [pod(node=None)]), ("QUEUED", None, "waits for its node", False)),
    "no node fits": (
        job_status(job(), [pod(node=None, conditions=(FULL,))]),
        ("QUEUED", "unschedulable", "Insufficient cpu", False)),
    "placed": (job_status(job(), [pod()]), ("STARTING", None, "", False)),
    "image on its way": (
        job_status(job(), [pod(("job", waiting("ContainerCreating")))]),
        ("STARTING", None, "is being started", False)),
    "source on its way": (
        job_status(job(), [pod(("job", waiting("PodInitializing")), init=("source", RUNNING))]),
        ("STARTING", None, "fetches its source", False)),
    "source is there": (
        job_status(job(), [pod(("job", RUNNING),
                               init=("source", terminated(0, "Completed")))]),
        ("RUNNING", None, "", False)),
    "running": (job_status(job(), [pod(("job", RUNNING))]), ("RUNNING", None, "", False)),
    "running beside a sidecar that waits": (
        job_status(job(), [pod(("side", waiting("ContainerCreating")), ("job", RUNNING))]),
        ("RUNNING", None, "", False)),
    "just ended": (
        job_status(job(), [pod(("job", terminated(7)))]), ("RUNNING", None, "has ended", False)),
    "a registry that says no": (
        job_status(job(), [pod(("job", waiting("ErrImagePull", "not found")))]),
        ("STARTING", "image_pull", "not found", False)),
    "a registry that limits": (
        job_status(job(), [pod(("job", waiting("ImagePullBackOff", "429 Too Many Requests")))]),
        ("STARTING", "infrastructure", "429", True)),
    "a node that limits": (
        job_status(job(), [pod(("job", waiting("ErrImagePull", "pull QPS exceeded")))]),
        ("STARTING", "infrastructure", "QPS", True)),
    "a digest with 429 in it": (
        job_status(job(), [pod(("job", waiting("ErrImagePull", "x@sha256:a429b: not found")))]),
        ("STARTING", "image_pull", "not found", False)),
    "a Secret that is not there": (
        job_status(job(), [pod(("job", waiting("CreateContainerConfigError",
                                               'secret "hf" not found')))]),
        ("STARTING", "invalid_config", 'secret "hf" not found', False)),
    "a volume that is not there": (
        job_status(job(), [CREATING], [mount('secret "tls" not found')]),
        ("STARTING", "invalid_config", 'secret "tls" not found', False)),
    "a volume that cannot be had now": (
        job_status(job(), [CREATING], [mount("timed out waiting for the condition")]),
        ("STARTING", "infrastructure", "timed out", False)),
    "a volume of another pod": (
        job_status(job(), [CREATING], [mount('secret "tls" not found', uid="other")]),
        ("STARTING", None, "is being started", False)),
    "a volume that came late": (
        job_status(job(), [pod(("job", waiting("ContainerCreating")), conditions=(HAS_VOLUMES,))],
                   [mount('secret "tls" not found')]),
        ("STARTING", None, "is being started", False)),
    "a node that does not answer": (
        job_status(job(), [pod(("job", RUNNING), conditions=(NOT_READY, CONTAINERS_READY))]),
        ("RUNNING", "node_lost", "'n1' does not answer", False)),
    "a pod that is not ready by itself": (
        job_status(job(), [pod(("job", RUNNING), conditions=(
            NOT_READY, CONTAINERS_READY | {"status": "False"}))]),
        ("RUNNING", None, "", False)),
    "a pod that waits for a gate of its own": (
        job_status(job(), [pod(("job", RUNNING), conditions=(
            NOT_READY | {"reason": "ReadinessGatesNotReady"}, CONTAINERS_READY))]),
        ("RUNNING", None, "", False)),
    "a pod that is deleted from a lost node": (
        job_status(job(), [pod(("job", RUNNING), conditions=(TAKEN,))]),
        ("RUNNING", "node_lost", "'n1' does not answer", False)),
    "a pod that a lost node did not start": (
        job_status(job(), [pod(("job", waiting("ContainerCreating")), conditions=(TAKEN,))]),
        ("STARTING", "node_lost", "'n1' does not answer", False)),
    "a pod that is being evicted": (
        job_status(job(), [pod(("job", RUNNING), conditions=(
            TAKEN | {"reason": "EvictionByEvictionAPI"},))]),
        ("RUNNING", None, "", False)),
}  # fmt: skip


@pytest.mark.parametrize("case", LIVE)
def test_a_live_job(case: str) -> None:
    status, (state, category, message, held) = LIVE[case]
    assert status.state.value == state
    assert (status.failure.category.value if status.failure else None) == category
    assert message in status.message
    assert status.held is held


@pytest.mark.parametrize("reason", sorted(IMAGE_REASONS))
def test_every_reason_of_an_image_is_one(reason: str) -> None:
    status = job_status(job(), [pod(("job", waiting(reason)))])
    assert status.failure is not None
    assert status.failure.category is FailureCategory.IMAGE_PULL
    assert "'the-image'" in status.failure.message
    assert status.failure.hint


@pytest.mark.parametrize(
    ("message", "category", "state"),
    [
        ('pods "x" is forbidden: exceeded quota: team, requested: cpu=1', "quota", "QUEUED"),
        ('pods "x" is forbidden: error looking up service account a/b: serviceaccount "b" not '
         "found", "invalid_config", "STARTING"),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', "permission",
         "STARTING"),
        ('Pod "x" is invalid: spec.containers[0].image: Required value', "invalid_config",
         "STARTING"),
        ('Internal error occurred: failed calling webhook "a.b.c": dial tcp', "infrastructure",
         "STARTING"),
    ],
)  # fmt: skip
def test_a_pod_that_cannot_be_created(message: str, category: str, state: str) -> None:
    events = [
        {"reason": "SuccessfulCreate"},
        {"reason": "FailedCreate", "message": message, "lastTimestamp": "2026-01-01T00:00:09Z"},
        {"reason": "FailedCreate", "message": "?", "lastTimestamp": "2026-01-01T00:00:01Z"},
    ]
    status = job_status(job(), [], events)
    assert status.state.value == state, "only a quota may be waited for without an end"
    assert status.failure is not None
    assert status.failure.category.value == category
    assert message in status.message


ENDS: dict[str, tuple[list[Json], Json, tuple[str, int | None]]] = {
    "an exit code": ([pod(("job", terminated(7)))], FAILED, ("user_error", 7)),
    "what the first step told": (
        [pod(("job", terminated(82, message=told("FAILED", "environment_setup", 82))))],
        FAILED, ("environment_setup", 82)),
    "what the first step told of the entry point": (
        [pod(("job", terminated(1, message=told("FAILED", "user_error", 81))))],
        FAILED, ("user_error", 81)),
    "told at the end of a log": (
        [pod(("job", terminated(7, message="a\nmlflow-exec-end: "
                                + told("FAILED", "out_of_memory", 137))))],
        FAILED, ("out_of_memory", 137)),
    "memory": ([pod(("job", terminated(137, "OOMKilled")))], FAILED, ("out_of_memory", 137)),
    "memory of a sidecar": (
        [pod(("side", terminated(137, "OOMKilled")), ("job", terminated(7)))],
        FAILED, ("user_error", 7)),
    "a command that is not in the image": (
        [pod(("job", terminated(128, "StartError", "exec: python3: not found")))],
        FAILED, ("invalid_config", 128)),
    "a clone that failed": (
        [pod(("job", waiting("PodInitializing")),
             init=("source", terminated(128, message="fatal: repository not found")))],
        FAILED, ("source_fetch", 128)),
    "a container of the user's own beside the job": (
        [pod(("job", terminated(0)), ("proxy", terminated(3)))],
        FAILED, ("user_error", 3)),
    "the deadline": (
        [pod(("job", terminated(143)))],
        job(("Failed", "DeadlineExceeded", "Job was active longer than specified deadline")),
        ("deadline", None)),
    "a full node": (
        [pod(reason="Evicted", message="The node was low on resource: memory.", phase="Failed")],
        FAILED, ("evicted", None)),
    "nothing is known": ([], FAILED, ("infrastructure", None)),
    "the last attempt counts": (
        [pod(("job", terminated(137, "OOMKilled")), born="2026-01-01T00:00:01Z"),
         pod(("job", terminated(7)), born="2026-01-01T00:00:09Z")],
        FAILED, ("user_error", 7)),
}  # fmt: skip


@pytest.mark.parametrize("case", ENDS)
def test_a_failed_job(case: str) -> None:
    pods, native, (category, exit_code) = ENDS[case]
    for order in (pods, pods[::-1]):
        status = job_status(native, order)
        assert status.state is JobState.FAILED
        assert status.failure is not None
        assert (status.failure.category.value, status.exit_code) == (category, exit_code)
        assert status.failure.message


@pytest.mark.parametrize("reason", sorted(DISRUPTIONS))
def test_every_disruption_is_the_clusters(reason: str) -> None:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": "m"}
    status = job_status(FAILED, [pod(("job", terminated(143)), conditions=(condition,))])
    assert status.failure is not None
    assert status.failure.category is DISRUPTIONS[reason]
    assert status.failure.category is not FailureCategory.USER_ERROR
    assert "infra_retries" in status.failure.hint


def test_the_disruption_that_was_one_too_many_is_told_by_the_pod_that_it_took() -> None:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
                 "message": "Eviction API: evicting"}  # fmt: skip
    words = told("FAILED", "infrastructure", EXIT_DISRUPTED, "Once, and 0 are allowed.")
    counted = pod(("job", terminated(EXIT_DISRUPTED, message=words)), born="2026-01-01T00:00:09Z")
    evicted = pod(("job", terminated(143)), conditions=(condition,))
    why = job_status(FAILED, [evicted, counted]).failure
    assert why is not None
    assert why.category is FailureCategory.EVICTED
    assert "Eviction API: evicting" in why.message
    assert "Once, and 0 are allowed." in why.message
    alone = job_status(FAILED, [counted]).failure
    assert alone is not None
    assert alone.category is FailureCategory.INFRASTRUCTURE, "nobody knows what they were"


@pytest.mark.parametrize(
    ("said", "hint"),
    [
        ("pull access denied, repository does not exist or may require authorization", "secrets"),
        ("unexpected status code 401 Unauthorized", "image_pull_secrets"),
        ("manifest unknown: not found", "name and tag"),
    ],
)
def test_the_hint_for_an_image_is_of_what_the_registry_said(said: str, hint: str) -> None:
    why = job_status(job(), [pod(("job", waiting("ErrImagePull", said)))]).failure
    assert why is not None
    assert why.category is FailureCategory.IMAGE_PULL
    assert hint in why.hint


def test_success() -> None:
    done = job(("SuccessCriteriaMet", "CompletionsReached", ""), ("Complete", "", ""))
    status = job_status(done, [pod(("job", terminated(0, "Completed")))])
    assert (status.state, status.exit_code, status.failure) == (JobState.SUCCEEDED, 0, None)


def test_a_job_that_is_about_to_fail_has_not_failed() -> None:
    failing = job(("FailureTarget", "MaxFailedIndexesExceeded", ""))
    assert job_status(failing, [pod(("job", terminated(7)))]).state is JobState.RUNNING
    assert job_status(failing, []).state is JobState.RUNNING, "its pod is gone, and no other comes"


def test_a_condition_that_is_false_says_nothing() -> None:
    native = job(("Failed", "", ""))
    native["status"]["conditions"][0]["status"] = "False"
    assert job_status(native, [pod(("job", RUNNING))]).state is JobState.RUNNING


@pytest.mark.parametrize(("counts", "attempt"), [(None, 1), ((0, 0), 1), ((1, 0), 2), ((2, 3), 6)])
def test_attempts_are_the_controllers_count(counts: tuple[int, int] | None, attempt: int) -> None:
    assert job_status(job(), [pod(("job", RUNNING), counts=counts)]).attempt == attempt


def test_the_record_is_kept_and_fits_into_json() -> None:
    events = [{"type": "Warning", "reason": "BackOff", "message": "m", "secret": "s"}]
    native = job_status(FAILED, [pod(("job", terminated(7)))], events).native
    assert native["job"]["status"]["conditions"][0]["type"] == "Failed"
    assert native["pods"][0]["node"] == "n1"
    assert native["events"][0]["reason"] == "BackOff"
    assert "secret" not in native["events"][0]
    json.dumps(native)


def test_a_pod_that_was_deleted_is_not_the_users_failure() -> None:
    stopped = pod(("job", terminated(143)), phase="Failed")
    killed = pod(("job", terminated(137)), phase="Failed")  # it did not listen
    killed["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    for gone in (stopped, killed):
        status = job_status(job(("Failed", "MaxFailedIndexesExceeded", "")), [gone])
        assert status.failure is not None
        assert status.failure.category is FailureCategory.INFRASTRUCTURE


def source_failure(said: str) -> str:
    """Return the message about a clone that failed with this output."""
    waits = ("job", waiting("PodInitializing"))
    cloning = pod(waits, init=("source", terminated(128, message=said)))
    return job_status(FAILED, [cloning]).message.removeprefix("Fetching the source failed: ")


def test_the_last_lines_of_git_are_the_reason() -> None:
    said = "git@h: Permission denied (publickey).\r\nfatal: Could not read.\n\nPlease check\n"
    line = "git@h: Permission denied (publickey). fatal: Could not read. Please check"
    assert source_failure(said) == line
    assert source_failure("@" * 300 + "\n" + said) == line
    assert source_failure("x" * 999) == "x" * 999
    assert source_failure("") == "exit code 128"


def test_users_own_exit_143_is_the_users_failure() -> None:
    told = '{"state": "FAILED", "category": "user_error", "message": "m", "exit_code": 143}'
    ended = {"terminated": {"exitCode": 143, "reason": "Error", "message": told}}
    status = job_status(job(("Failed", "MaxFailedIndexesExceeded", "")), [pod(("job", ended))])
    assert status.failure is not None
    assert status.failure.category is FailureCategory.USER_ERROR

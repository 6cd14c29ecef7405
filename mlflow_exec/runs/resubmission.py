"""Submits a job again that its cluster took: ``infra_retries`` where the system itself has none.

Whoever finds such a job does it, a living client or a reconciler, in steps that can be repeated:

1. the log so far is kept on the run, with a line that says why it goes on;
2. the run waits again;
3. the job is submitted under its next name, a function of the run and a number, so that whoever
   comes second finds what the first has submitted;
4. the run names the new job.

Until the fourth step the run names the job that has ended, so where one dies in between another
comes to the same decision and goes on. What is submitted is the first plan, with its data: both
are kept on the run, because the cluster's own copy may be gone with it, and files that the settings
name are on the first machine only. (``manifest.yaml`` is for people: not every text comes back from
YAML as it was.)
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mlflow_exec.errors import (
    AccessDeniedError,
    ArtifactError,
    MlflowExecError,
    UnreachableError,
)
from mlflow_exec.jobs import (
    JOB_NAME,
    Failure,
    FailureCategory,
    JobHandle,
    JobState,
    JobStatus,
)
from mlflow_exec.runs.artifacts import RunArtifacts
from mlflow_exec.runs.ending import written_end
from mlflow_exec.runs.job import Job
from mlflow_exec.runs.logs import FOLDER, LogKeeper
from mlflow_exec.runs.progress import Progress
from mlflow_exec.runtime.end import (
    FAILURE_TAGS,
    RESERVED_EXIT_CODES,
    TAG_CANCEL,
    TAG_HANDLE,
    TAG_HANDLE_UID,
    TAG_INFRA_RETRIES,
    TAG_LOG_COMPLETE,
    TAG_STATE,
)
from mlflow_exec.schedulers.base import Plan, Scheduler
from mlflow_exec.settings import BackendSettings

SUBMISSION = f"{FOLDER}/submission"
_OBJECTS = "objects.json"

_TAKEN = frozenset({
    FailureCategory.PREEMPTED, FailureCategory.EVICTED, FailureCategory.NODE_LOST,
    FailureCategory.INFRASTRUCTURE,
})  # fmt: skip


def next_submission(handle: str | None) -> int:
    """Return the number of a run's next job, after the one that the run names, if any."""
    if not handle:
        return 1
    match = JOB_NAME.match(JobHandle.parse(handle).name)
    return int(match.group(2)) + 1 if match else 1


def keep_submission(
    artifacts: RunArtifacts, plan: Plan, scheduler: Scheduler, settings: BackendSettings
) -> None:
    """Put on a run what its job's submission needs to be repeated; no secret is in a plan."""
    if scheduler.submits_again:
        objects = json.dumps([dict(item) for item in plan.objects]).encode()
        data = plan.data if settings.infra_retries else {}
        for name, content in {**data, _OBJECTS: objects}.items():
            artifacts.write(f"{SUBMISSION}/{name}", content)


def kept_objects(job: Job) -> list[Mapping[str, Any]]:
    """Return the objects of the run's submission; none if they were not kept.

    Raises:
        ArtifactError: The run's artifacts cannot be had now.
    """
    try:
        path = f"{SUBMISSION}/{_OBJECTS}"
        found = path in job.artifacts.paths(SUBMISSION)
        return list(json.loads(job.artifacts.read(path))) if found else []
    except Exception as error:  # each artifact store has errors of its own
        raise ArtifactError(f"run {job.run_id}: its artifacts cannot be read: {error}") from error


def may_go_on(job: Job, status: JobStatus, tags: Mapping[str, str]) -> bool:
    """Whether a job that ended so is to be submitted again, as far as its run's tags tell."""
    why = status.failure
    if not job.scheduler.submits_again or status.state is not JobState.FAILED or why is None:
        return False
    if status.hopeless:  # a clock has ended it, and what is left of it may live
        return False
    # The first step's own trouble is not the cluster's: it ends alike each time.
    taken = why.category in _TAKEN and status.exit_code not in RESERVED_EXIT_CODES
    open_ = written_end(tags) is None and not tags.get(TAG_CANCEL)
    return taken and open_ and used_retries(tags) < job.settings.infra_retries


def used_retries(tags: Mapping[str, str]) -> int:
    """Return how often the run's job was submitted again."""
    told = tags.get(TAG_INFRA_RETRIES, "")
    return int(told) if told.isdigit() else 0


def successor(job: Job, tags: Mapping[str, str]) -> Job | None:
    """Return the job that the run names instead of this one by now; None if it is this one."""
    named = tags.get(TAG_HANDLE)
    if not named or named == str(job.handle):
        return None
    return replace(job, handle=JobHandle.parse(named, tags.get(TAG_HANDLE_UID, "")))


def go_on(
    job: Job, status: JobStatus, keeper: LogKeeper, progress: Progress | None = None
) -> Job | JobStatus:
    """Return the job that goes on for one that has ended, submitted if need be; else the end.

    Args:
        job: The job.
        status: How it ended, as its scheduler says.
        keeper: Of its log.
        progress: Told what could not be done.

    Raises:
        UnreachableError: The cluster does not answer; nothing is decided.
        AccessDeniedError: It does not let this client submit; another one may.
        ArtifactError: The run's artifacts cannot be had now.
    """
    if not job.scheduler.submits_again:
        return status
    tags = job.store.read(job.run_id).tags
    later = successor(job, tags)
    if later is not None or not may_go_on(job, status, tags):
        return later or status
    count = used_retries(tags) + 1
    objects, data = _kept(job)
    if not objects:
        return _not_again(status, "what was submitted is not on the run (any more)")
    why = f"{job.handle.name} ended: {status.failure}"
    line = f"mlflow-exec: {why} It is submitted again ({count} of {job.settings.infra_retries})."
    trouble = keeper.go_on(job.scheduler, job.handle, line)
    if trouble and progress is not None:
        progress.say(trouble)
    found = _wait_again(job)
    if found is not None:
        return found
    try:
        handle = job.scheduler.submit_again(job.handle, objects, data, count)
    except (UnreachableError, AccessDeniedError):
        raise
    except MlflowExecError as error:
        return _not_again(status, str(error))
    return _named(replace(job, handle=handle), job, count)


def _kept(job: Job) -> tuple[list[Mapping[str, Any]], dict[str, bytes]]:
    """Return the objects and the data of the run's submission; none if they are gone."""
    try:
        kept = job.artifacts.paths(SUBMISSION)
        data = {path.rpartition("/")[2]: job.artifacts.read(path) for path in kept}
        return json.loads(data.pop(_OBJECTS, b"[]")), data
    except Exception as error:  # each artifact store has errors of its own
        raise ArtifactError(f"run {job.run_id}: its artifacts cannot be read: {error}") from error


def _wait_again(job: Job) -> Job | JobStatus | None:
    """Let the run wait as a new one does; return what somebody else made of it meanwhile."""
    tags = job.store.read(job.run_id).tags
    found = written_end(tags) or successor(job, tags)
    if found is not None:
        return found
    waiting = {TAG_STATE: JobState.QUEUED.value, TAG_LOG_COMPLETE: "false"}
    job.store.set_tags(job.run_id, waiting)
    job.store.delete_tags(job.run_id, [tag for tag in FAILURE_TAGS if tag in tags])
    job.store.set_status(job.run_id, "SCHEDULED", None)
    return None


def _named(new: Job, old: Job, count: int) -> Job | JobStatus:
    """Let the run name the new job, unless somebody has ended the run or gone further."""
    tags = new.store.read(new.run_id).tags
    ended = written_end(tags)
    if ended is not None:
        new.scheduler.cancel(new.handle, timeout_s=new.settings.cancel_timeout_s)
        return ended
    later = successor(old, tags)
    if later is not None:
        return later
    new.store.set_tags(
        new.run_id,
        {
            TAG_HANDLE: str(new.handle),
            TAG_HANDLE_UID: new.handle.uid,
            TAG_INFRA_RETRIES: str(count),
        },
    )
    return new


def _not_again(status: JobStatus, reason: str) -> JobStatus:
    why = status.failure
    assert why is not None
    text = f"{why.message} It could not be submitted again: {reason.rstrip('.')}."
    return replace(status, message=text, failure=Failure(why.category, text, why.hint))

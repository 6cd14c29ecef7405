"""An application's record in the ResourceManager as a `JobStatus`."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from mlflow_exec.jobs import JobState, JobStatus
from mlflow_exec.schedulers.yarn.diagnostics import ended_by, was_killed_by_somebody, why_failed
from mlflow_exec.schedulers.yarn.plan import MANAGED_BY

# https://hadoop.apache.org/docs/r3.4.1/hadoop-yarn/hadoop-yarn-site/ResourceManagerRest.html
_WAITING = ("NEW", "NEW_SAVING", "SUBMITTED", "ACCEPTED")
ENDED = ("FINISHED", "FAILED", "KILLED")
_KEPT = (
    "id", "user", "name", "queue", "state", "finalStatus", "diagnostics", "applicationTags",
    "priority", "startedTime", "launchTime", "finishedTime", "amContainerLogs",
    "amHostHttpAddress", "amNodeLabelExpression", "memorySeconds", "vcoreSeconds",
    "preemptedMemorySeconds", "preemptedVcoreSeconds", "numAMContainerPreempted",
    "logAggregationStatus", "clusterId",
)  # fmt: skip

Json = Mapping[str, Any]


def tags_of(record: Json) -> set[str]:
    """Return an application's tags."""
    return {tag for tag in str(record.get("applicationTags") or "").split(",") if tag}


def name_of(record: Json, run_id: str | None = None) -> str | None:
    """Return the job name among an application's tags: of a run, if one is named.

    YARN takes tags from everybody, so the three that we set have to agree.
    """
    tags = tags_of(record)
    if MANAGED_BY not in tags:
        return None
    for tag in sorted(tags):
        head, _, number = tag.rpartition("-")
        run = head.removeprefix("mlflow-")
        if number.isdigit() and head in tags and len(run) == 32 and run_id in (None, run):
            return tag
    return None


def has_container(record: Json) -> bool:
    """Whether YARN has placed the application's container."""
    return bool(record.get("amContainerLogs"))


def job_status(
    record: Json, *, runs: bool = False, log_tail: str = "", now: datetime | None = None
) -> JobStatus:
    """Return the status of a job.

    Args:
        record: The application as the ResourceManager's REST interface returns it.
        runs: Whether its container is known to run though the record does not say so: after a
            restart of the ResourceManager it says ACCEPTED until the application has come back.
        log_tail: The last lines of its log, where they were read.
        now: By the ResourceManager's own clock; None if not known.
    """
    state = str(record.get("state"))
    native = {"application": {key: record[key] for key in _KEPT if key in record}}
    usage = _usage(record)
    if state in ENDED:
        return _final(record, state, log_tail, native, usage)
    if state == "RUNNING" or (runs and state == "ACCEPTED"):
        return JobStatus(JobState.RUNNING, native=native, usage=usage)
    if state not in _WAITING:
        return JobStatus(JobState.UNKNOWN, f"YARN says {state!r}", native=native)
    placed = has_container(record)
    return JobStatus(
        JobState.STARTING if placed else JobState.QUEUED,
        "" if placed else _waits_for(record),
        waits_s=_waited_s(record, now, placed=placed),
        native=native,
        usage=usage,
    )


def _final(
    record: Json, state: str, log_tail: str, native: Json, usage: Mapping[str, float]
) -> JobStatus:
    diagnostics = str(record.get("diagnostics") or "")
    final = str(record.get("finalStatus"))
    if state == "FINISHED" and final == "SUCCEEDED":
        return JobStatus(JobState.SUCCEEDED, "", None, 0, native=native, usage=usage)
    if "KILLED" in (state, final):
        why = ended_by(diagnostics)
        if why is None:
            text = was_killed_by_somebody(diagnostics)
            return JobStatus(JobState.CANCELLED, text, native=native, usage=usage)
        return JobStatus(JobState.FAILED, why.message, why, native=native, usage=usage)
    failure, exit_code = why_failed(diagnostics, log_tail)
    return JobStatus(
        JobState.FAILED, failure.message, failure, exit_code, native=native, usage=usage
    )


def _waits_for(record: Json) -> str:
    """Return in one line what YARN says of an application that has no container."""
    text = " ".join(str(record.get("diagnostics") or "").split())
    queue = record.get("queue")
    return f"in queue {queue}: {text}" if text else f"in queue {queue}"


def _waited_s(record: Json, now: datetime | None, *, placed: bool) -> float | None:
    """Return how long it has been queued, or since its container was placed (milliseconds)."""
    since_ms = record.get("launchTime" if placed else "startedTime") or 0
    if now is None or not since_ms:
        return None
    return max(0.0, now.timestamp() - float(since_ms) / 1000)


def _usage(record: Json) -> dict[str, float]:
    """Return what the application used; YARN counts MiB-seconds and vcore-seconds."""
    names = {"memorySeconds": "memory_mib_seconds", "vcoreSeconds": "vcore_seconds"}
    return {
        ours: float(record[theirs])
        for theirs, ours in names.items()
        if float(record.get(theirs) or 0) > 0
    }

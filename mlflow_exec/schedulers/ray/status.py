"""What Ray's record of a job means."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from itertools import dropwhile
from typing import Any

from mlflow_exec.jobs import Failure, FailureCategory, JobState, JobStatus
from mlflow_exec.schedulers.ending import parse_ending, user_error
from mlflow_exec.schedulers.ray.plan import META_RETRIES

# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/dashboard/modules/job/common.py#L40
# PENDING covers waiting for resources and setting up the runtime environment; the record does not
# tell which.
STATES = {
    "PENDING": JobState.QUEUED,
    "RUNNING": JobState.RUNNING,
    "SUCCEEDED": JobState.SUCCEEDED,
    "FAILED": JobState.FAILED,
    "STOPPED": JobState.CANCELLED,
}

# JobErrorType in the same file. JOB_ENTRYPOINT_COMMAND_ERROR is told by the exit code.
ERROR_TYPES = {
    "RUNTIME_ENV_SETUP_FAILURE": FailureCategory.ENVIRONMENT_SETUP,
    "JOB_SUPERVISOR_ACTOR_START_TIMEOUT": FailureCategory.UNSCHEDULABLE,
    "JOB_SUPERVISOR_ACTOR_START_FAILURE": FailureCategory.INFRASTRUCTURE,
    "JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE": FailureCategory.UNSCHEDULABLE,
    "JOB_SUPERVISOR_ACTOR_UNKNOWN_FAILURE": FailureCategory.INFRASTRUCTURE,
    "JOB_SUPERVISOR_ACTOR_DIED": FailureCategory.INFRASTRUCTURE,
    "JOB_ENTRYPOINT_COMMAND_START_ERROR": FailureCategory.INFRASTRUCTURE,
}

# Exit codes of runtime/entry.py that are not the user's (RESERVED_EXIT_CODES in runtime/end.py),
# for where its last line was lost.
RESERVED_EXIT_CODES = {
    81: FailureCategory.SOURCE_FETCH,
    82: FailureCategory.ENVIRONMENT_SETUP,
    83: FailureCategory.INVALID_CONFIG,
    84: FailureCategory.INFRASTRUCTURE,
    85: FailureCategory.DEADLINE,
    87: FailureCategory.INFRASTRUCTURE,
}

_HINTS = {
    FailureCategory.ENVIRONMENT_SETUP: "Check runtime_env and the project's requirements.",
    FailureCategory.UNSCHEDULABLE: "Ask for less in resources, or give the cluster more; Ray gives "
    "up after RAY_JOB_START_TIMEOUT_SECONDS of its head node (900).",
    FailureCategory.PREEMPTED: "Submit it again, or raise infra_retries.",
    FailureCategory.NODE_LOST: "Submit it again, or raise infra_retries.",
    FailureCategory.OUT_OF_MEMORY: "Use less memory, or ask for a larger node by resources.memory.",
    FailureCategory.DEADLINE: "Raise deadline_s, or make the job shorter.",
}

# How Ray words these, in python/ray/_private and src/ray/gcs/actor/gcs_actor_manager.cc of 2.60.
_NEVER_RAN = "was cancelled before it started running"
_DEATHS = (
    ("the actor's node was preempted", FailureCategory.PREEMPTED),
    ("the actor's node was terminated", FailureCategory.NODE_LOST),
    ("because its node has died", FailureCategory.NODE_LOST),
    # Not "OOM" alone: Ray names it among the possible causes of every worker that is gone.
    ("due to the node running low on memory", FailureCategory.OUT_OF_MEMORY),
)

_TRACEBACK = "Traceback (most recent call last):"
_ACTOR = re.compile(r"^\t(class_name|actor_id|pid|name|namespace|ip): .*\n", re.MULTILINE)
# Before it stands the whole command (python/ray/_private/runtime_env/utils.py).
_OUTPUT = re.compile(r"Last \d+ lines of stdout:\n")
_REASON_CHARS = 300

Json = Mapping[str, Any]


def job_status(
    record: Json, log_tail: str = "", now: datetime | None = None
) -> JobStatus:
    """Return the status of a job.

    Args:
        record: The job as the Jobs API returns it.
        log_tail: The last lines of its log, where they were read beside the record.
        now: By the head node's own clock, which the record's times are from; None if not known.
    """
    state = STATES.get(str(record.get("status")), JobState.UNKNOWN)
    native = {"job": {key: value for key, value in record.items() if key != "runtime_env"}}
    message = str(record.get("message") or "")
    exit_code = _exit_code(record)
    if state is JobState.FAILED:
        if record.get("driver_node_id") is None and _NEVER_RAN in message:
            text = "The job was cancelled before it started."
            return JobStatus(JobState.CANCELLED, text, native=native)
        why, exit_code = _why_failed(record, message, exit_code, log_tail)
        return JobStatus(state, why.message, why, exit_code, native=native)
    if state is JobState.SUCCEEDED:
        return JobStatus(state, "", None, 0, native=native)
    if state is JobState.CANCELLED:
        message = "The job was stopped."
    return JobStatus(
        state,
        message if state is not JobState.RUNNING else "",
        waits_s=_waited_s(record, now) if state is JobState.QUEUED else None,
        native=native,
    )


def _waited_s(record: Json, now: datetime | None) -> float | None:
    """Return how long ago Ray took the job, which is its ``start_time`` (milliseconds)."""
    taken_ms = record.get("start_time")
    if now is None or not taken_ms:
        return None
    return max(0.0, now.timestamp() - float(taken_ms) / 1000)


def repeats(record: Json) -> bool:
    """Whether the job's first step may have started the entry point more than once."""
    return bool((record.get("metadata") or {}).get(META_RETRIES, "0") != "0")


def has_ending(record: Json) -> bool:
    """Whether Ray's record of a failed job tells by itself how its entry point ended."""
    return parse_ending(str(record.get("message") or "")) is not None


def one_line(message: str) -> str:
    """Return what Ray says for people; the record keeps the tracebacks that it is made of.

    Of a traceback remains what was raised, and of a command that failed the end of its output.
    """
    head, _, traceback = _ACTOR.sub("", message).partition(_TRACEBACK)
    lines = traceback.rpartition(_TRACEBACK)[2].splitlines()
    raised = dropwhile(lambda line: not line or line.startswith(" "), lines)  # after its frames
    reason = " ".join(_OUTPUT.split("\n".join(raised))[-1].split())
    if len(reason) > _REASON_CHARS:
        reason = f"…{reason[-_REASON_CHARS:]}"
    return " ".join([*head.split(), reason]).strip()


def _exit_code(record: Json) -> int | None:
    code = record.get("driver_exit_code")
    if code is None:
        return None
    return int(code) if int(code) >= 0 else 128 - int(code)


def _why_failed(
    record: Json, message: str, exit_code: int | None, log_tail: str
) -> tuple[Failure, int | None]:
    told = parse_ending(message) or parse_ending(log_tail)
    if told is not None and told[0] is not None:
        return told[0], told[1]
    if exit_code is not None and exit_code > 128:
        return _killed(exit_code), exit_code
    if exit_code in RESERVED_EXIT_CODES:
        text = f"The job's first step ended with code {exit_code}; the log says why."
        return _failure(RESERVED_EXIT_CODES[exit_code], text), exit_code
    if exit_code:
        return user_error(exit_code), exit_code
    category = ERROR_TYPES.get(str(record.get("error_type")), FailureCategory.INFRASTRUCTURE)
    if record.get("error_type") == "JOB_SUPERVISOR_ACTOR_DIED":
        category = next((c for words, c in _DEATHS if words in message), category)
    text = one_line(message) or "Ray says that the job failed, and not why."
    return _failure(category, text), None


def _killed(exit_code: int) -> Failure:
    """The first step itself was ended from outside: it tells of every end that it sees."""
    return Failure(
        FailureCategory.INFRASTRUCTURE,
        f"The job was ended from outside by signal {exit_code - 128}.",
        "If its node ran out of memory, use less, or ask for resources.memory.",
    )


def _failure(category: FailureCategory, message: str) -> Failure:
    return Failure(category, message, _HINTS.get(category, ""))

"""What Ray's record of a job means; the records are as Ray 2.60 answers them."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

import pytest

from mlflow_exec.jobs import FailureCategory, JobState
from mlflow_exec.schedulers.ray.status import job_status

DIED = (
    "Job supervisor actor died: The actor died unexpectedly before finishing this task.\n"
    "\tclass_name: JobSupervisor\n\tnamespace: SUPERVISOR_ACTOR_RAY_NAMESPACE\n"
)
CRASHED = (
    "The actor is dead because its worker process has died. Some common causes include: (1) the "
    "process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called"
)
KILLED_FOR_MEMORY = "1 worker(s) were killed due to the node running low on memory. Memory on"


def record(status: str, **further: Any) -> dict[str, Any]:
    node = None if status == "PENDING" else "8963c675107c5c7f"
    base = {"status": status, "message": None, "error_type": None, "driver_exit_code": None}
    return base | {"driver_node_id": node, "submission_id": "mlflow-x-1"} | further


def failed(**further: Any) -> dict[str, Any]:
    return record("FAILED", error_type="JOB_ENTRYPOINT_COMMAND_ERROR", **further)


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ("PENDING", JobState.QUEUED),
        ("RUNNING", JobState.RUNNING),
        ("SUCCEEDED", JobState.SUCCEEDED),
        ("STOPPED", JobState.CANCELLED),
        ("FAILED", JobState.FAILED),
        ("A_STATE_OF_A_LATER_RAY", JobState.UNKNOWN),
    ],
)
def test_states(status: str, state: JobState) -> None:
    assert job_status(record(status)).state is state


def test_what_a_queued_job_waits_for_is_rays_to_say() -> None:
    text = "Job has not started yet. It may be waiting for resources"
    assert job_status(record("PENDING", message=text)).message == text


@pytest.mark.parametrize(
    ("further", "category", "exit_code"),
    [
        ({"driver_exit_code": 7}, FailureCategory.USER_ERROR, 7),
        ({"driver_exit_code": 81}, FailureCategory.SOURCE_FETCH, 81),
        ({"driver_exit_code": 82}, FailureCategory.ENVIRONMENT_SETUP, 82),
        ({"driver_exit_code": 83}, FailureCategory.INVALID_CONFIG, 83),
        ({"driver_exit_code": 84}, FailureCategory.INFRASTRUCTURE, 84),
        ({"driver_exit_code": 85}, FailureCategory.DEADLINE, 85),
        ({"driver_exit_code": -9}, FailureCategory.INFRASTRUCTURE, 137),
        ({"driver_exit_code": 143}, FailureCategory.INFRASTRUCTURE, 143),
    ],
)
def test_exit_codes(
    further: dict[str, Any], category: FailureCategory, exit_code: int
) -> None:
    status = job_status(failed(**further))
    assert status.failure is not None
    assert (status.failure.category, status.exit_code) == (category, exit_code)


@pytest.mark.parametrize(
    ("error_type", "message", "category"),
    [
        ("RUNTIME_ENV_SETUP_FAILURE", "runtime_env setup failed: pip", "environment_setup"),
        ("JOB_SUPERVISOR_ACTOR_START_TIMEOUT", "failed to start within 900 s", "unschedulable"),
        ("JOB_SUPERVISOR_ACTOR_UNSCHEDULABLE", "could not be scheduled", "unschedulable"),
        ("JOB_SUPERVISOR_ACTOR_START_FAILURE", "failed to get job supervisor", "infrastructure"),
        ("JOB_SUPERVISOR_ACTOR_DIED", DIED, "infrastructure"),
        ("JOB_SUPERVISOR_ACTOR_DIED", DIED + CRASHED, "infrastructure"),
        ("JOB_SUPERVISOR_ACTOR_DIED", DIED + "because its node has died.", "node_lost"),
        ("JOB_SUPERVISOR_ACTOR_DIED", DIED + "the actor's node was preempted: x", "preempted"),
        ("JOB_SUPERVISOR_ACTOR_DIED", DIED + KILLED_FOR_MEMORY, "out_of_memory"),
        ("AN_ERROR_OF_A_LATER_RAY", "what it says", "infrastructure"),
        (None, None, "infrastructure"),
    ],
)
def test_what_failed_without_an_exit_code(
    error_type: str | None, message: str | None, category: str
) -> None:
    status = job_status(record("FAILED", error_type=error_type, message=message))
    assert status.failure is not None
    assert status.failure.category.value == category
    assert status.failure.message


@pytest.mark.parametrize(
    ("raised", "told"),
    [
        (
            "x.SubprocessCalledProcessError: Run cmd[3] failed with the following details.\n"
            "Command '['python', '-m', 'pip', 'install']' returned non-zero exit status 1.\n"
            "Last 50 lines of stdout:\n    Looking in links: /a\n    ERROR: No such thing.\n\n",
            "runtime_env setup failed: [Node 10.0.0.1] Looking in links: /a ERROR: No such thing.",
        ),
        (
            "ValueError: first\n\nThe above exception was the direct cause of the following "
            'exception:\n\nTraceback (most recent call last):\n  File "b.py", line 2, in b\n'
            "    raise\nOSError: second\n",
            "runtime_env setup failed: [Node 10.0.0.1] OSError: second",
        ),
        ("OSError: " + "x" * 400, f"runtime_env setup failed: [Node 10.0.0.1] …{'x' * 300}"),
    ],
    ids=["a command", "a chain", "a long one"],
)
def test_of_a_traceback_remains_what_was_raised(raised: str, told: str) -> None:
    message = (
        "runtime_env setup failed:\n[Node 10.0.0.1] Traceback (most recent call last):\n"
        f'  File "a.py", line 1, in a\n    a()\n    ^^^\n{raised}'
    )
    error_type = "RUNTIME_ENV_SETUP_FAILURE"
    status = job_status(record("FAILED", error_type=error_type, message=message))
    assert status.message == told
    assert status.native["job"]["message"] == message, "the diagnosis has it whole"


def test_what_names_the_actor_is_left_out() -> None:
    error_type = "JOB_SUPERVISOR_ACTOR_DIED"
    status = job_status(record("FAILED", error_type=error_type, message=DIED + CRASHED))
    assert status.message.startswith(
        "Job supervisor actor died: The actor died unexpectedly before finishing this task. "
        "The actor is dead because its worker process has died."
    )


def test_the_first_steps_last_line_tells_more_than_the_exit_code() -> None:
    line = (
        'mlflow-exec-end: {"state": "FAILED", "category": "out_of_memory", "message": "It used '
        'too much.", "hint": "Use less.", "exit_code": 137}'
    )
    in_message = job_status(failed(driver_exit_code=137, message=f"failed, last logs:\n{line}\n"))
    in_log = job_status(failed(driver_exit_code=137, message="no logs"), f"more\n{line}\n")
    for status in (in_message, in_log):
        assert status.failure is not None
        assert status.failure.category is FailureCategory.OUT_OF_MEMORY
        assert (status.message, status.exit_code) == ("It used too much.", 137)


def test_a_job_taken_out_of_the_queue_was_cancelled() -> None:
    text = f"{DIED}The actor never ran - it was cancelled before it started running."
    gone = {"message": text, "error_type": "JOB_SUPERVISOR_ACTOR_DIED"}
    assert job_status(record("FAILED", driver_node_id=None, **gone)).state is JobState.CANCELLED
    assert job_status(record("FAILED", **gone)).state is JobState.FAILED


def test_the_environment_is_not_kept_with_the_diagnosis() -> None:
    status = job_status(record("RUNNING", runtime_env={"env_vars": {"A": "1"}}))
    assert status.native["job"]["status"] == "RUNNING"
    assert "runtime_env" not in status.native["job"]


def test_a_pending_job_waits_since_ray_took_it_by_rays_own_clock() -> None:
    now = datetime(2026, 1, 1, 12, tzinfo=timezone.utc)
    taken_ms = int(now.timestamp() * 1000) - 90_500
    pending = record("PENDING", start_time=taken_ms)
    assert job_status(pending, now=now).waits_s == 90.5
    assert job_status(pending).waits_s is None
    assert job_status(record("PENDING"), now=now).waits_s is None
    assert job_status(record("RUNNING", start_time=taken_ms), now=now).waits_s is None

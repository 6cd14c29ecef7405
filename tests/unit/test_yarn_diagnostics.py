"""What YARN says of an application's end, in its own words, as a state and a category."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_exec.jobs import FailureCategory, JobState
from mlflow_exec.runtime.end import END_LINE_PREFIX
from mlflow_exec.schedulers.yarn.status import job_status

ATTEMPT = (
    "Application application_1_0001 failed 1 times (global limit =2; local limit is =1) due to AM "
    "Container for appattempt_1_0001_000001 exited with  exitCode: {code}\n"
    "Failing this attempt.Diagnostics: {text}\n"
    "For more detailed output, check the application tracking page: http://rm:8088/cluster/app/"
    "application_1_0001 Then click on links to logs of each attempt.\n. Failing the application."
)
PMEM = (
    "[2026-11-27 10:00:00.000]Container [pid=7,containerID=container_1_0001_01_000001] is running "
    "12345B beyond the 'PHYSICAL' memory limit. Current usage: 700 MB of 512 MB physical memory "
    "used; 3 GB of 1 GB virtual memory used. Killing container.\nDump of the process-tree"
)
PREFIX = "[2026-11-27 10:00:00.000]"
OUTPUT = (
    f"{PREFIX}Exception from container-launch.\nExit code: 1\n\n"
    f"{PREFIX}Last 4096 bytes of stderr :\nbeyond physical memory limits, preempted, oom-killer\n"
)


def record(state: str, final: str, diagnostics: str, **further: Any) -> dict[str, Any]:
    return {"id": "application_1_0001", "state": state, "finalStatus": final,
            "diagnostics": diagnostics, **further}  # fmt: skip


def failed(diagnostics: str, state: str = "FAILED") -> tuple[str, int | None]:
    status = job_status(record(state, "FAILED", diagnostics))
    assert status.state is JobState.FAILED
    assert status.failure is not None
    assert status.failure.message
    assert status.failure.hint
    return status.failure.category.value, status.exit_code


@pytest.mark.parametrize(
    ("code", "text", "category"),
    [
        (-104, PMEM, "out_of_memory"),
        (143, PMEM, "out_of_memory"),
        (-103, "Container is running beyond virtual memory limits.", "out_of_memory"),
        # YARN has said so where it is for memory: the kernel's kill is -104 there, too.
        (137, f"{PREFIX}Container killed on request. Exit code is 137", "infrastructure"),
        (137, "Container was killed by oom-killer", "out_of_memory"),
        (143, "Container killed on request. Exit code is 143", "infrastructure"),
        (-102, "Container preempted by scheduler", "preempted"),
        (-100, "Container released on a *lost* node", "node_lost"),
        (-101, "Container exited because of failed local disks", "node_lost"),
        (-108, "Container Killed to make room for Guaranteed Container.", "preempted"),
        (-109, "Container killed for using too much disk by its logs", "user_error"),
        (-1000, "File does not exist: hdfs://nn/x", "infrastructure"),
        # What a program wrote itself means nothing.
        (1, OUTPUT, "infrastructure"),
    ],
)
def test_a_container_that_was_ended(code: int, text: str, category: str) -> None:
    assert failed(ATTEMPT.format(code=code, text=text)) == (category, None)


@pytest.mark.parametrize(
    ("diagnostics", "category"),
    [
        ("Application application_1_0001 submitted by user me to unknown queue: nosuch",
         "invalid_config"),
        ("org.apache.hadoop.security.AccessControlException: Queue root.stopped is STOPPED. Cannot "
         "accept submission of application: application_1_0001", "invalid_config"),
        ("org.apache.hadoop.security.AccessControlException: User me does not have permission to "
         "submit application_1_0001 to queue root.closed", "permission"),
        ("Queue root.small already has 1 applications, cannot accept submission of application: "
         "application_1_0001", "quota"),
        ("ApplicationMaster for attempt appattempt_1_0001_000001 timed out", "node_lost"),
        ("Failed to renew token: Kind: HDFS_DELEGATION_TOKEN, connect timed out", "permission"),
        ("", "infrastructure"),
        ("something new", "infrastructure"),
    ],
)  # fmt: skip
def test_an_application_that_never_ran_or_was_given_up(diagnostics: str, category: str) -> None:
    assert failed(diagnostics) == (category, None)


def test_finished_with_the_final_status_failed_is_a_failure() -> None:
    text = "Application driver failed with exit code 7, see logs for more information."
    assert failed(text, "FINISHED") == ("user_error", 7)


def test_what_a_program_writes_into_its_error_output_is_no_exit_code() -> None:
    said = f"{OUTPUT}Application driver failed with exit code 7\n"
    assert failed(ATTEMPT.format(code=143, text=said)) == ("infrastructure", None)


@pytest.mark.parametrize(
    ("code", "tail", "category"),
    [
        (82, "", "environment_setup"),
        (137, "", "user_error"),
        (137, "a log without an end", "infrastructure"),
        (137, f'{END_LINE_PREFIX}{{"state": "FAILED", "category": "out_of_memory", "message": "m", '
              f'"hint": "h", "exit_code": 137}}\n', "out_of_memory"),
    ],
)  # fmt: skip
def test_the_first_step_tells_of_the_ends_that_it_sees(
    code: int, tail: str, category: str
) -> None:
    text = f"Application driver failed with exit code {code}, see logs for more information."
    status = job_status(record("FINISHED", "FAILED", text), log_tail=tail)
    assert status.failure is not None
    assert (status.failure.category.value, status.exit_code) == (category, code)


def test_success() -> None:
    status = job_status(record("FINISHED", "SUCCEEDED", "Application driver completed."))
    assert (status.state, status.exit_code, status.failure) == (JobState.SUCCEEDED, 0, None)


def test_somebody_killed_it() -> None:
    text = "Application application_1_0001 was killed by user admin at 10.0.0.7"
    status = job_status(record("KILLED", "KILLED", text))
    assert status.state is JobState.CANCELLED
    assert "by admin from 10.0.0.7" in status.message


def test_its_queues_limit_on_time_killed_it() -> None:
    text = "Application is killed by ResourceManager as it has exceeded the lifetime period."
    status = job_status(record("KILLED", "KILLED", text))
    assert status.state is JobState.FAILED
    assert status.failure is not None
    assert status.failure.category is FailureCategory.DEADLINE


def test_it_waits_for_a_container_then_for_its_start() -> None:
    queued = record("ACCEPTED", "UNDEFINED", "Queue's AM limit exceeded", queue="root.ml")
    assert job_status(queued).state is JobState.QUEUED
    assert "root.ml" in job_status(queued).message
    assert "AM limit" in job_status(queued).message
    logs = "http://n1:8042/node/containerlogs/container_1_0001_01_000001/me"
    placed = {**queued, "amContainerLogs": logs}
    assert job_status(placed).state is JobState.STARTING
    # After a restart of the ResourceManager the record of a job that runs says the same.
    assert job_status(placed, runs=True).state is JobState.RUNNING


def test_a_state_of_a_later_hadoop_is_not_guessed() -> None:
    assert job_status(record("PARKED", "UNDEFINED", "")).state is JobState.UNKNOWN

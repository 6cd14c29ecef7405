"""Jobs that the cluster took more often than they allow, or that nobody can ask any more."""

from __future__ import annotations

import pytest

from mlflow_exec.jobs import FailureCategory, JobState
from mlflow_exec.schedulers.kubernetes.status import job_status
from tests.unit.test_kubernetes_status import FULL, RUNNING, Json, job, pod, terminated
from tests.unit.test_kubernetes_status import TAKEN as FROM_A_LOST_NODE

PREEMPTED = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
             "message": "preempting to accommodate a higher priority pod"}  # fmt: skip
TAKEN = pod(("job", terminated(143)), conditions=(PREEMPTED,), phase="Failed")
NO_PLACE = pod(conditions=(FULL,), node=None, born="2026-01-02T00:00:00Z", counts=(0, 1))
RUNS_AGAIN = pod(("job", RUNNING), born="2026-01-02T00:00:00Z", counts=(0, 1))


def allowing(infra_retries: str) -> Json:
    made = job()
    made["metadata"]["annotations"] = {"mlflow-exec/infra-retries": infra_retries}
    return made


def test_it_is_hopeless_and_says_what_took_it() -> None:
    status = job_status(allowing("0"), [TAKEN, NO_PLACE])
    assert (status.state, status.hopeless, status.attempt) == (JobState.QUEUED, True, 2)
    assert status.failure is not None
    assert status.failure.category.value == "preempted"
    assert "a higher priority" in status.failure.message
    assert "once, and infra_retries allows 0" in status.failure.message


def test_where_nothing_tells_what_took_it_their_number_does() -> None:
    status = job_status(allowing("0"), [NO_PLACE])
    assert status.hopeless
    assert status.failure is not None
    assert status.failure.category.value == "infrastructure"


@pytest.mark.parametrize(
    ("allowed", "newest"), [("1", NO_PLACE), ("0", RUNS_AGAIN), ("", NO_PLACE)]
)
def test_it_is_not_where_it_may_start_again_or_has(allowed: str, newest: Json) -> None:
    assert not job_status(allowing(allowed), [TAKEN, newest]).hopeless


def test_the_deadline_ends_a_job_whose_node_is_gone() -> None:
    late = job(("FailureTarget", "DeadlineExceeded", "Job was active longer than its deadline"))
    gone = pod(("job", RUNNING), conditions=(FROM_A_LOST_NODE,))
    status = job_status(late, [gone])
    assert status.state is JobState.FAILED
    assert status.failure is not None
    assert status.failure.category is FailureCategory.DEADLINE
    assert "nobody knows whether the pod runs" in status.failure.message
    assert job_status(late, [pod(("job", RUNNING))]).state is JobState.RUNNING, "it is being ended"
    assert job_status(job(), [gone]).state is JobState.RUNNING

"""What the end of a run is that two machines follow, when one of them takes its job away."""

from __future__ import annotations

from mlflow_exec.jobs import Failure, FailureCategory, JobState, JobStatus
from mlflow_exec.runs.ending import as_decided

GONE = JobStatus(JobState.CANCELLED, "The Job was deleted in the cluster.", native={"a": 1})
GIVEN_UP = {
    "mlflow_exec.cancel": "given up", "mlflow_exec.failure.category": "unschedulable",
    "mlflow_exec.failure.message": "No node.", "mlflow_exec.failure.hint": "Ask for less.",
}  # fmt: skip


def test_a_job_that_a_clock_took_away_failed_for_whoever_sees_it_go() -> None:
    status = as_decided(GONE, GIVEN_UP)
    why = Failure(FailureCategory.UNSCHEDULABLE, "No node.", "Ask for less.")
    assert (status.state, status.failure, status.native) == (JobState.FAILED, why, {"a": 1})


def test_a_job_that_somebody_cancelled_was_cancelled() -> None:
    assert as_decided(GONE, {}) == GONE
    requested = {"mlflow_exec.cancel": "requested"}
    for tags in (requested, {**GIVEN_UP, **requested}):
        assert as_decided(GONE, tags).message == "The job was cancelled."
        assert as_decided(GONE, tags).state is JobState.CANCELLED


def test_a_job_that_came_to_an_end_of_its_own_keeps_it() -> None:
    for state in (JobState.SUCCEEDED, JobState.FAILED):
        assert as_decided(JobStatus(state, "itself"), GIVEN_UP) == JobStatus(state, "itself")

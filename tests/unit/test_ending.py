"""What the end of a run is that two machines follow, and what is told of its log after it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from rich.console import Console

from mlflow_exec.jobs import Failure, FailureCategory, JobHandle, JobState, JobStatus
from mlflow_exec.runs.artifacts import RunArtifacts
from mlflow_exec.runs.ending import as_decided
from mlflow_exec.runs.job import Job
from mlflow_exec.runs.progress import Progress
from mlflow_exec.runs.supervise import retire
from mlflow_exec.settings import KubernetesSettings
from tests.servers import mlflow_server

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


class Retires:
    """Stands for a scheduler that forgets every job."""

    def retire(self, *told: Any) -> None:
        """Nothing is left to forget."""


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    with mlflow_server(tmp_path_factory.mktemp("ending")) as server:
        yield MlflowClient(server.url)


def ended_job(client: MlflowClient, run_id: str, artifacts: Path) -> Job:
    handle = JobHandle.parse("k8s://c/team/mlflow-a-1", "a test")
    scheduler: Any = Retires()
    return Job(
        scheduler, handle, run_id, KubernetesSettings(), client, True, True,
        RunArtifacts(client, artifacts.as_uri()),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("told", "found", "then"),
    [("false", False, "false"), ("false", True, "true"), ("true", False, "true")],
)
def test_a_log_that_somebody_found_whole_stays_so_when_its_job_is_forgotten(
    client: MlflowClient, tmp_path: Path, told: str, found: bool, then: str
) -> None:
    run_id = client.create_run("0").info.run_id
    client.set_tag(run_id, "mlflow_exec.log.complete", told)
    assert retire(ended_job(client, run_id, tmp_path), log_complete=found)
    tags = client.get_run(run_id).data.tags
    assert (tags["mlflow_exec.kept"], tags["mlflow_exec.log.complete"]) == ("true", then)


def test_a_run_that_cannot_be_written_is_told_and_its_job_is_looked_at_again(
    client: MlflowClient, tmp_path: Path
) -> None:
    said = io.StringIO()
    job = ended_job(client, "0" * 32, tmp_path)
    assert not retire(job, Progress(Console(file=said, width=500)))
    assert "the finished job may stay in the cluster" in said.getvalue()
    assert "0" * 32 in said.getvalue()

"""Which jobs are submitted again."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mlflow import MlflowClient

from mlflow_exec import registry
from mlflow_exec.jobs import Failure, FailureCategory, JobHandle, JobState, JobStatus
from mlflow_exec.runs.artifacts import RunArtifacts
from mlflow_exec.runs.job import Job
from mlflow_exec.runs.resubmission import may_go_on
from mlflow_exec.runtime.end import RESERVED_EXIT_CODES

NAME = f"mlflow-{'a' * 32}-1"
HANDLES = {"ray": f"ray-job+http://head:8265/{NAME}", "k8s": f"k8s://c/team/{NAME}",
           "yarn": f"yarn://rm:8088/{NAME}"}  # fmt: skip
TAKEN = ("preempted", "evicted", "node_lost", "infrastructure")


def job(backend: str = "ray", infra_retries: int = 2) -> Job:
    found = registry.backend(backend)
    settings = registry.load(found.settings)(infra_retries=infra_retries)
    scheduler = registry.load(found.scheduler, found.extra)(settings)
    client = MlflowClient("http://127.0.0.1:1")  # nothing is asked
    artifacts = RunArtifacts(client, "mlflow-artifacts:/0/a/artifacts")
    handle = JobHandle.parse(HANDLES[backend], "a session")
    return Job(scheduler, handle, "a" * 32, settings, client, True, True, artifacts)


def failed(category: str, exit_code: int | None = None) -> JobStatus:
    why = Failure(FailureCategory(category), "It failed.")
    return JobStatus(JobState.FAILED, why.message, why, exit_code)


@pytest.mark.parametrize("category", [category.value for category in FailureCategory])
def test_a_job_is_submitted_again_for_what_the_cluster_did(category: str) -> None:
    assert may_go_on(job(), failed(category), {}) == (category in TAKEN)
    assert may_go_on(job(), failed(category, 137), {}) == (category in TAKEN)


@pytest.mark.parametrize("exit_code", RESERVED_EXIT_CODES)
def test_the_first_steps_own_trouble_is_not_the_clusters(exit_code: int) -> None:
    assert not may_go_on(job(), failed("infrastructure", exit_code), {})


def test_it_is_done_as_often_as_the_setting_says() -> None:
    for used, expected in ((0, True), (1, True), (2, False), (7, False)):
        tags = {"mlflow_exec.infra_retries": str(used)}
        assert may_go_on(job(), failed("node_lost"), tags) == expected
    assert not may_go_on(job(infra_retries=0), failed("node_lost"), {})


@pytest.mark.parametrize("state", ["SUCCEEDED", "FAILED", "CANCELLED"])
def test_a_run_that_has_its_end_keeps_it(state: str) -> None:
    assert not may_go_on(job(), failed("node_lost"), {"mlflow_exec.state": state})


def test_a_job_that_somebody_cancels_is_not_submitted_again() -> None:
    assert not may_go_on(job(), failed("node_lost"), {"mlflow_exec.cancel": "requested"})


def test_a_job_that_a_clock_has_ended_is_not_submitted_again() -> None:
    # It may not have been possible to remove it, and then two would write one run.
    assert not may_go_on(job("yarn"), replace(failed("infrastructure"), hopeless=True), {})
    assert may_go_on(job("yarn"), failed("infrastructure"), {})


def test_a_system_that_does_it_itself_is_left_to_it() -> None:
    assert not may_go_on(job("k8s"), failed("node_lost"), {})


def test_jobs_that_did_not_fail_are_not_submitted_again() -> None:
    for state in (JobState.CANCELLED, JobState.SUCCEEDED):
        assert not may_go_on(job(), JobStatus(state), {})

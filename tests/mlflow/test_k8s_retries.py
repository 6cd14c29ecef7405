"""Starts again after failures and disruptions: two budgets, one run, and its whole log."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import Collected
from tests.mlflow.interventions import SAYS_ITS_START, delete_pod, evict
from tests.mlflow.k8s_runs import K8sRuns

# Disrupted, then failed by itself, then good.
THREE_STARTS = SAYS_ITS_START + """
if attempt == "1":
    signal.pause()
sys.exit(7 if attempt == "2" else 0)
"""
TWO_STARTS = SAYS_ITS_START + """
if attempt == "1":
    signal.pause()
sys.exit(CODE)
"""
# As a program that is in the middle of something, or that a shell started, may do.
HEEDS_NO_SIGTERM = TWO_STARTS.replace("if attempt", "signal.signal(15, signal.SIG_IGN)\nif attempt")


@dataclass
class Submitted:
    """The jobs of this module, all followed and all disrupted at their first start."""

    good_at_last: ExecSubmittedRun
    fails_after_an_eviction: ExecSubmittedRun
    deleted_once: ExecSubmittedRun


@pytest.fixture(scope="module")
def submitted(module_k8s: K8sRuns) -> Submitted:
    k8s = module_k8s
    jobs = Submitted(
        k8s.run(k8s.project(THREE_STARTS), retries=1, infra_retries=1),
        k8s.run(k8s.project(TWO_STARTS.replace("CODE", "7")), retries=0, infra_retries=1),
        k8s.run(k8s.project(HEEDS_NO_SIGTERM.replace("CODE", "0")), retries=0, infra_retries=1),
    )
    everything = (jobs.good_at_last, jobs.fails_after_an_eviction, jobs.deleted_once)
    for job in everything:
        Collected(job.wait() for _ in range(1))
    for job in everything:
        k8s.says(job, "start 1")
        (delete_pod if job is jobs.deleted_once else evict)(k8s, job)
    return jobs


def starts(k8s: K8sRuns, job: ExecSubmittedRun) -> list[str]:
    """Return the lines of the kept log by which the program says its start."""
    return [line for line in k8s.log(job.run_id).splitlines() if line.startswith("start ")]


def test_an_eviction_and_a_failure_are_counted_apart_and_a_good_start_ends_the_run(
    module_k8s: K8sRuns, submitted: Submitted
) -> None:
    k8s, job = module_k8s, submitted.good_at_last
    run = k8s.ends(job, "SUCCEEDED")
    tags = run.data.tags
    assert tags["mlflow_exec.attempt"] == "3"
    assert not [tag for tag in tags if tag.startswith("mlflow_exec.failure")]
    assert starts(k8s, job) == ["start 1", "start 2", "start 3"], "each with its log"
    assert tags["mlflow_exec.log.complete"] == "true"
    log = k8s.log(job.run_id)
    told = [f"run {job.run_id}, attempt {number}" for number in (1, 2, 3)]
    assert [log.count(line) for line in told] == [1, 1, 1]
    assert "a retry follows: this failure is not the end of the run" in log


def test_a_failure_after_an_eviction_is_the_users(
    module_k8s: K8sRuns, submitted: Submitted
) -> None:
    k8s, job = module_k8s, submitted.fails_after_an_eviction
    run = k8s.ends(job, "FAILED", "user_error")
    assert "code 7" in run.data.tags["mlflow_exec.failure.message"]
    assert run.data.tags["mlflow_exec.attempt"] == "2"
    assert starts(k8s, job) == ["start 1", "start 2"]


def test_a_pod_that_somebody_deletes_is_no_failure_of_the_user(
    module_k8s: K8sRuns, submitted: Submitted
) -> None:
    k8s, job = module_k8s, submitted.deleted_once
    run = k8s.ends(job, "SUCCEEDED")
    assert run.data.tags["mlflow_exec.attempt"] == "2"
    assert starts(k8s, job) == ["start 1", "start 2"]

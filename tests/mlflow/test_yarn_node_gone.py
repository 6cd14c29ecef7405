"""A YARN's node does not answer any more while jobs run on it, and later it is back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from mlflow_exec.errors import CancelError
from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import Collected, until
from tests.clusters.yarn import applications
from tests.mlflow.interventions import WAITS_AT_ITS_FIRST_START
from tests.mlflow.submitted_runs import WAIT
from tests.mlflow.yarn_faults import NODEMANAGER, kill_node, processes
from tests.mlflow.yarn_runs import YarnRuns

CANCEL_S = 4.0


@dataclass
class Gone:
    """A node without power, and the jobs that were on it.

    Attributes:
        again: Is submitted again, as infra_retries allows.
        once: Must not be.
        cancelled: Is cancelled by a test.
        ended: When each follower was told of an end, by the job's name here.
    """

    again: ExecSubmittedRun
    once: ExecSubmittedRun
    cancelled: ExecSubmittedRun
    waiting: dict[str, Collected[bool]] = field(default_factory=dict)
    since_s: float = 0.0
    is_back: bool = False


@pytest.fixture(scope="module")
def node(frail: YarnRuns) -> Iterator[Gone]:
    again = frail.run(frail.project(WAITS_AT_ITS_FIRST_START), infra_retries=1)
    once = frail.run(frail.project(WAIT), infra_retries=0)
    cancelled = frail.run(frail.project(WAIT), infra_retries=1, cancel_timeout_s=CANCEL_S)
    gone = Gone(again, once, cancelled)
    for name in ("again", "once"):
        job: ExecSubmittedRun = getattr(gone, name)
        gone.waiting[name] = Collected(job.wait() for _ in range(1))
    frail.says(again, "start 1")
    for job in (once, cancelled):
        frail.says(job, "it waits")
    until(lambda: frail.server.artifacts(again.run_id, "mlflow-exec/log"), "a part of the log")
    kill_node(frail)
    gone.since_s = time.monotonic()
    try:
        yield gone
    finally:
        if frail.cluster.process(NODEMANAGER) is None:
            frail.cluster.start_daemon(NODEMANAGER)
        applications.kill_all(frail.cluster)


def test_cancelling_fails_and_names_the_node_each_time(frail: YarnRuns, node: Gone) -> None:
    job = node.cancelled
    for _ in range(2):
        before_s = time.monotonic()
        with pytest.raises(CancelError, match=r"the node localhost:\d+ does not answer \(YARN: "):
            job.cancel()
        assert time.monotonic() - before_s < CANCEL_S + 60
        tags = frail.server.tags(job.run_id)
        assert tags["mlflow_exec.state"] != "CANCELLED", "it may still run"


def test_a_job_of_a_lost_node_ends_and_says_so(frail: YarnRuns, node: Gone) -> None:
    assert node.waiting["once"].all(120) == [False]
    run = frail.ends(node.once, "FAILED", "node_lost")
    assert "The node of the job's container was lost." in (
        run.data.tags["mlflow_exec.failure.message"]
    )
    assert "infra_retries" in run.data.tags["mlflow_exec.failure.hint"]
    assert run.data.tags["mlflow_exec.log.complete"] == "false", "its node had the end"
    assert len(frail.applications(node.once.run_id)) == 1


def test_a_job_that_may_is_submitted_again_and_waits_for_a_node(
    frail: YarnRuns, node: Gone
) -> None:
    job = node.again
    until(lambda: len(frail.applications(job.run_id)) == 2, "it is submitted again")
    frail.state_becomes(job, "QUEUED")
    until(lambda: frail.mlflow.get_run(job.run_id).info.status == "SCHEDULED", "its run waits")


def test_all_is_right_when_the_node_is_back(frail: YarnRuns, node: Gone) -> None:
    frail.cluster.start_daemon(NODEMANAGER)
    node.cancelled.cancel()
    frail.ends(node.cancelled, "CANCELLED")
    assert len(frail.applications(node.cancelled.run_id)) == 1, "it is not submitted again"
    assert node.waiting["again"].all(240) == [True]
    run = frail.ends(node.again, "SUCCEEDED")
    assert run.data.tags["mlflow_exec.infra_retries"] == "1"
    assert run.data.tags["mlflow_exec.attempt"] == "2"
    log = frail.log(node.again.run_id)
    texts = ["start 1\n", "node_lost: ", "It is submitted again (1 of 1).\n", "start 2\n"]
    assert [log.count(text) for text in texts] == [1] * len(texts), log
    assert sorted(texts, key=log.index) == texts, log


def test_nothing_goes_on_of_a_job_that_yarn_took_for_lost(frail: YarnRuns, node: Gone) -> None:
    """Though nobody is left on its node to end it: only the NodeManager has crashed."""
    job = frail.run(frail.project(WAIT), infra_retries=0)
    frail.says(job, "it waits")
    frail.cluster.kill_daemon(NODEMANAGER)
    try:
        assert processes(frail, job)
        frail.ends(job, "FAILED", "node_lost")
        until(lambda: not processes(frail, job), "it has ended by itself", 60)
    finally:
        frail.cluster.start_daemon(NODEMANAGER)

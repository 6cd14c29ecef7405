"""A YARN's ResourceManager is killed and started anew while jobs run, wait and are followed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from mlflow_exec.runs.reconcile import Outcome, Reconciler
from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import Collected, until
from tests.clusters.yarn import applications
from tests.mlflow.yarn_runs import YarnRuns

# Two jobs start at once, on a machine that has other things to do.
START_TIMEOUT_S = 60.0

WAITS_FOR_A_SIGN = """
import os, sys, time
print("here", flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.1)
print("on")
"""
TAKES_A_SIGN = """
name: takes a sign
entry_points:
  main:
    parameters: {sign: string}
    command: python3 main.py {sign}
"""


@dataclass
class Restarted:
    """A ResourceManager that was away, and the jobs of its cluster.

    Attributes:
        followed: Was followed with its log.
        left: Was followed by nobody; a reconciler looks after all runs.
        queued: Waited in a queue.
        pieces: The log of `followed` as it came.
        away: The state of each while nobody answered.
        seen: All states of each, from then on.
        said: What the reconciler has said of each.
    """

    followed: ExecSubmittedRun
    left: ExecSubmittedRun
    queued: ExecSubmittedRun
    pieces: list[str] = field(default_factory=list)
    away: list[str] = field(default_factory=list)
    seen: set[tuple[str, str]] = field(default_factory=set)
    said: list[Outcome] = field(default_factory=list)


@pytest.fixture(scope="module")
def restarted(frail: YarnRuns) -> Iterator[Restarted]:
    cluster, sign = frail.cluster, frail.folder / "sign"
    filler = applications.submit(cluster, "sleep 1000", queue="small", memory_mb=3000)
    until(lambda: applications.running(cluster, filler), "the small queue is full")
    project = frail.project(WAITS_FOR_A_SIGN, TAKES_A_SIGN)
    followed, left = (
        frail.run(project, {"sign": str(sign)}, start_timeout_s=START_TIMEOUT_S, infra_retries=0)
        for _ in range(2)
    )
    queued = frail.run(frail.project("print('it ran')"), queue="small", infra_retries=0)
    jobs = Restarted(followed, left, queued)
    ends = [
        Collected(followed.follow(jobs.pieces.append).state.value for _ in range(1)),
        Collected(queued.follow().state.value for _ in range(1)),
    ]
    for job in (followed, left):
        frail.says(job, "here")
    started_s = time.monotonic()
    frail.state_becomes(queued, "QUEUED")
    until(lambda: "here\n" in "".join(jobs.pieces), "the log is followed")
    until(lambda: time.monotonic() - started_s > START_TIMEOUT_S, "longer than a start may take")

    stop = threading.Event()
    reconciler = Reconciler(frail.mlflow, {"yarn": frail.config()}, lost_grace_s=0.5)
    reconciled = Collected(reconciler.forever(0.2, stop))
    cluster.kill_daemon("resourcemanager")
    names = {"followed": followed, "left": left, "queued": queued}
    for job in names.values():
        frail.state_becomes(job, "UNKNOWN")
        jobs.away.append(frail.server.tags(job.run_id)["mlflow_exec.state"])
        jobs.away.append(job.status().message)
    cluster.start_daemon("resourcemanager")

    def all_are_back() -> bool:
        now = {name: job.status().state.value for name, job in names.items()}
        jobs.seen.update(now.items())
        return now == {"followed": "RUNNING", "left": "RUNNING", "queued": "QUEUED"}

    until(all_are_back, "the ResourceManager knows them again")
    sign.touch()
    applications.kill(cluster, filler)
    assert [end.all(180) for end in ends] == [["SUCCEEDED"], ["SUCCEEDED"]]
    kept = "mlflow_exec.kept"
    until(lambda: frail.server.tags(left.run_id)[kept] == "true", "it is looked after")
    stop.set()
    ours = {job.run_id for job in names.values()}
    jobs.said = [outcome for outcome in reconciled.all() if outcome.run_id in ours]
    yield jobs
    applications.kill_all(cluster)


def test_nobody_knows_how_a_job_is_while_nobody_answers(restarted: Restarted) -> None:
    assert restarted.away[::2] == ["RUNNING", "RUNNING", "QUEUED"], "the runs stay as they are"
    for message in restarted.away[1::2]:
        assert message.startswith("the cluster cannot be asked: YARN http://"), message


def test_no_job_is_called_ended_or_lost_meanwhile(restarted: Restarted) -> None:
    states = {state for _, state in restarted.seen}
    assert states <= {"UNKNOWN", "QUEUED", "STARTING", "RUNNING"}, restarted.seen


def test_a_job_goes_on_and_its_follower_sees_all_of_its_log(
    frail: YarnRuns, restarted: Restarted
) -> None:
    run = frail.ends(restarted.followed, "SUCCEEDED")
    log = frail.log(run.info.run_id)
    assert [log.count(text) for text in ("here\n", "on\n", "part of the output")] == [1, 1, 0]
    assert "".join(restarted.pieces) == log
    assert run.data.tags["mlflow_exec.log.complete"] == "true"
    assert len(frail.applications(run.info.run_id)) == 1


def test_a_job_that_nobody_followed_is_looked_after_by_the_reconciler(
    frail: YarnRuns, restarted: Restarted
) -> None:
    actions = {outcome.action for outcome in restarted.said}
    assert {"open", "unknown"} <= actions <= {"open", "unknown", "ended", "kept", "unkept"}
    run = frail.ends(restarted.left, "SUCCEEDED")
    assert [frail.log(run.info.run_id).count(text) for text in ("here\n", "on\n")] == [1, 1]


def test_a_job_that_waited_runs_when_there_is_room(frail: YarnRuns, restarted: Restarted) -> None:
    run = frail.ends(restarted.queued, "SUCCEEDED")
    assert frail.log(run.info.run_id).count("it ran\n") == 1
    assert len(frail.applications(run.info.run_id)) == 1

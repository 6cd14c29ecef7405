"""Whatever goes wrong with a job on YARN, its run ends by itself and says what it was.

All jobs are submitted at once, each is followed, and the tests look at one end after the other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import Collected, until
from tests.clusters.yarn import applications
from tests.mlflow.interventions import WAITS_AT_ITS_FIRST_START
from tests.mlflow.submitted_runs import WAIT
from tests.mlflow.yarn_faults import (
    NODE_MEMORY_MB,
    SHORT_LIVED,
    kill_as_operator,
    kill_container,
    kill_first_step,
)
from tests.mlflow.yarn_runs import YarnRuns

EATS = "print('it waits', flush=True); x = [bytearray(b'x' * (8 << 20)) for _ in range(999)]"
KILLS_ITSELF = "import os; print('it waits', flush=True); os.kill(os.getpid(), 9)"


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, and what its run has to say.

    Attributes:
        category: Of the failure; empty for a job that is CANCELLED.
        says: A pattern that the message has.
        hint: A pattern that the hint has.
        settings: Of the submission.
        program: What the job runs; it says that it waits.
        befalls: What happens to the job once it runs.
        runs: Whether it gets as far as to say so; None where that is for the machine to decide.
    """

    category: str
    says: str
    hint: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    program: str = WAIT
    befalls: Callable[[YarnRuns, ExecSubmittedRun], None] | None = None
    runs: bool | None = True


ONCE = {"infra_retries": 0}
FAULTS = {
    "all its processes are killed": Fault(
        "infrastructure", "killed from outside, by SIGKILL.*137", "submit it again", ONCE,
        befalls=kill_container),
    "its first step is killed": Fault(
        "infrastructure", "from outside by signal 9", "submit it again", ONCE,
        befalls=kill_first_step),
    "its program is killed by itself": Fault(
        "user_error", "The entry point was ended by SIGKILL", "log", program=KILLS_ITSELF),
    "it eats more memory than it has": Fault(
        "out_of_memory", "more memory than its container has", r"resources\.memory", program=EATS),
    "an operator kills it": Fault(
        "", "killed by admin", befalls=kill_as_operator),
    "the queue ends what lives for long": Fault(
        "deadline", "queue's limit.*exceeded the lifetime period", "queue without that limit",
        {"queue": SHORT_LIVED}, runs=None),
    "its deadline is over": Fault(
        "deadline", r"deadline of 2 s", "deadline_s", {"deadline_s": 2}),
    "its queue stays full": Fault(
        "unschedulable", r"no resources within queue_timeout_s \(5 s\).*AM resource limit", "less",
        {"queue": "small", "queue_timeout_s": 5}, runs=False),
}  # fmt: skip


@dataclass
class Submitted:
    """The jobs of this module, all followed."""

    yarn: YarnRuns
    staged_before: list[str]
    runs: dict[str, ExecSubmittedRun] = field(default_factory=dict)
    followers: list[Collected[bool]] = field(default_factory=list)
    while_full: list[tuple[str, str]] = field(default_factory=list)


@pytest.fixture(scope="module")
def submitted(frail: YarnRuns) -> Iterator[Submitted]:
    """Everything that goes wrong, at once."""
    jobs = Submitted(frail, frail.staged())
    filler = applications.submit(frail.cluster, "sleep 1000", queue="small", memory_mb=3000)
    until(lambda: applications.running(frail.cluster, filler), "the small queue is full")
    for name, fault in FAULTS.items():
        job = frail.run(frail.project(fault.program), **fault.settings)
        jobs.runs[name] = job
        if name == "its queue stays full":
            status = job.status()
            jobs.while_full.append((status.state.value, status.message))
        jobs.followers.append(Collected(job.wait() for _ in range(1)))
    for name, fault in FAULTS.items():
        if fault.befalls is not None:
            frail.says(jobs.runs[name], "it waits")
            fault.befalls(frail, jobs.runs[name])
    yield jobs
    applications.kill_all(frail.cluster)


@pytest.mark.parametrize("what", FAULTS)
def test_a_fault_ends_the_run_with_its_reason(
    frail: YarnRuns, submitted: Submitted, what: str
) -> None:
    fault, job = FAULTS[what], submitted.runs[what]
    run = frail.ends(job, "FAILED" if fault.category else "CANCELLED", fault.category)
    message = run.data.tags.get("mlflow_exec.failure.message", "")
    hint = run.data.tags.get("mlflow_exec.failure.hint", "")
    assert re.search(fault.says, message, re.S), message
    assert re.search(fault.hint, hint), hint
    log = frail.log(job.run_id)
    if fault.runs is not None:
        assert log.count("it waits\n") == int(fault.runs), log
    assert run.data.tags["mlflow_exec.log.complete"] == "true"
    assert len(frail.applications(job.run_id)) == 1, "it is not started again"


def test_a_job_in_a_full_queue_says_in_yarns_words_what_it_waits_for(submitted: Submitted) -> None:
    ((state, message),) = submitted.while_full
    assert state == "QUEUED"
    assert "in queue root.small: " in message
    assert "AM resource limit" in message


def test_nothing_is_left_in_hdfs_or_running(frail: YarnRuns, submitted: Submitted) -> None:
    for follower in submitted.followers:
        follower.all(180)
    assert frail.staged() == submitted.staged_before
    ours = [job.handle.uid for job in submitted.runs.values()]
    until(
        lambda: not [uid for uid in ours if applications.running(frail.cluster, uid)],
        "no container is left",
    )


def test_a_job_that_yarn_takes_for_another_queue_is_submitted_again(
    frail: YarnRuns, submitted: Submitted
) -> None:
    for follower in submitted.followers:
        follower.all(180)
    cluster, quarter_mb = frail.cluster, NODE_MEMORY_MB // 4
    applications.kill_all(cluster)
    job = frail.run(
        frail.project(WAITS_AT_ITS_FIRST_START), infra_retries=1,
        resources={"memory": f"{3 * quarter_mb}Mi"},
    )  # fmt: skip
    waiting = Collected(job.wait() for _ in range(1))
    frail.says(job, "start 1")
    # Within the share of its queue, and more than there is; it does not live for long.
    applications.submit(cluster, "sleep 1000", queue=SHORT_LIVED, memory_mb=quarter_mb + 512)
    assert waiting.all(240) == [True]
    frail.ends(job, "SUCCEEDED")
    applications.kill_all(cluster)
    log = frail.log(job.run_id)
    assert "preempted: " in log
    assert "It is submitted again (1 of 1)." in log
    assert [log.count(f"start {n}\n") for n in (1, 2)] == [1, 1]
    first, second = frail.applications(job.run_id)
    assert (first["state"], second["finalStatus"]) == ("FAILED", "SUCCEEDED")

"""A client may be killed at any step: YARN runs nothing twice, and HDFS is as it was before."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from mlflow.entities import Run

from mlflow_exec.jobs import JobHandle, job_name
from mlflow_exec.runs.attach import attach
from mlflow_exec.schedulers.yarn import YarnScheduler, staging
from mlflow_exec.settings import YarnSettings, parse_settings
from mlflow_exec.testing.collecting import until
from tests.mlflow.killed_clients import YarnClients, both, writes
from tests.mlflow.killed_submissions import (
    CREATES,
    PROGRAM,
    come_back,
    has_its_true_end,
    kill_at,
    reconcile,
    run_to_its_end,
    runs_of,
    starts,
)
from tests.mlflow.submitted_runs import WAIT
from tests.mlflow.yarn_runs import YarnRuns

SUBMITS = "1 SUBMIT"
STAGES = "/webhdfs/v1/user/USER/.mlflow-exec/mlflow-RUN-1"
# The bundle comes first, and first to the NameNode: its second request goes to a DataNode.
SENDS = f"2 PUT {STAGES}/RUN.zip.PART CREATE"
SOME = [
    f"after {CREATES}",
    "after 2 POST /api/2.0/mlflow/runs/log-batch",
    f"within {SENDS}",
    f"before 1 PUT {STAGES}/secret-A.PART RENAME",
    "within 1 START",
    f"before {SUBMITS}",
    f"within {SUBMITS}",
    f"after {SUBMITS}",
    "before 3 GET /ws/v1/cluster/apps/APPLICATION",
]
AT_A_TIME = 3


@pytest.fixture
def clients(yarn: YarnRuns) -> Iterator[YarnClients]:
    yarn.experiment_id = yarn.mlflow.create_experiment(f"killed clients {yarn.folder.name}")
    clients = YarnClients(yarn)
    yield clients
    clients.close()


@pytest.fixture
def project(yarn: YarnRuns) -> Path:
    """A project that takes several pieces to be sent."""
    folder = yarn.project(PROGRAM)
    (folder / "data.bin").write_bytes(os.urandom(1024**2))
    return folder


def drivers(clients: YarnClients) -> list[str]:
    """Return skein's drivers that clients of this test have started and that live."""
    ours, found = os.fsencode(f"TMPDIR={clients.started[0].folder.parent}/"), []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            is_driver = b"com.anaconda.skein.Driver" in (process / "cmdline").read_bytes()
            if is_driver and ours in (process / "environ").read_bytes():
                found.append(process.name)
    return found


def nothing_is_left(clients: YarnClients, before: list[str], earlier: set[str]) -> None:
    yarn = clients.runs
    until(lambda: not drivers(clients), "no driver outlives its client")
    for run in runs_of(yarn):
        if run.info.run_id in earlier:
            continue
        applications = yarn.applications(run.info.run_id)
        assert {a["state"] for a in applications} <= {"FINISHED", "FAILED", "KILLED"}
        ran = starts(yarn, run)
        assert ran <= len(applications) <= 1, applications
    until(lambda: yarn.staged() == before, f"nothing is left in HDFS: {before} {yarn.staged()}")


def check(clients: YarnClients, project: Path, calls: list[str], points: list[str]) -> None:
    """Kill a client at each point, look after the runs as a user does, and look what became."""
    yarn = clients.runs
    before, earlier = yarn.staged(), {run.info.run_id for run in runs_of(yarn)}
    killed = kill_at(clients, project, points, AT_A_TIME)
    until(lambda: not drivers(clients), "no driver outlives its client")
    with pytest.MonkeyPatch.context() as patch:
        # What a driver has begun to write counts as abandoned at once, for no driver lives.
        patch.setattr(staging, "_ABANDONED_S", 0.0)
        reconcile(yarn)
        for run in runs_of(yarn):
            come_back(yarn, run)
    runs: dict[int, Run] = {}
    for run in runs_of(yarn):
        if run.info.run_id not in earlier:
            assert int(run.info.run_name) not in runs, "one run for one call"
            runs[int(run.info.run_name)] = run
    creates, submits = calls.index(CREATES), calls.index(SUBMITS)
    for number, client in enumerate(killed):
        when, call = client.point.split(" ", 1)
        step = calls.index(call) + {"before": -0.5, "within": 0, "after": 0.5}[when]
        assert (number in runs) == (step > creates), client.point
        if number not in runs:
            continue
        has_its_true_end(yarn, runs[number], client.point)
        if step != submits:
            assert starts(yarn, runs[number]) == (step > submits), client.point
    nothing_is_left(clients, before, earlier)


def of(user: str, points: list[str]) -> list[str]:
    return [point.replace("USER", user) for point in points]


def test_a_client_may_be_killed_at_each_of_its_steps(clients: YarnClients, project: Path) -> None:
    calls = run_to_its_end(clients, project)
    check(clients, project, calls, of(clients.runs.cluster.superuser, SOME))


def test_nothing_is_left_of_a_job_that_is_cancelled_after_its_clients_death(
    clients: YarnClients,
) -> None:
    yarn = clients.runs
    before = yarn.staged()
    client = clients.mlflow_run(yarn.project(WAIT), point=f"after {SUBMITS}")
    assert client.killed, client.said()
    (run,) = runs_of(yarn)
    assert "mlflow_exec.handle.uid" not in run.data.tags
    submitted = attach(run.info.run_id)
    yarn.says(submitted, "it waits")
    submitted.cancel()
    yarn.ends(submitted, "CANCELLED")
    assert [a["state"] for a in yarn.applications(run.info.run_id)] == ["KILLED"]
    assert yarn.staged() == before


def test_what_a_driver_has_left_half_done_is_removed_when_it_is_old(yarn: YarnRuns) -> None:
    hdfs, now_ms = yarn.hdfs(), int(time.time() * 1000)
    at = yarn.manager().info()["startedOn"]
    old, young, others = (f"application_{at}_99{number}" for number in range(3))
    for folder, file, age_s in ((old, ".skein.crt", 3600), (young, ".skein.crt", 1),
                                (others, "data.csv", 3600)):  # fmt: skip
        path = f"{hdfs.home()}/.skein/{folder}"
        hdfs.write(f"{path}/{file}", b"x")
        hdfs.set_times(path, now_ms - age_s * 1000)
    scheduler = YarnScheduler(parse_settings(YarnSettings, yarn.config(), "of the test"))
    scheduler.retire(JobHandle("yarn", "x", (job_name("0" * 32, 1),)), None)
    assert {f".skein/{name}" for name in (young, others)} <= set(yarn.staged())
    assert f".skein/{old}" not in yarn.staged()
    for folder in (young, others):
        hdfs.delete(f"{hdfs.home()}/.skein/{folder}")


@pytest.mark.large
def test_a_client_may_be_killed_before_and_after_every_kind_of_call(
    clients: YarnClients, project: Path
) -> None:
    calls = run_to_its_end(clients, project)
    kinds = [call for call in calls if call.startswith("1 ") or writes(call)]
    within = [f"within {call}" for call in ("1 START", SUBMITS)]
    check(clients, project, calls, [*both(kinds), *within])

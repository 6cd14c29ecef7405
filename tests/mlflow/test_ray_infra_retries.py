"""Jobs that Ray takes are submitted again, and every run gets its true end, on a real Ray."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from mlflow_exec.jobs import job_name
from mlflow_exec.runs.attach import attach
from mlflow_exec.runs.reconcile import Outcome, Reconciler
from mlflow_exec.runs.store import MlflowRunStore
from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.runtime.end import End, write_end
from mlflow_exec.testing.collecting import Collected, until
from tests.clusters.ray_head import kill
from tests.clusters.ray_node import joined
from tests.mlflow.killed_clients import ClientsOf, both, writes
from tests.mlflow.ray_runs import RayRuns
from tests.unit.ray_jobs import driver_processes, parent_of

SUBMITS = "1 POST /api/jobs/"
TAGS = "POST /api/2.0/mlflow/runs/log-batch"
AT_A_TIME = 3
GRACE_S = 3


def reconciled(
    ray: RayRuns, *submitted: ExecSubmittedRun, reconcilers: int = 1, **times: Any
) -> list[Outcome]:
    """Let reconcilers go on until these runs have ended; times are those of `Reconciler`."""
    stop = threading.Event()
    passes = [
        Collected(Reconciler(ray.mlflow, {"ray": {}}, lost_grace_s=2, **times).forever(0.5, stop))
        for _ in range(reconcilers)
    ]
    until(lambda: all(ray.has_ended(job.run_id) for job in submitted), "all runs have ended", 180)
    stop.set()
    ours = {job.run_id for job in submitted}
    return [o for found in passes for o in found.all() if o.run_id in ours]


def has_gone_on(ray: RayRuns, job: ExecSubmittedRun, *, jobs: int = 2) -> None:
    """Check that a run succeeded with its last job, after one start for each."""
    ray.ends(job, "SUCCEEDED")
    tags = ray.tags(job)
    assert ray.names(job, jobs)
    assert str(job.handle) == tags["mlflow_exec.handle"]
    assert tags["mlflow_exec.infra_retries"] == str(jobs - 1)
    assert tags["mlflow_exec.attempt"] == str(jobs)
    assert ray.starts(job) == jobs
    log = ray.log(job.run_id)
    expected = []
    for number in range(1, jobs):
        expected += [f"start {number}\n", f"It is submitted again ({number} of 3).\n"]
    expected += [f"start {jobs}\n", f"start {jobs} ends with 0\n"]
    assert [log.count(text) for text in expected] == [1] * len(expected), log
    places = [log.index(text) for text in expected]
    assert places == sorted(places), log


# -- the Ray is started anew ----------------------------------------------------------------


def test_jobs_of_a_ray_that_is_started_anew_are_submitted_again(ray: RayRuns) -> None:
    followed, left, gone = (ray.acting("wait", "0") for _ in range(3))
    once = ray.acting("wait", "0", infra_retries=0)
    jobs = (followed, left, gone, once)
    for job in jobs:
        ray.started(job, 1)
    waiting = Collected(followed.wait() for _ in range(1))
    uploads = (followed.run_id, left.run_id)
    until(lambda: all(map(ray.part_is_uploaded, uploads)), "a part of each log is on its run")
    kept = f"artifacts/*/{gone.run_id}/artifacts/mlflow-exec/submission"
    for folder in ray.server.dir.glob(kept):
        shutil.rmtree(folder)
    session = ray.head.session
    ray.head.kill()
    until(lambda: left.status().state.value == "UNKNOWN", "nobody answers")
    ray.head.start()
    assert ray.head.session != session

    said = reconciled(ray, left, gone, once, reconcilers=2)
    assert not [o for o in said if o.action in ("elsewhere", "missing")], said
    assert waiting.all(180) == [True]
    for job in (followed, left):
        has_gone_on(ray, job)
        assert ray.jobs_of(job.run_id) == {2}
        assert "a part of the output is missing" in ray.log(job.run_id), "nobody saw its end"
        assert ray.tags(job)["mlflow_exec.log.complete"] == "false"
    ray.ends(once, "FAILED", "node_lost")
    assert "started anew" in ray.tags(once)["mlflow_exec.failure.message"]
    ray.ends(gone, "FAILED", "node_lost")
    assert "could not be submitted again: " in ray.tags(gone)["mlflow_exec.failure.message"]
    assert [ray.starts(job) for job in (once, gone)] == [1, 1]
    assert [ray.jobs_of(job.run_id) for job in (once, gone)] == [set(), set()]


# -- a part of it is taken ------------------------------------------------------------------


def test_a_job_that_was_killed_from_outside_is_submitted_again(ray: RayRuns) -> None:
    driver, supervisor, twice, users = (
        ray.acting("wait", "0"), ray.acting("wait", "0"), ray.acting("wait", infra_retries=1),
        ray.acting("3", "wait", "3", retries=1),
    )  # fmt: skip
    for job in (driver, supervisor, twice):
        ray.started(job, 1)
    ray.started(users, 2)
    ends = [Collected(job.wait() for _ in range(1)) for job in (driver, supervisor, twice, users)]
    for job in (driver, twice, users):
        ray.kill_driver(job)
    (entry,) = driver_processes(supervisor.handle, "entry.py")
    kill(parent_of(entry))
    ray.started(twice, 2)
    until(lambda: ray.names(twice, 2), "the run names its second job")
    ray.kill_driver(twice)

    assert [end.all(180) for end in ends] == [[True], [True], [False], [False]]
    has_gone_on(ray, driver)
    assert ray.tags(driver)["mlflow_exec.log.complete"] == "true"
    has_gone_on(ray, supervisor)
    ray.ends(twice, "FAILED", "infrastructure")
    assert (ray.starts(twice), ray.jobs_of(twice.run_id)) == (2, {1, 2})
    ray.ends(users, "FAILED", "user_error")
    assert ray.starts(users) == 3, "the retry that was used up is not given anew"
    assert ray.tags(users)["mlflow_exec.attempt"] == "3"


def test_a_job_whose_node_was_lost_runs_on_another(ray: RayRuns) -> None:
    head = ray.head
    tpu = {"cpu": 0, "custom": {"tpu": 1}}
    first = joined(head.folder, head.client(), head.environment, cpus=1, gpus=0, custom={"tpu": 1})
    with first as node:
        job = ray.acting("wait", "0", resources=tpu)
        ray.started(job, 1)
        waiting = Collected(job.wait() for _ in range(1))
        node.kill()
        until(lambda: ray.names(job, 2), "it is submitted again")
    second = joined(head.folder, head.client(), head.environment, cpus=1, gpus=0, custom={"tpu": 1})
    with second:
        assert waiting.all(180) == [True]
        assert (ray.starts(job), ray.jobs_of(job.run_id)) == (2, {1, 2})
        assert "node_lost: " in ray.log(job.run_id)


# -- whoever submits it again dies ----------------------------------------------------------


@pytest.fixture
def clients(ray: RayRuns) -> Iterator[ClientsOf[RayRuns]]:
    made = ClientsOf(ray)
    yield made
    made.close()


def kill_at(clients: ClientsOf[RayRuns], points: list[str]) -> None:
    """Kill a client at each point while it submits a job again; a reconciler goes on."""
    ray = clients.runs
    jobs = [ray.acting("wait", "0") for _ in points]
    for job in jobs:
        ray.started(job, 1)
    dying = [clients.attach(j.run_id, point=p) for j, p in zip(jobs, points, strict=True)]
    until(lambda: all("/api/jobs/" in "".join(c.calls()) for c in dying), "all follow", 180)
    for job in jobs:
        ray.kill_driver(job)
    until(lambda: all(client.over for client in dying), "all are dead", 180)
    assert all(client.killed for client in dying), [client.said() for client in dying]
    assert not [job for job in jobs if ray.has_ended(job.run_id)]
    reconciled(ray, *jobs, reconcilers=2)
    for job, point in zip(jobs, points, strict=True):
        has_gone_on(ray, job)
        assert ray.jobs_of(job.run_id) == {1, 2}, point


def test_a_client_that_dies_while_it_submits_again_leaves_nothing_twice(
    clients: ClientsOf[RayRuns]
) -> None:
    kill_at(clients, [f"after 1 {TAGS}", f"after {SUBMITS}", f"before 2 {TAGS}"])


def test_a_client_that_dies_before_it_has_submitted_leaves_nothing_to_go_on(
    clients: ClientsOf[RayRuns]
) -> None:
    """Though all that a submission needs is on its run, and infra_retries are left."""
    ray = clients.runs
    before = ray.run_ids()
    client = clients.mlflow_run(ray.project(""), point=f"before {SUBMITS}", secrets={})
    assert client.killed, client.said()
    (run_id,) = ray.run_ids() - before
    job = attach(run_id)
    assert ray.server.artifacts(run_id, "mlflow-exec/submission")
    said = [outcome.action for outcome in reconciled(ray, job, unconfirmed_s=0)]
    assert [action for action in said if action != "missing"] == ["ended"]
    ray.ends(job, "FAILED", "infrastructure")
    assert "submission was interrupted" in ray.tags(job)["mlflow_exec.failure.message"]
    assert ray.jobs_of(run_id) == set()


@pytest.mark.large
def test_a_client_may_die_before_and_after_all_that_it_takes_to_submit_again(
    clients: ClientsOf[RayRuns]
) -> None:
    ray = clients.runs
    job = ray.acting("wait", "wait")
    ray.started(job, 1)
    alone = clients.attach(job.run_id)
    until(lambda: "/api/jobs/" in "".join(alone.calls()), "it follows", 180)
    ray.kill_driver(job)
    ray.started(job, 2)
    points = both([call for call in alone.calls() if writes(call)])
    assert f"after 2 {TAGS}" in points
    job.cancel()
    for start in range(0, len(points), AT_A_TIME):
        kill_at(clients, points[start : start + AT_A_TIME])


def test_a_run_that_ends_meanwhile_gets_no_further_job(clients: ClientsOf[RayRuns]) -> None:
    ray = clients.runs
    job = ray.acting("wait")
    ray.started(job, 1)
    client = clients.attach(job.run_id, hold_at=f"after {SUBMITS}")
    until(lambda: "/api/jobs/" in "".join(client.calls()), "it follows", 180)
    ray.kill_driver(job)
    ray.started(job, 2)
    lost = End("FAILED", "lost", "Somebody took it for lost.")
    write_end(MlflowRunStore(ray.mlflow), job.run_id, lost, "client")
    client.go_on()
    assert "lost" in client.said()
    second = ray.head.client().job(job_name(job.run_id, 2)) or {}
    assert second["status"] == "STOPPED"
    ray.ends(job, "FAILED", "lost")


# -- other ends -----------------------------------------------------------------------------


def test_a_job_goes_on_while_the_dashboard_is_started_again(ray: RayRuns) -> None:
    sign = ray.folder / "sign"
    program = f"""
import os, time
print("here", flush=True)
while not os.path.exists({str(sign)!r}):
    time.sleep(0.1)
print("on")
"""
    job = ray.run(ray.project(program))
    pieces: list[str] = []
    following = Collected(job.follow(pieces.append).state.value for _ in range(1))
    until(lambda: "here" in "".join(pieces), "its log")
    ray.head.restart_dashboard()
    sign.touch()
    assert following.all(120) == ["SUCCEEDED"]
    ray.ends(job, "SUCCEEDED")
    assert (ray.jobs_of(job.run_id), "on\n" in "".join(pieces)) == ({1}, True)
    assert "mlflow_exec.infra_retries" not in ray.tags(job)


def test_a_job_that_was_deleted_is_lost_and_not_submitted_again(
    ray: RayRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_exec.runs.supervise.LOST_GRACE_S", GRACE_S)
    client = ray.head.client()
    stopped, ended = ray.acting("wait", "0"), ray.acting("0")
    ray.started(stopped, 1)
    ray.ends(ended, "SUCCEEDED")
    client.stop(stopped.handle.name)
    until(lambda: stopped.status().state.is_final, "it is stopped")
    for job in (stopped, ended):
        client.delete(job.handle.name)
    before_s = time.monotonic()
    assert not stopped.wait(), ray.tags(stopped)
    assert time.monotonic() - before_s >= GRACE_S
    assert ended.wait()
    run = ray.mlflow.get_run(stopped.run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["mlflow_exec.failure.category"] == "lost"
    assert ray.starts(stopped) == 1

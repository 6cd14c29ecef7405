"""A client may be killed at any step: nothing runs twice or is left, and every run gets its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client as kubernetes
from mlflow.entities import Run

from mlflow_exec.errors import HandleError
from mlflow_exec.runs.attach import attach
from mlflow_exec.runs.reconcile import Reconciler
from mlflow_exec.testing.collecting import Collected, until, within
from tests.mlflow.k8s_runs import K8sRuns
from tests.mlflow.killed_clients import Client, Clients, both, writes

PROGRAM = """
import json, os, time, urllib.request

metric = {"run_id": os.environ["MLFLOW_RUN_ID"], "key": "starts", "value": 1,
          "timestamp": time.time_ns() // 1_000_000}
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric"
kind = {"Content-Type": "application/json"}
urllib.request.urlopen(urllib.request.Request(url, json.dumps(metric).encode(), kind))
"""
CREATES = "1 POST /api/2.0/mlflow/runs/create"
TTL_S = 3600
AT_A_TIME = 6


@pytest.fixture
def clients(k8s: K8sRuns) -> Iterator[Clients]:
    k8s.experiment_id = k8s.mlflow.create_experiment(f"killed clients {k8s.folder.name}")
    clients = Clients(k8s)
    yield clients
    clients.close()


def run_to_its_end(clients: Clients, project: Path, *options: str) -> list[str]:
    """Return the calls of a client that nobody kills."""
    client = clients.mlflow_run(project, *options, ttl_s=TTL_S)
    assert client.code == 0, client.said()
    calls = client.calls()
    assert not [call for call in calls if call.startswith("past the count")], calls
    return calls


def kill_at(clients: Clients, project: Path, points: list[str]) -> list[Client]:
    """Start one client for each point; its run has the number of the point."""
    killed = []
    for number, point in enumerate(points):
        clients.room(AT_A_TIME)
        name = ("--run-name", str(number))
        killed.append(clients.mlflow_run(project, *name, point=point, ttl_s=TTL_S))
    clients.room(1)
    for client in killed:
        # A first call that writes is made each time; how often is asked may differ.
        may_differ = client.point.split()[1] != "1" or "GET" in client.point
        assert client.killed or (may_differ and client.code == 0), client.said()
    return killed


def reconcile(k8s: K8sRuns) -> None:
    """Go on until all of each run of this test is kept; submissions count as over at once."""
    stop = threading.Event()
    reconciler = Reconciler(k8s.mlflow, {"k8s": {}}, lost_grace_s=2, unconfirmed_s=0)
    seen = Collected(reconciler.forever(2, stop))
    ours = [run.info.run_id for run in runs_of(k8s)]

    def is_kept(run_id: str) -> bool:
        return bool(k8s.mlflow.get_run(run_id).data.tags["mlflow_exec.kept"] == "true")

    until(lambda: all(map(is_kept, ours)), "all runs have ended, and nothing is left to keep", 180)
    stop.set()
    assert not [o for o in seen.all() if o.run_id in ours and o.action == "unknown"]


def runs_of(k8s: K8sRuns) -> list[Run]:
    return list(k8s.mlflow.search_runs([k8s.experiment_id], order_by=["start_time"]))


def starts(k8s: K8sRuns, run: Run) -> int:
    """Return how often the program was started."""
    return len(k8s.mlflow.get_metric_history(run.info.run_id, "starts"))


def come_back(run: Run, *, ran: bool) -> None:
    """Attach to a run that has ended, as a user does who wants to know what became of it."""
    if "mlflow_exec.handle" not in run.data.tags:
        with pytest.raises(HandleError, match="it has no job"):
            attach(run.info.run_id)
        return
    submitted = attach(run.info.run_id)
    assert within(60, submitted.wait) == ran


def has_its_true_end(k8s: K8sRuns, run: Run, point: str) -> None:
    tags, ran = run.data.tags, starts(k8s, run)
    assert ran <= 1, point
    if ran:
        assert (run.info.status, tags["mlflow_exec.state"]) == ("FINISHED", "SUCCEEDED"), point
        return
    assert (run.info.status, tags["mlflow_exec.state"]) == ("FAILED", "FAILED"), point
    assert tags["mlflow_exec.failure.category"] == "infrastructure", point
    assert "submission was interrupted" in tags["mlflow_exec.failure.message"], point


def nothing_is_left(k8s: K8sRuns, before: set[str]) -> None:
    """Finished Jobs and what belongs to them may stay; the cluster deletes them in time."""
    ran = [run.info.run_id for run in runs_of(k8s) if starts(k8s, run)]

    def orphans() -> set[str]:
        return {o for o in k8s.objects() - before if not any(run_id in o for run_id in ran)}

    until(lambda: not orphans(), f"nothing is left: {orphans()}")
    with k8s.cluster.api_client() as api:
        core, batch = kubernetes.CoreV1Api(api), kubernetes.BatchV1Api(api)
        jobs = [j for j in batch.list_namespaced_job(k8s.namespace).items
                if j.metadata.labels["mlflow-exec/run-id"] in ran]  # fmt: skip
        assert len(jobs) == len(ran)
        assert {job.spec.ttl_seconds_after_finished for job in jobs} == {TTL_S}
        owners = {job.metadata.uid for job in jobs}
        for items in (
            core.list_namespaced_secret(k8s.namespace).items,
            core.list_namespaced_config_map(k8s.namespace).items,
        ):
            for item in items:
                if any(run_id in item.metadata.name for run_id in ran):
                    assert {owner.uid for owner in item.metadata.owner_references} <= owners


def check(clients: Clients, project: Path, calls: list[str], points: list[str]) -> None:
    """Kill a client at each point, look after the runs as a user does, and look what became."""
    k8s = clients.k8s
    before, earlier = k8s.objects(), {run.info.run_id for run in runs_of(k8s)}
    killed = kill_at(clients, project, points)
    reconcile(k8s)
    for run in runs_of(k8s):
        come_back(run, ran=starts(k8s, run) > 0)
    runs: dict[int, Run] = {}
    for run in runs_of(k8s):
        if run.info.run_id not in earlier:
            assert int(run.info.run_name) not in runs, "one run for one call"
            runs[int(run.info.run_name)] = run
    creates = calls.index(CREATES)
    submits = [n for n, call in enumerate(calls) if call.endswith(" JSON")]
    for number, client in enumerate(killed):
        when, call = client.point.split(" ", 1)
        step = calls.index(call) + (0.5 if when == "after" else -0.5)
        assert (number in runs) == (step > creates), client.point
        if number not in runs:
            continue
        has_its_true_end(k8s, runs[number], client.point)
        if not submits[0] < step <= submits[-1]:
            assert starts(k8s, runs[number]) == (step > submits[0]), client.point
    nothing_is_left(k8s, before)


def test_a_client_may_be_killed_before_and_after_what_it_writes(clients: Clients) -> None:
    project = clients.k8s.project(PROGRAM)
    calls = run_to_its_end(clients, project)
    points = both([call for call in calls if writes(call)])
    some_that_ask = both([call for call in calls if not writes(call)])[::9]
    check(clients, project, calls, points + some_that_ask)


@pytest.mark.large
def test_a_client_may_be_killed_before_and_after_every_call(clients: Clients) -> None:
    project = clients.k8s.project(PROGRAM)
    calls = run_to_its_end(clients, project)
    check(clients, project, calls, both(calls))


def failed_runs(k8s: K8sRuns, number: int) -> list[str]:
    """Return runs that were submitted before, and whose programs failed."""
    project = k8s.project("raise SystemExit(7)")
    jobs = [k8s.run(project, ttl_s=TTL_S) for _ in range(number)]
    for job in jobs:
        k8s.ends(job, "FAILED", "user_error")
    return [job.run_id for job in jobs]


def our_tags(k8s: K8sRuns, run_id: str) -> dict[str, str]:
    tags = k8s.mlflow.get_run(run_id).data.tags
    return {key: value for key, value in tags.items() if key.startswith("mlflow_exec.")}


def kill_again(clients: Clients, points: list[str]) -> None:
    """Submit ended runs again, and kill the client that does."""
    k8s = clients.k8s
    project, run_ids = k8s.project(PROGRAM), failed_runs(k8s, len(points))
    earlier = {run_id: our_tags(k8s, run_id) for run_id in run_ids}
    for run_id, point in zip(run_ids, points, strict=True):
        clients.room(AT_A_TIME)
        clients.mlflow_run(project, "--run-id", run_id, point=point, ttl_s=TTL_S)
    clients.room(1)
    assert all(client.killed for client in clients.started)
    reconcile(k8s)
    for run_id, point in zip(run_ids, points, strict=True):
        run = k8s.mlflow.get_run(run_id)
        if run.data.tags["mlflow_exec.handle"] == earlier[run_id]["mlflow_exec.handle"]:
            assert our_tags(k8s, run_id) == earlier[run_id], f"{point}: the earlier end is whole"
        else:
            has_its_true_end(k8s, run, point)
            logs = 1 + starts(k8s, run)  # they follow each other in one file
            assert k8s.log(run_id).count("mlflow-exec-end") == logs, point


OPENS = [f"after {number} POST /api/2.0/mlflow/runs/delete-tag" for number in range(1, 7)]


def test_a_run_that_is_submitted_again_keeps_its_end_or_gets_a_new_one(clients: Clients) -> None:
    opened = "2 POST /api/2.0/mlflow/runs/log-batch"
    kill_again(clients, [*both([opened]), OPENS[0], "before 1 POST /api/2.0/mlflow/runs/update"])


@pytest.mark.large
def test_a_run_that_is_submitted_again_is_never_half_of_each(clients: Clients) -> None:
    kill_again(clients, OPENS)


def test_a_run_of_the_users_own_stays_theirs_until_it_has_a_job(clients: Clients) -> None:
    k8s = clients.k8s
    mine = k8s.mlflow.create_run(k8s.experiment_id).info.run_id
    opens = "before 2 POST /api/2.0/mlflow/runs/log-batch"
    client = clients.mlflow_run(k8s.project(PROGRAM), "--run-id", mine, point=opens)
    clients.room(1)
    assert client.killed, client.said()
    list(Reconciler(k8s.mlflow, {"k8s": {}}, lost_grace_s=1, unconfirmed_s=0).once())
    assert (k8s.mlflow.get_run(mine).info.status, our_tags(k8s, mine)) == ("RUNNING", {})

"""A client may be killed at any step: nothing runs twice or is left, and every run gets its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client as kubernetes
from mlflow.entities import Run

from mlflow_exec.runs.reconcile import Reconciler
from mlflow_exec.testing.collecting import until
from tests.mlflow.k8s_runs import K8sRuns
from tests.mlflow.killed_clients import Clients, both, writes
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

TTL_S = 3600
AT_A_TIME = 6


@pytest.fixture
def clients(k8s: K8sRuns) -> Iterator[Clients]:
    k8s.experiment_id = k8s.mlflow.create_experiment(f"killed clients {k8s.folder.name}")
    clients = Clients(k8s)
    yield clients
    clients.close()


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
    killed = kill_at(clients, project, points, AT_A_TIME, ttl_s=TTL_S)
    reconcile(k8s)
    for run in runs_of(k8s):
        come_back(k8s, run)
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
    calls = run_to_its_end(clients, project, ttl_s=TTL_S)
    points = both([call for call in calls if writes(call)])
    some_that_ask = both([call for call in calls if not writes(call)])[::9]
    check(clients, project, calls, points + some_that_ask)


@pytest.mark.large
def test_a_client_may_be_killed_before_and_after_every_call(clients: Clients) -> None:
    project = clients.k8s.project(PROGRAM)
    calls = run_to_its_end(clients, project, ttl_s=TTL_S)
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

"""What clients do that are killed while they submit, and what then becomes of their runs."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, TypeVar

import pytest
from mlflow.entities import Run

from mlflow_exec.errors import HandleError
from mlflow_exec.runs.attach import attach
from mlflow_exec.runs.reconcile import Reconciler
from mlflow_exec.testing.collecting import Collected, until, within
from tests.mlflow.killed_clients import Client, ClientsOf
from tests.mlflow.submitted_runs import SubmittedRuns

Runs = TypeVar("Runs", bound=SubmittedRuns)

PROGRAM = """
import json, os, time, urllib.request

metric = {"run_id": os.environ["MLFLOW_RUN_ID"], "key": "starts", "value": 1,
          "timestamp": time.time_ns() // 1_000_000}
url = os.environ["MLFLOW_TRACKING_URI"] + "/api/2.0/mlflow/runs/log-metric"
kind = {"Content-Type": "application/json"}
urllib.request.urlopen(urllib.request.Request(url, json.dumps(metric).encode(), kind))
"""
CREATES = "1 POST /api/2.0/mlflow/runs/create"


def run_to_its_end(clients: ClientsOf[Runs], project: Path, **settings: Any) -> list[str]:
    """Return the calls of a client that nobody kills."""
    client = clients.mlflow_run(project, **settings)
    assert client.code == 0, client.said()
    calls = client.calls()
    assert not [call for call in calls if call.startswith("past the count")], calls
    return calls


def kill_at(
    clients: ClientsOf[Runs], project: Path, points: list[str], at_a_time: int, **settings: Any
) -> list[Client]:
    """Start one client for each point; its run has the number of the point."""
    killed = []
    for number, point in enumerate(points):
        clients.room(at_a_time)
        name = ("--run-name", str(number))
        killed.append(clients.mlflow_run(project, *name, point=point, **settings))
    clients.room(1)
    for client in killed:
        # A first call that writes is made each time; how often is asked may differ.
        may_differ = client.point.split()[1] != "1" or "GET" in client.point
        assert client.killed or (may_differ and client.code == 0), client.said()
    return killed


def reconcile(runs: SubmittedRuns) -> None:
    """Go on until all of each run of this test is kept; submissions count as over at once."""
    stop = threading.Event()
    reconciler = Reconciler(runs.mlflow, {runs.backend: {}}, lost_grace_s=2, unconfirmed_s=0)
    seen = Collected(reconciler.forever(2, stop))
    ours = [run.info.run_id for run in runs_of(runs)]

    def is_kept(run_id: str) -> bool:
        return bool(runs.mlflow.get_run(run_id).data.tags["mlflow_exec.kept"] == "true")

    until(lambda: all(map(is_kept, ours)), "all runs have ended, and nothing is left to keep", 180)
    stop.set()
    assert not [o for o in seen.all() if o.run_id in ours and o.action == "unknown"]


def runs_of(runs: SubmittedRuns) -> list[Run]:
    """Return the runs of this test's experiment."""
    return list(runs.mlflow.search_runs([runs.experiment_id], order_by=["start_time"]))


def starts(runs: SubmittedRuns, run: Run) -> int:
    """Return how often the program was started."""
    return len(runs.mlflow.get_metric_history(run.info.run_id, "starts"))


def come_back(runs: SubmittedRuns, run: Run) -> None:
    """Attach to a run that has ended, as a user does who wants to know what became of it."""
    if "mlflow_exec.handle" not in run.data.tags:
        with pytest.raises(HandleError, match="it has no job"):
            attach(run.info.run_id)
        return
    submitted = attach(run.info.run_id)
    assert within(60, submitted.wait) == (starts(runs, run) > 0)


def has_its_true_end(runs: SubmittedRuns, run: Run, point: str) -> None:
    """Check that a run has ended as its program did, or never began."""
    tags, ran = run.data.tags, starts(runs, run)
    assert ran <= 1, point
    if ran:
        assert (run.info.status, tags["mlflow_exec.state"]) == ("FINISHED", "SUCCEEDED"), point
        return
    assert (run.info.status, tags["mlflow_exec.state"]) == ("FAILED", "FAILED"), point
    assert tags["mlflow_exec.failure.category"] == "infrastructure", point
    assert "submission was interrupted" in tags["mlflow_exec.failure.message"], point

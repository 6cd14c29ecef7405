"""Many who may write the ends of the same runs at the same time: each end is written once."""

from __future__ import annotations

import os
import signal
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

from mlflow_exec.runs.attach import attach
from mlflow_exec.runs.reconcile import Reconciler
from mlflow_exec.testing.collecting import Collected, until
from tests.mlflow.k8s_runs import WAIT, K8sRuns
from tests.mlflow.test_k8s_killed_follower import deadline_comes

JOBS = 12

_LEDGER = """
CREATE TABLE ledger (run_id TEXT, what TEXT, value TEXT);
CREATE TRIGGER tag_set AFTER INSERT ON tags WHEN NEW.key LIKE 'mlflow_exec.%'
    BEGIN INSERT INTO ledger VALUES (NEW.run_uuid, NEW.key, NEW.value); END;
CREATE TRIGGER tag_changed AFTER UPDATE ON tags WHEN NEW.key LIKE 'mlflow_exec.%'
    BEGIN INSERT INTO ledger VALUES (NEW.run_uuid, NEW.key, NEW.value); END;
CREATE TRIGGER tag_deleted AFTER DELETE ON tags WHEN OLD.key LIKE 'mlflow_exec.%'
    BEGIN INSERT INTO ledger VALUES (OLD.run_uuid, OLD.key, NULL); END;
CREATE TRIGGER status_changed AFTER UPDATE ON runs WHEN OLD.status != NEW.status
    BEGIN INSERT INTO ledger VALUES (NEW.run_uuid, 'status', NEW.status); END;
"""
_NO_LEDGER = "DROP TABLE ledger;" + "".join(
    f"DROP TRIGGER {name};" for name in ("tag_set", "tag_changed", "tag_deleted", "status_changed")
)


@dataclass
class Ledger:
    """Every change of a run's status and of our tags, as the tracking server's database saw it."""

    database: Path

    def script(self, text: str) -> None:
        with closing(sqlite3.connect(self.database, timeout=60)) as connection:
            connection.executescript(text)

    def values(self, run_id: str, what: str) -> list[str | None]:
        """Return what a tag, or the status, became one after the other."""
        chosen = "SELECT value FROM ledger WHERE run_id = ? AND what = ? ORDER BY rowid"
        with closing(sqlite3.connect(self.database, timeout=60)) as connection:
            return [value for (value,) in connection.execute(chosen, (run_id, what))]


@pytest.fixture
def ledger(k8s: K8sRuns) -> Iterator[Ledger]:
    ledger = Ledger(k8s.server.dir / "mlflow.db")
    ledger.script(_LEDGER)
    yield ledger
    ledger.script(_NO_LEDGER)


def test_two_reconcilers_and_clients_write_each_end_once(k8s: K8sRuns, ledger: Ledger) -> None:
    project = k8s.project(WAIT)
    jobs = [k8s.run(project, ttl_s=3600) for _ in range(JOBS)]
    killed = k8s.command_line("mlflow-exec", "attach", jobs[0].run_id)
    for job in jobs:
        k8s.says(job, "it waits")
    followers = [Collected(job.wait() for _ in range(1)) for job in jobs[1:]]
    assert killed.stdout is not None
    shown: IO[str] = killed.stdout
    until(lambda: "it waits" in shown.readline(), "it follows the job", 180)
    os.kill(killed.pid, signal.SIGKILL)
    fresh = k8s.command_line("mlflow-exec", "attach", jobs[0].run_id)
    assert fresh.stdout is not None
    shown_anew: IO[str] = fresh.stdout
    until(lambda: "it waits" in shown_anew.readline(), "another one follows the job", 180)
    stop = threading.Event()
    passes = [Collected(Reconciler(k8s.mlflow, {"k8s": {}}).forever(0.3, stop)) for _ in range(2)]
    try:
        deadline_comes(k8s, jobs)
        assert [follower.all(240) for follower in followers] == [[False]] * (JOBS - 1)
        out, err = fresh.communicate(timeout=120)
        assert fresh.returncode == 1, out + err
        assert "FAILED: deadline" in out + err
        until(
            lambda: all(
                ledger.values(job.run_id, "mlflow_exec.kept")[-1] == "true" for job in jobs
            ),
            "nothing is left to keep",
        )
    finally:
        stop.set()
    ours = {job.run_id for job in jobs}
    assert not [o for found in passes for o in found.all() if o.run_id in ours
                and o.action in ("unknown", "missing", "elsewhere")]  # fmt: skip
    for job in jobs:
        run = k8s.ends(attach(job.run_id), "FAILED", "deadline")
        states = ledger.values(job.run_id, "mlflow_exec.state")
        assert states == ["QUEUED", "STARTING", "RUNNING", "FAILED"], states
        assert ledger.values(job.run_id, "status") == ["SCHEDULED", "RUNNING", "FAILED"]
        assert ledger.values(job.run_id, "mlflow_exec.failure.category") == ["deadline"]
        kept = ledger.values(job.run_id, "mlflow_exec.kept")
        assert kept == ["false", *["true"] * (len(kept) - 1)], "each who has seen to it may say so"
        assert run.data.tags["mlflow_exec.log.complete"] == "true"
        assert k8s.log(job.run_id).count("it waits\n") == 1

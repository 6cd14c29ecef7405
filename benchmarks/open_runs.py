"""Runs that look after jobs which nobody has submitted, as many as a benchmark wants."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from tests.servers import MlflowServer


def insert(server: MlflowServer, experiment_id: str, runs: Sequence[Mapping[str, str]]) -> None:
    """Put runs into a tracking server's own tables, all at once; by its API it takes hours.

    Args:
        server: Whose tables.
        experiment_id: The experiment.
        runs: The tags of each; its id is that of the name ``run``.
    """
    rows = [_row(experiment_id, tags["run"]) for tags in runs]
    tags_of_all = [(tags["run"], *pair) for tags in runs for pair in tags.items()]
    with closing(sqlite3.connect(server.dir / "mlflow.db", timeout=60)) as database:
        for row in rows[:1]:
            names = ", ".join(f":{name}" for name in row)
            database.executemany(f"INSERT INTO runs ({', '.join(row)}) VALUES ({names})", rows)
        insertion = "INSERT INTO tags (run_uuid, key, value) VALUES (?, ?, ?)"
        database.executemany(insertion, tags_of_all)
        database.commit()


def _row(experiment_id: str, run_id: str) -> dict[str, Any]:
    place = f"mlflow-artifacts:/{experiment_id}/{run_id}/artifacts"
    return {
        "run_uuid": run_id, "name": "benchmark", "source_type": "UNKNOWN",
        "source_name": "", "entry_point_name": "", "source_version": "", "user_id": "user",
        "status": "RUNNING", "start_time": int(time.time() * 1000),
        "lifecycle_stage": "active", "artifact_uri": place,
        "experiment_id": int(experiment_id),
    }  # fmt: skip

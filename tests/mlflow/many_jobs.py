"""A client's process with many jobs: submits them from a few threads and follows each to its end.

``python -m tests.mlflow.many_jobs ORDER`` reads the order and appends what it sees to ``told``, a
line of JSON each. It is a process of its own so that its clock can be another one.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlflow

from mlflow_exec.jobs import JobState
from mlflow_exec.runs.submitted import ExecSubmittedRun

_SUBMITTERS = 4
_STARTED = (JobState.RUNNING, JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Order:
    """What the process does.

    Attributes:
        tracking_uri: The tracking server.
        experiment_id: The experiment.
        project: A project with a parameter ``role``.
        config: The backend configuration.
        roles: One for each job; one that is ``cancelled`` is cancelled here, once it runs.
        told: The file to tell it in.
    """

    tracking_uri: str
    experiment_id: str
    project: str
    config: dict[str, Any]
    roles: list[str]
    told: str

    def write(self, file: Path) -> Path:
        """Write it for the process to read."""
        file.write_text(json.dumps(asdict(self)))
        return file


class _Client:
    def __init__(self, order: Order) -> None:
        self._order = order
        self._lock = threading.Lock()

    def work(self) -> None:
        with ThreadPoolExecutor(_SUBMITTERS) as pool:
            submitted = list(pool.map(self._submit, self._order.roles))
        jobs = [job for job in submitted if job is not None]
        with ThreadPoolExecutor(max(1, len(jobs))) as pool:
            list(pool.map(self._follow, jobs))
        self._tell(over=True)

    def _submit(self, role: str) -> tuple[str, ExecSubmittedRun] | None:
        order = self._order
        try:
            submitted = mlflow.projects.run(
                order.project, parameters={"role": role}, experiment_id=order.experiment_id,
                backend="k8s", backend_config=order.config, synchronous=False,
            )  # fmt: skip
        except Exception as error:  # the test looks at all that was told
            self._tell(role=role, error=f"submission: {error!r}")
            return None
        assert isinstance(submitted, ExecSubmittedRun)
        self._tell(role=role, submitted=submitted.run_id, job=submitted.handle.name)
        return role, submitted

    def _follow(self, job: tuple[str, ExecSubmittedRun]) -> None:
        role, submitted = job
        try:
            if role == "cancelled":
                while submitted.status().state not in _STARTED:
                    time.sleep(1)  # between two questions
                submitted.cancel()
            submitted.wait()
            self._tell(role=role, ended=submitted.run_id)
        except Exception as error:  # as above
            self._tell(role=role, run_id=submitted.run_id, error=repr(error))

    def _tell(self, **what: Any) -> None:
        with self._lock, open(self._order.told, "a", encoding="utf-8") as file:
            file.write(json.dumps({"clock": time.time(), **what}) + "\n")


def main() -> None:
    order = Order(**json.loads(Path(sys.argv[1]).read_text()))
    mlflow.set_tracking_uri(order.tracking_uri)
    _Client(order).work()


if __name__ == "__main__":
    main()

"""Submissions of MLflow projects to a Ray of the tests' own."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from mlflow_exec.jobs import JobHandle, job_name
from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import until
from tests.clusters.ray_head import RayHead, kill
from tests.mlflow.submitted_runs import ENDS, SubmittedRuns
from tests.unit.ray_jobs import driver_processes

PROGRAM = """
import os, time
with open(os.environ["STARTS"], "a") as file:
    file.write("x")
number = os.path.getsize(file.name)
print("start", number, flush=True)
act = os.environ["ACTS"].split(",")[min(number, len(os.environ["ACTS"].split(","))) - 1]
while act == "wait":
    time.sleep(0.1)
print("start", number, "ends with", act)
raise SystemExit(int(act))
"""


@dataclass
class RayRuns(SubmittedRuns):
    """Submits projects to a Ray, among them one that acts differently at each start."""

    backend: ClassVar[str] = "ray"

    head: RayHead
    projects: dict[str, Path] = field(default_factory=dict, kw_only=True)

    def config(self, **changes: Any) -> dict[str, Any]:
        """See `SubmittedRuns.config`."""
        # What tests build is not to stay in the home of who runs them.
        base = {"address": self.head.address, "resources": {"cpu": 0.1}, "environment_cache": None}
        return {**base, "cancel_timeout_s": 60, **changes}

    def acting(self, *acts: str, **changes: Any) -> ExecSubmittedRun:
        """Submit a program that at each start waits for ever (``wait``) or ends with a code.

        The last act is that of all later starts, too.
        """
        project = self.project(PROGRAM)
        env = {"STARTS": str(project / "starts"), "ACTS": ",".join(acts)}
        submitted = self.run(project, env=env, **changes)
        self.projects[submitted.run_id] = project
        return submitted

    def starts(self, submitted: ExecSubmittedRun) -> int:
        """Return how often the program was started."""
        file = self.projects[submitted.run_id] / "starts"
        return file.stat().st_size if file.exists() else 0

    def started(self, submitted: ExecSubmittedRun, number: int) -> None:
        """Wait for a start of the program."""
        until(lambda: self.starts(submitted) == number, f"start {number}")

    def kill_driver(self, submitted: ExecSubmittedRun) -> None:
        """End a job's first step as a cluster does that gives no notice."""
        (pid,) = driver_processes(submitted.handle, "entry.py")
        kill(pid)

    def tags(self, submitted: ExecSubmittedRun) -> dict[str, str]:
        """Return the run's tags."""
        return dict(self.mlflow.get_run(submitted.run_id).data.tags)

    def names(self, submitted: ExecSubmittedRun, number: int) -> bool:
        """Whether the run names its job of this number."""
        name = job_name(submitted.run_id, number)
        return JobHandle.parse(self.tags(submitted)["mlflow_exec.handle"]).name == name

    def jobs_of(self, run_id: str) -> set[int]:
        """Return the numbers of the jobs that this start of Ray has or had for a run."""
        known = {record["submission_id"] for record in self.head.client().jobs()}
        return {number for number in range(1, 9) if job_name(run_id, number) in known}

    def has_ended(self, run_id: str) -> bool:
        """Whether the end is written on a run."""
        return self.mlflow.get_run(run_id).data.tags["mlflow_exec.state"] in ENDS

    def part_is_uploaded(self, run_id: str) -> bool:
        """Whether the job has put a part of its log on the run."""
        return bool(self.server.artifacts(run_id, "mlflow-exec/log"))

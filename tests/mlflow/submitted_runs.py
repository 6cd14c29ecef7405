"""Submissions of MLflow projects to a real cluster, and what became of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from mlflow_exec.errors import MlflowExecError
from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import until, within
from tests.servers import MlflowServer

WAIT = "import signal; print('it waits', flush=True); signal.pause()"
ENDS = {"SUCCEEDED": "FINISHED", "FAILED": "FAILED", "CANCELLED": "KILLED"}
PLAIN = """
name: plain
entry_points:
  main:
    command: python3 main.py
"""
# A project that gets parameters, and a value of one that is hard to hand on.
PARAMETERS = """
name: told
entry_points:
  main:
    parameters:
      greeting: {type: string, default: hello}
      depth: {type: float, default: 3}
    command: python3 main.py {greeting} {depth}
"""
GREETING = 'it\'s "quoted" $HOME $(X) {x} 🦊'


@dataclass
class SubmittedRuns(ABC):
    """Submits projects for one test."""

    backend: ClassVar[str]

    server: MlflowServer
    folder: Path
    experiment_id: str = field(default="0", kw_only=True)
    submitted: list[ExecSubmittedRun] = field(default_factory=list, kw_only=True)
    processes: list[subprocess.Popen[str]] = field(default_factory=list, kw_only=True)

    @property
    def mlflow(self) -> MlflowClient:
        return MlflowClient(self.server.url)

    def project(
        self, program: str, mlproject: str = PLAIN, files: Mapping[str, str] | None = None
    ) -> Path:
        """Write a project whose ``main.py`` is this program."""
        folder = self.folder / f"project-{len(list(self.folder.iterdir()))}"
        for name, text in {"MLproject": mlproject, "main.py": program, **(files or {})}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return folder

    @abstractmethod
    def config(self, **changes: Any) -> dict[str, Any]:
        """Return the backend configuration of these tests, with changes."""

    def run(
        self,
        project: Path | str,
        parameters: Mapping[str, Any] | None = None,
        *,
        entry_point: str = "main",
        synchronous: bool = False,
        version: str | None = None,
        run_id: str | None = None,
        env_manager: str | None = None,
        config: dict[str, Any] | None = None,
        **changes: Any,
    ) -> ExecSubmittedRun:
        """Submit by ``mlflow.projects.run``; further settings by name."""
        submitted = mlflow.projects.run(
            str(project),
            entry_point,
            version,
            parameters=dict(parameters or {}),
            experiment_id=self.experiment_id,
            backend=self.backend,
            backend_config=self.config(**changes) if config is None else config,
            synchronous=synchronous,
            run_id=run_id,
            env_manager=env_manager,
        )
        assert isinstance(submitted, ExecSubmittedRun)
        self.submitted.append(submitted)
        return submitted

    def ends(
        self, submitted: ExecSubmittedRun, state: str, category: str = "", timeout_s: float = 180
    ) -> Run:
        """Wait for the end of a run and check all that an end consists of."""
        succeeded = within(timeout_s, submitted.wait)
        run = self.mlflow.get_run(submitted.run_id)
        tags = run.data.tags
        shown = {k: v for k, v in tags.items() if k.startswith("mlflow_exec.")}
        assert tags["mlflow_exec.state"] == state, f"{shown}\n{self.log(submitted.run_id)[-3000:]}"
        assert run.info.status == ENDS[state]
        assert succeeded == (state == "SUCCEEDED")
        assert tags.get("mlflow_exec.failure.category", "") == category, shown
        if category:
            assert tags["mlflow_exec.failure.message"]
            assert submitted.failure is not None
            assert submitted.failure.category.value == category
        diagnosis = json.loads(self.artifact(run.info.run_id, "diagnosis.json"))
        assert diagnosis["state"] == state
        return run

    def artifact(self, run_id: str, name: str) -> str:
        """Return one of our artifacts of a run."""
        uri = f"runs:/{run_id}/mlflow-exec/{name}"
        return Path(mlflow.artifacts.download_artifacts(uri)).read_bytes().decode()

    def log(self, run_id: str) -> str:
        """Return a run's kept log, empty if there is none."""
        try:
            return self.artifact(run_id, "log.txt")
        except (MlflowException, OSError):
            return ""

    def says(self, submitted: ExecSubmittedRun, text: str) -> None:
        """Wait until the text is in the log of a job that goes on."""
        until(lambda: text in "".join(submitted.logs()), f"{text!r} in the log")

    def state_becomes(self, submitted: ExecSubmittedRun, state: str) -> None:
        """Wait until the job is in this state."""
        until(lambda: submitted.status().state.value == state, f"the job is {state}")

    def run_ids(self) -> set[str]:
        """Return the runs of the experiment."""
        return {run.info.run_id for run in self.mlflow.search_runs([self.experiment_id])}

    def environment(self, **changes: str) -> dict[str, str]:
        """Return the environment of a user's shell."""
        ours = {
            "MLFLOW_TRACKING_URI": self.server.url,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        return {**os.environ, **ours, **changes}

    def command_line(
        self, *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
    ) -> subprocess.Popen[str]:
        """Start a command of a user's shell."""
        process = subprocess.Popen(
            arguments,
            env=self.environment(**(env or {})),
            cwd=cwd or self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def mlflow_run(
        self, project: Path, *options: str, env: Mapping[str, str] | None = None, **changes: Any
    ) -> subprocess.Popen[str]:
        """Start ``mlflow run``; further settings by name."""
        return self.command_line(*self.arguments(project, **changes), *options, env=env)

    def arguments(self, project: Path, **changes: Any) -> list[str]:
        """Return the command line of ``mlflow run``; further settings by name."""
        file = self.folder / f"cfg-{len(list(self.folder.iterdir()))}.json"
        file.write_text(json.dumps(self.config(**changes)))
        backend = ["--backend", self.backend, "--backend-config", str(file)]
        return ["mlflow", "run", str(project), *backend]

    def close(self) -> None:
        """Stop what still runs."""
        for process in self.processes:
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
        for submitted in self.submitted:
            with suppress(MlflowExecError):
                submitted.cancel()

"""Jobs for conformance tests: small Python programs, submitted straight to a scheduler."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mlflow_exec.credentials import Secret
from mlflow_exec.errors import JobNotFoundError, MlflowExecError
from mlflow_exec.jobs import JobHandle, JobSpec, JobState, JobStatus
from mlflow_exec.schedulers.base import Plan, Scheduler
from mlflow_exec.settings import BackendSettings
from mlflow_exec.source import Bundle, bundle
from mlflow_exec.testing.collecting import Collected

LIMIT_BYTES = 1 << 20

WAIT = "import signal; print('it waits', flush=True); signal.pause()"
"""A program that says ``it waits`` and then does so for ever."""


@dataclass(frozen=True)
class Submitted:
    """A job of a test."""

    scheduler: Scheduler
    spec: JobSpec
    plan: Plan
    handle: JobHandle

    def statuses(self) -> Collected[JobStatus | None]:
        """Watch the job in the background."""
        return Collected(status for _, status in self.scheduler.watch([self.handle]))

    def reaches(self, state: JobState, timeout_s: float = 180) -> JobStatus:
        """Wait until the job is in this state; fails when it ends otherwise."""

        def there(items: list[JobStatus | None]) -> bool:
            return any(item is not None and item.state is state for item in items)

        found = self.statuses().until(there, f"{self.handle} is {state.value}", timeout_s)
        return next(item for item in found if item is not None and item.state is state)

    def ends(self, timeout_s: float = 300) -> JobStatus:
        """Wait until the job has ended, and return its final status."""
        last = self.statuses().all(timeout_s)[-1]
        assert last is not None, f"{self.handle}: the cluster lost the job"
        return last

    def follow(self) -> Collected[str]:
        """Follow the job's log in the background."""
        return Collected(self.scheduler.logs(self.handle, follow=True))

    def says(self, text: str, timeout_s: float = 180) -> None:
        """Wait until the text is in the log, while the job may go on."""
        self.follow().until(lambda pieces: text in "".join(pieces), repr(text), timeout_s)

    def log(self) -> str:
        """Return the log as the scheduler has it now."""
        return "".join(self.scheduler.logs(self.handle))


@dataclass
class JobMaker:
    """Makes and submits jobs, and removes what is left of them.

    Attributes:
        scheduler: Makes a scheduler of settings.
        settings: Makes settings of the suite's own and a test's.
        folder: An empty folder for projects.
    """

    scheduler: Callable[[BackendSettings], Scheduler]
    settings: Callable[[Mapping[str, Any]], BackendSettings]
    folder: Path
    _submitted: list[Submitted] = field(default_factory=list)
    _bundles: list[Bundle] = field(default_factory=list)

    def spec(
        self,
        program: str,
        *,
        files: Mapping[str, str] | None = None,
        command: str = "python3 main.py",
        parameters: Mapping[str, str] | None = None,
        requirements: tuple[str, ...] | None = None,
        secrets: Mapping[str, Secret] | None = None,
        **settings: Any,
    ) -> JobSpec:
        """Return the specification of a job that runs a Python program.

        Args:
            program: The text of its ``main.py``.
            files: Further files of its project, by name.
            command: The entry point's command, with ``{name}`` of parameters.
            parameters: The entry point's parameters.
            requirements: What to install into an environment of its own; None for no such.
            secrets: Its secret variables.
            settings: The backend's settings, beside those of the suite.
        """
        project = self.folder / uuid.uuid4().hex
        for name, text in {"main.py": program, **(files or {})}.items():
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).write_text(text, encoding="utf-8")
        packed = bundle(project, limit_bytes=LIMIT_BYTES)
        self._bundles.append(packed)
        environment: dict[str, Any] = {"manager": "local"}
        if requirements is not None:
            environment = {"manager": "virtualenv", "dependencies": list(requirements)}
        values = {k: {"value": v, "type": "string"} for k, v in (parameters or {}).items()}
        chosen = self.settings(settings)
        run_id = uuid.uuid4().hex
        order = {
            "format": 1,
            "run_id": run_id,
            "experiment_id": "0",
            "submission": 1,
            "tracking_uri": None,
            "source": {"kind": "archive"},
            "entry_point": {"command": command, "parameters": values},
            "environment": environment,
            "deadline_s": chosen.deadline_s,
        }
        return JobSpec(run_id, "0", 1, order, chosen, packed, secrets or {})

    def plan(self, spec: JobSpec) -> tuple[Scheduler, Plan]:
        """Return a new scheduler for the specification, and its plan."""
        scheduler = self.scheduler(spec.settings)
        delivery = scheduler.delivery(spec.bundle.size_bytes if spec.bundle else 0)
        assert delivery.kind == "scheduler", "a small project needs no artifact store"
        return scheduler, scheduler.plan(spec)

    def submit(self, program: str, **kwargs: Any) -> Submitted:
        """Submit a program; the arguments are those of `spec`."""
        return self.submit_spec(self.spec(program, **kwargs))

    def submit_spec(self, spec: JobSpec) -> Submitted:
        """Submit a job."""
        scheduler, plan = self.plan(spec)
        job = Submitted(scheduler, spec, plan, scheduler.submit(plan))
        self._submitted.append(job)
        return job

    def close(self) -> None:
        """Stop what still runs and delete the bundles."""
        for job in self._submitted:
            with suppress(MlflowExecError):
                job.scheduler.cancel(job.handle, timeout_s=60)
        for packed in self._bundles:
            packed.close()


def stranger_to(handle: JobHandle) -> JobHandle:
    """Return the handle of a job on the same cluster that was never submitted."""
    name = f"mlflow-{uuid.uuid4().hex}-1"
    return replace(handle, path=(*handle.path[:-1], name), uid="")


def known(scheduler: Scheduler, handle: JobHandle) -> JobStatus | None:
    """Return a job's status, None where the cluster does not know it."""
    try:
        return scheduler.status(handle)
    except JobNotFoundError:
        return None


def snapshot(scheduler: Scheduler, run_id: str | None = None) -> dict[JobHandle, JobStatus]:
    """Return a scheduler's snapshot; a handle that comes twice is an error."""
    found: dict[JobHandle, JobStatus] = {}
    pairs: Iterator[tuple[JobHandle, JobStatus]] = scheduler.snapshot(run_id=run_id)
    for handle, status in pairs:
        assert handle not in found, f"{handle} comes twice"
        found[handle] = status
    return found

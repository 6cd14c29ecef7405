"""A submitted job beside its run: what everybody who follows or ends it needs."""

from __future__ import annotations

from dataclasses import dataclass

from mlflow import MlflowClient

from mlflow_exec.jobs import JobHandle, JobStatus
from mlflow_exec.runs.artifacts import RunArtifacts
from mlflow_exec.runs.logs import LogKeeper
from mlflow_exec.runs.store import MlflowRunStore
from mlflow_exec.schedulers.base import Scheduler
from mlflow_exec.settings import BackendSettings


@dataclass(frozen=True)
class Job:
    """A submitted job and all that following it needs.

    Attributes:
        scheduler: Where it runs.
        handle: Its address.
        run_id: Its MLflow run.
        settings: With which it was submitted.
        client: MLflow's client for the run's tracking server.
        writes_state: Whether the job's first step writes its state on the run by itself.
        uploads_log: Whether it puts the log there too.
        artifacts: The run's.
    """

    scheduler: Scheduler
    handle: JobHandle
    run_id: str
    settings: BackendSettings
    client: MlflowClient
    writes_state: bool
    uploads_log: bool
    artifacts: RunArtifacts

    @property
    def store(self) -> MlflowRunStore:
        """The run, as ends are written to it."""
        return MlflowRunStore(self.client)

    def log_keeper(self, listed: JobStatus | None = None) -> LogKeeper:
        """Return what puts the job's log on the run; see `LogKeeper` for what was listed."""
        return LogKeeper(
            self.client, self.run_id, self.artifacts, uploads=self.uploads_log, listed=listed
        )

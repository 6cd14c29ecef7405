"""The way back to a submitted job, from any machine, by its run."""

from __future__ import annotations

import json
from collections.abc import Mapping

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run

from mlflow_exec import registry
from mlflow_exec.errors import HandleError
from mlflow_exec.jobs import JobHandle
from mlflow_exec.runs import tracking
from mlflow_exec.runs.artifacts import RunArtifacts
from mlflow_exec.runs.job import Job
from mlflow_exec.runs.logs import FOLDER
from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.runtime.end import TAG_BACKEND, TAG_HANDLE, TAG_HANDLE_UID, TAG_SETTINGS
from mlflow_exec.schedulers.base import Scheduler
from mlflow_exec.settings import BackendSettings, parse_settings


def attach(
    run_id: str, *, tracking_uri: str | None = None, config: dict[str, object] | None = None
) -> ExecSubmittedRun:
    """Return the handle of a run's job: to wait, read its log, or cancel it.

    Args:
        run_id: The run.
        tracking_uri: Its tracking server; MLflow's current one if None.
        config: Backend settings that are this machine's own (``kubeconfig``, ``context``); the
            others are those of the submission.

    Raises:
        HandleError: The run was not submitted by mlflow-exec.
    """
    client = MlflowClient(tracking_uri or mlflow.get_tracking_uri())
    return ExecSubmittedRun(job_of(client, client.get_run(run_id), config or {}))


def job_of(
    client: MlflowClient,
    run: Run,
    config: Mapping[str, object],
    scheduler: Scheduler | None = None,
    *,
    to_end: bool = False,
) -> Job:
    """Return a run's job.

    Args:
        client: For the run's tracking server.
        run: The run.
        config: See `attach`.
        scheduler: One that reaches the job; made from the settings if None.
        to_end: Whether it is only to be ended, so that the settings on the run's tag will do and
            no artifact is read.

    Raises:
        HandleError: The run was not submitted by mlflow-exec.
    """
    run_id = run.info.run_id
    text = run.data.tags.get(TAG_HANDLE)
    if not text and run.data.tags.get(TAG_BACKEND):
        raise HandleError(
            f"run {run_id}: it has no job; its submission goes on, was refused, or was "
            f"interrupted, and then mlflow-exec reconcile ends the run in time"
        )
    if not text:
        raise HandleError(
            f"run {run_id}: it has no tag {TAG_HANDLE!r}, so no job belongs to it; only runs "
            f"submitted by a backend of mlflow-exec have one"
        )
    handle = JobHandle.parse(text, run.data.tags.get(TAG_HANDLE_UID, ""))
    backend = registry.backend_of_scheme(handle.scheme)
    artifacts = RunArtifacts(client, run.info.artifact_uri)
    told = run.data.tags.get(TAG_SETTINGS) if to_end else None
    if told is None:  # or it was submitted by a version that wrote no such tag
        told = (artifacts.find(f"{FOLDER}/settings.json") or b"{}").decode()
    settings: BackendSettings = parse_settings(
        registry.load(backend.settings), {**_submitted_with(told), **config}, "config"
    )
    if scheduler is None:
        scheduler = registry.load(backend.scheduler, backend.extra)(settings)
        assert scheduler is not None
    writes = tracking.entry_can_write(settings.tracking_uri or client.tracking_uri)
    uploads = writes and tracking.is_proxied(run.info.artifact_uri)
    return Job(scheduler, handle, run_id, settings, client, writes, uploads, artifacts)


def _submitted_with(told: str) -> dict[str, object]:
    try:
        data = json.loads(told)
    except ValueError:
        return {}  # the defaults do for everything but the clocks
    return data if isinstance(data, dict) else {}

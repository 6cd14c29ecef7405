"""From ``mlflow run`` to a submitted job: everything is checked before anything is created."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from mlflow_exec import registry
from mlflow_exec import source as sources
from mlflow_exec.credentials import Secret, without_credentials
from mlflow_exec.errors import AccessDeniedError, ArtifactError, ConfigError, MlflowExecError
from mlflow_exec.jobs import (
    Failure,
    FailureCategory,
    JobHandle,
    JobSpec,
    JobState,
    JobStatus,
)
from mlflow_exec.runs import delivery, tracking
from mlflow_exec.runs.artifacts import RunArtifacts
from mlflow_exec.runs.configuration import (
    check_parameters,
    read_settings,
    settings_of_the_end,
    take_injected,
)
from mlflow_exec.runs.ending import end_of, keep_diagnosis
from mlflow_exec.runs.job import Job
from mlflow_exec.runs.job_sign_in import JobSignIn, sign_in_of_job
from mlflow_exec.runs.logs import FOLDER
from mlflow_exec.runs.progress import Progress
from mlflow_exec.runs.project import Project, read_project
from mlflow_exec.runs.resubmission import keep_submission, next_submission
from mlflow_exec.runs.store import MlflowRunStore
from mlflow_exec.runtime.end import (
    FAILURE_TAGS,
    FINAL_STATES,
    TAG_BACKEND,
    TAG_CANCEL,
    TAG_HANDLE,
    TAG_HANDLE_UID,
    TAG_KEPT,
    TAG_LOG_COMPLETE,
    TAG_SETTINGS,
    TAG_STATE,
    TAG_STATE_BY,
    USED_TAGS,
    write_end,
)
from mlflow_exec.schedulers.base import Plan, Scheduler
from mlflow_exec.settings import BackendSettings
from mlflow_exec.source import Bundle

_PLACEHOLDER_RUN = "0" * 32


@dataclass(frozen=True)
class Call:
    """One call of ``mlflow run``, as MLflow hands it to a backend."""

    backend: str
    project_uri: str
    entry_point: str
    parameters: Mapping[str, Any]
    version: str | None
    config: Mapping[str, Any]
    tracking_uri: str
    experiment_id: str
    run_id: str | None = None
    run_name: str | None = None


@dataclass
class Prepared:
    """A call that was checked as far as this machine can; nothing is created yet."""

    call: Call
    settings: BackendSettings
    scheduler: Scheduler
    project: Project
    bundle: Bundle | None
    way: str
    job_tracking_uri: str
    secrets: Mapping[str, Secret]

    def close(self) -> None:
        """Remove what preparing left on this machine."""
        if self.bundle is not None:
            self.bundle.close()
        self.project.close()


def prepare(call: Call, progress: Progress) -> Prepared:
    """Check a call: settings, project, parameters, and how the code reaches the job.

    Raises:
        ConfigError: Something is wrong with the call; nothing was created anywhere.
    """
    config, env_manager = take_injected(call.config)
    backend = registry.backend(call.backend)
    settings_class = registry.load(backend.settings)
    read_settings(settings_class, config)  # before anything is fetched
    project = read_project(
        call.project_uri, call.version, call.entry_point, call.parameters, env_manager
    )
    try:
        settings = read_settings(settings_class, config, project)
        check_parameters(call.parameters, settings)
        scheduler_class = registry.load(backend.scheduler, backend.extra)
        scheduler = scheduler_class(settings)
        sign_in = sign_in_of_job(settings, call.tracking_uri, scheduler)
        if sign_in.settings is not settings:
            scheduler = scheduler_class(sign_in.settings)
        return _deliverable(call, sign_in, scheduler, project, progress)
    except BaseException:
        project.close()
        raise


def _deliverable(
    call: Call, sign_in: JobSignIn, scheduler: Scheduler, project: Project, progress: Progress
) -> Prepared:
    settings: BackendSettings = sign_in.settings
    uri = tracking.job_tracking_uri(
        settings, call.tracking_uri, same_machine=scheduler.shares_this_machine()
    )
    if getattr(settings, "source", "auto") in ("git", "image"):
        if project.files:
            raise ConfigError(
                f"source: the parameter file {next(iter(project.files.values()))} lies outside of "
                f"the project, and only a bundle can carry it; put it into the project, or use "
                f"another 'source'"
            )
        return Prepared(call, settings, scheduler, project, None,
                        scheduler.delivery(0).kind, uri, sign_in.secrets)  # fmt: skip
    with progress.working("bundling the project"):
        packed = sources.bundle(
            project.root,
            limit_bytes=settings.source_limit,
            extra=project.files,
        )
    try:
        delivery.check_bundled(project, packed)
        chosen = scheduler.delivery(packed.size_bytes)
        way = chosen.kind
        if way == "artifact":
            experiment = MlflowClient(call.tracking_uri).get_experiment(call.experiment_id)
            way = delivery.check_artifact(
                experiment.artifact_location,
                uri,
                project.environment,
                carries_secrets=scheduler.carries_secrets(),
                otherwise=chosen.otherwise,
            )
    except BaseException:
        packed.close()
        raise
    return Prepared(call, settings, scheduler, project, packed, way, uri, sign_in.secrets)


def make_spec(
    prepared: Prepared,
    run_id: str = _PLACEHOLDER_RUN,
    artifact_uri: str = "",
    submission: int = 1,
    source: Mapping[str, Any] | None = None,
    secrets: Mapping[str, Secret] | None = None,
) -> JobSpec:
    """Return the job of a prepared call; with the defaults, for a run that does not exist yet."""
    project, settings = prepared.project, prepared.settings
    if source is None:
        if prepared.way == "git":
            source = delivery.git_source(project)
        elif prepared.way == "image":
            source = delivery.directory_source(project, settings)
        else:
            source = {"kind": "archive"}
    order = {
        "format": 1,
        "run_id": run_id,
        "experiment_id": prepared.call.experiment_id,
        "submission": submission,
        "tracking_uri": prepared.job_tracking_uri,
        "artifact_uri": artifact_uri,
        "source": {"subdirectory": project.subdirectory, **source},
        "entry_point": dict(project.entry_point),
        "environment": dict(project.environment),
        "environment_cache": None,
        "env": tracking.plain_environment(),
        "retry": {"owner": "none"},
        "deadline_s": settings.deadline_s,
    }
    return JobSpec(
        run_id=run_id,
        experiment_id=prepared.call.experiment_id,
        submission=submission,
        order=order,
        settings=settings,
        bundle=prepared.bundle if prepared.way == "scheduler" else None,
        secrets={**prepared.secrets, **(secrets or {})},
    )


def check(prepared: Prepared, progress: Progress) -> Plan:
    """Ask the cluster whether it would accept the job, without creating anything.

    Raises:
        MlflowExecError: It would not; the message says why.
    """
    plan = prepared.scheduler.plan(make_spec(prepared))
    with progress.working("asking the cluster"):
        report = prepared.scheduler.check(plan)
    for warning in report.warnings:
        progress.say(warning)
    return plan


def submit(prepared: Prepared, progress: Progress) -> Job:
    """Create the run, upload, submit, and tag the run with the job's handle.

    Raises:
        MlflowExecError: The cluster refused after all; the run then has ended FAILED, saying why.
    """
    call = prepared.call
    client = MlflowClient(call.tracking_uri)
    run = tracking.create_run(
        client, call.experiment_id, prepared.project, call.entry_point, call.version,
        call.run_id, call.run_name, _marks(call.backend),
    )  # fmt: skip
    run_id = run.info.run_id
    store = MlflowRunStore(client)
    handle: JobHandle | None = None
    try:
        tracking.log_parameters(client, run, prepared.project)
        submission = next_submission(run.data.tags.get(TAG_HANDLE))
        with _artifact_errors(run.info.artifact_uri):
            plan = _uploaded(client, run, prepared, submission, progress)
        address = prepared.scheduler.handle(plan)
        # From here on whatever is interrupted is found by the run, and by what the job is called.
        _open(store, run, prepared, address)
        with progress.working(prepared.scheduler.submitting):
            handle = prepared.scheduler.submit(plan)
        store.set_tags(run_id, {TAG_HANDLE: str(handle), TAG_HANDLE_UID: handle.uid})
    except BaseException as error:
        if handle is not None:  # a run that cannot be written to has no use for a job
            prepared.scheduler.cancel(handle, timeout_s=prepared.settings.cancel_timeout_s)
        _end_failed(client, run, error, progress)
        raise
    progress.say(f"run {run_id} is job {handle}")
    writes = tracking.entry_can_write(prepared.job_tracking_uri)
    uploads = writes and tracking.is_proxied(run.info.artifact_uri)
    artifacts = RunArtifacts(client, run.info.artifact_uri)
    return Job(
        prepared.scheduler, handle, run_id, prepared.settings, client, writes, uploads, artifacts
    )


def _uploaded(
    client: MlflowClient, run: Run, prepared: Prepared, submission: int, progress: Progress
) -> Plan:
    """Put on the run what the job fetches and what people read; return the job's plan."""
    run_id, artifact_uri = run.info.run_id, run.info.artifact_uri
    artifacts = RunArtifacts(client, artifact_uri)
    source: Mapping[str, Any] | None = None
    secrets: Mapping[str, Secret] = {}
    if prepared.bundle is not None and prepared.way in ("proxied", "presigned", "mlflow"):
        with progress.working("uploading the project"):
            source, secrets = delivery.upload(
                artifacts, artifact_uri, prepared.bundle, prepared.way
            )
    spec = make_spec(prepared, run_id, artifact_uri, submission, source, secrets)
    plan = prepared.scheduler.plan(spec)
    artifacts.write(f"{FOLDER}/manifest.yaml", plan.to_yaml().encode())
    artifacts.write(f"{FOLDER}/settings.json", _portable(prepared.settings).encode())
    keep_submission(artifacts, plan, prepared.scheduler, prepared.settings)
    return plan


@contextmanager
def _artifact_errors(artifact_uri: str) -> Iterator[None]:
    """Turn the errors that each kind of artifact store has of its own into one of ours."""
    try:
        yield
    except (MlflowExecError, MlflowException):
        raise
    except Exception as error:
        shown = without_credentials(artifact_uri)
        raise ArtifactError(f"the run's artifacts {shown}: {error}") from error


def _open(store: MlflowRunStore, run: Run, prepared: Prepared, handle: JobHandle) -> None:
    """Mark the run as waiting, before the job can write to it; forget an earlier submission.

    At once: who dies in between leaves the earlier end or this submission, no mixture of the two.
    """
    run_id = run.info.run_id
    own = (TAG_STATE_BY, TAG_HANDLE_UID, TAG_CANCEL)
    forgotten = (*FAILURE_TAGS, *USED_TAGS, *own)
    earlier = [tag for tag in forgotten if tag in run.data.tags]
    tags = {
        **dict.fromkeys(earlier, ""),
        **_marks(prepared.call.backend),
        TAG_HANDLE: str(handle),
        TAG_SETTINGS: settings_of_the_end(prepared.settings),
    }
    store.set_tags(run_id, tags)
    store.delete_tags(run_id, earlier)
    store.set_status(run_id, "SCHEDULED", None)


def _marks(backend: str) -> dict[str, str]:
    """Return the tags by which a run is found that is to be looked after."""
    nothing_yet = {TAG_KEPT: "false", TAG_LOG_COMPLETE: "false"}
    return {TAG_BACKEND: backend, **nothing_yet, TAG_STATE: JobState.QUEUED.value}


def _end_failed(
    client: MlflowClient, run: Run, error: BaseException, progress: Progress
) -> None:
    """End the run of a submission that failed; what cannot be written does not hide why."""
    run_id = run.info.run_id
    status = _status_of(error)
    if status.state is not JobState.CANCELLED:  # who presses Ctrl-C waits for no artifact store
        try:
            keep_diagnosis(RunArtifacts(client, run.info.artifact_uri), None, status)
        except Exception as trouble:  # each artifact store has errors of its own
            progress.say(f"the diagnosis could not be kept on the run: {trouble}")
    try:
        write_end(MlflowRunStore(client), run_id, end_of(status), by="client")
    except MlflowException as trouble:
        progress.say(f"the end of run {run_id} could not be written: {trouble}")


def _status_of(error: BaseException) -> JobStatus:
    if isinstance(error, KeyboardInterrupt):
        return JobStatus(JobState.CANCELLED, "Interrupted while the job was being submitted.")
    category = FailureCategory.INFRASTRUCTURE
    if isinstance(error, ConfigError):
        category = FailureCategory.INVALID_CONFIG
    elif isinstance(error, AccessDeniedError):
        category = FailureCategory.PERMISSION
    message = f"The job could not be submitted: {error}"
    return JobStatus(JobState.FAILED, message, Failure(category, message))


# What is true of this machine only; another one that attaches has its own.
_LOCAL_SETTINGS = {
    "kubeconfig", "context", "kube_context", "kube_job_template_path", "template", "patch",
    "token_file", "ca_cert", "hadoop_conf_dir", "principal", "keytab",
}  # fmt: skip


def _portable(settings: BackendSettings) -> str:
    return json.dumps(
        settings.model_dump(mode="json", exclude=_LOCAL_SETTINGS, exclude_defaults=True), indent=1
    )


def _check_run(call: Call) -> None:
    """Refuse a run that the user names and that is not there, or still has a job.

    Raises:
        ConfigError: Two jobs would write one run, or none could.
    """
    if call.run_id is None:
        return
    try:
        run = MlflowClient(call.tracking_uri).get_run(call.run_id)
    except MlflowException as error:
        raise ConfigError(f"--run-id: {error}") from error
    tags = run.data.tags
    if tags.get(TAG_HANDLE) and tags.get(TAG_STATE) not in FINAL_STATES:
        raise ConfigError(
            f"--run-id: the job {tags[TAG_HANDLE]} of this run has not ended; follow it with "
            f"mlflow-exec attach {call.run_id}, or end it with mlflow-exec cancel {call.run_id}"
        )


def run(call: Call, progress: Progress) -> Job:
    """Prepare, check and submit one call.

    Raises:
        MlflowExecError: It was refused, or failed; see `prepare`, `check` and `submit`.
    """
    prepared = prepare(call, progress)
    try:
        _check_run(call)
        check(prepared, progress)
        return submit(prepared, progress)
    finally:
        prepared.close()


"""The run of a submission, and the tracking server as this machine and the job see it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from mlflow import MlflowClient
from mlflow.entities import Param, Run, RunTag, SourceType
from mlflow.projects import utils as mlflow_projects
from mlflow.tracking import fluent
from mlflow.tracking._tracking_service.utils import _get_git_url_if_present
from mlflow.tracking.context.default_context import _get_user
from mlflow.utils import mlflow_tags as names
from mlflow.utils.uri import is_databricks_uri

from mlflow_exec.credentials import Secret, without_credentials
from mlflow_exec.errors import ConfigError
from mlflow_exec.runs.project import Project
from mlflow_exec.settings import BackendSettings

# https://mlflow.org/docs/latest/self-hosting/security/basic-http-auth/ and mlflow's
# environment_variables.py; the values are sent to the job out of sight, the others in the open.
CREDENTIALS = (
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)
_PLAIN = ("MLFLOW_TRACKING_INSECURE_TLS", "MLFLOW_WORKSPACE")


def job_tracking_uri(settings: BackendSettings, uri: str, *, same_machine: bool) -> str:
    """Return the tracking URI for the job.

    Args:
        settings: Its ``tracking_uri`` wins.
        uri: The submitting process's.
        same_machine: Whether the job runs on this machine.

    Raises:
        ConfigError: The job could not reach it.
    """
    wanted = _in_the_open(settings.tracking_uri or uri, "job")
    if is_databricks_uri(wanted):
        return wanted
    if same_machine:
        return _absolute(wanted)
    if _is_local(wanted):
        raise ConfigError(
            f"tracking_uri: the job runs on another machine and cannot reach {wanted!r}; start a "
            f"tracking server that it can reach (mlflow server --host …) and set "
            f"MLFLOW_TRACKING_URI, or 'tracking_uri' in the backend configuration if the job sees "
            f"it under another name"
        )
    return wanted


def target_tracking_uri(given: str | None, uri: str, *, same_machine: bool) -> str | None:
    """Return the tracking URI from which a deployment's machines download the model.

    Args:
        given: The setting; it wins.
        uri: The deploying process's.
        same_machine: Whether the model is served on this machine.

    Returns:
        None where they could not reach it.

    Raises:
        ConfigError: It holds credentials.
    """
    wanted = _in_the_open(given or uri, "deployment")
    if same_machine and not is_databricks_uri(wanted):
        return _absolute(wanted)
    return wanted if given or not _is_local(wanted) else None


def check_reconciler_uri(uri: str) -> None:
    """Refuse what a reconciler in a cluster could not reach, or must not be told in the open.

    Raises:
        ConfigError: It is local, no tracking server over HTTP, or holds credentials.
    """
    if _holds_credentials(uri):
        raise ConfigError(
            "tracking_uri: it holds a user name or a password, which everybody who sees the "
            "CronJob could read; put them into a Secret and name it by 'tracking_secret'"
        )
    if _is_local(uri) or not entry_can_write(uri):
        raise ConfigError(
            f"tracking_uri: the reconciler runs in a pod and cannot use {uri!r}; an http:// or "
            f"https:// address is needed, of a tracking server as pods reach it"
        )


def _in_the_open(uri: str, seen_with: str) -> str:
    """Return a URI that everybody may read; refuse one with credentials."""
    if _holds_credentials(uri):
        raise ConfigError(
            f"tracking_uri: it holds a user name or a password, which everybody who sees the "
            f"{seen_with} could read; give them by MLFLOW_TRACKING_USERNAME and "
            f"MLFLOW_TRACKING_PASSWORD"
        )
    return uri


def _holds_credentials(uri: str) -> bool:
    parts = urlsplit(uri)
    return bool(parts.username or parts.password)


def _is_local(uri: str) -> bool:
    parts = urlsplit(uri)
    local_host = (parts.hostname or "") in ("localhost", "127.0.0.1", "::1", "0.0.0.0")
    return parts.scheme in ("", "file", "sqlite") or local_host


def _absolute(uri: str) -> str:
    """Make a local store's path valid in the job, which runs in a folder of its own."""
    if uri.startswith("sqlite:///") and not uri.startswith(("sqlite:////", "sqlite:///:")):
        return f"sqlite:///{Path(uri.removeprefix('sqlite:///')).absolute()}"
    return uri if urlsplit(uri).scheme else Path(uri).absolute().as_uri()


def credentials() -> dict[str, Secret]:
    """Return the tracking server's credentials that this process has in its environment."""
    return {
        name: Secret.from_environment(name) for name in CREDENTIALS if os.environ.get(name)
    }


def plain_environment() -> dict[str, str]:
    """Return the settings of MLflow's client that the job needs too and anybody may see."""
    return {name: os.environ[name] for name in _PLAIN if os.environ.get(name)}


def entry_can_write(tracking_uri: str) -> bool:
    """Whether the job's first step can reach the run by MLflow's REST API."""
    return urlsplit(tracking_uri).scheme in ("http", "https")


def is_proxied(artifact_uri: str) -> bool:
    """Whether artifacts go through the tracking server, so that plain HTTP is enough."""
    parts = urlsplit(artifact_uri)
    through = "/api/2.0/mlflow-artifacts/artifacts" in parts.path
    return parts.scheme == "mlflow-artifacts" or (parts.scheme in ("http", "https") and through)


def create_run(
    client: MlflowClient,
    experiment_id: str,
    project: Project,
    entry_point: str,
    version: str | None,
    run_id: str | None,
    run_name: str | None,
    marks: Mapping[str, str],
) -> Run:
    """Create the run of a submission, with MLflow's own tags, or take the one that is named.

    A new run has the marks from its first moment on; one that is named is not ours yet.
    """
    tags = _tags(project, entry_point, version)
    if run_id is None:
        return client.create_run(experiment_id, tags={**tags, **marks}, run_name=run_name)
    run = client.get_run(run_id)
    client.log_batch(run_id, tags=[RunTag(k, v) for k, v in tags.items()])
    return run


def log_parameters(client: MlflowClient, run: Run, project: Project) -> None:
    """Log the parameters as they are.

    MLflow's helper logs them quoted for the shell, and the job's own ``log_param`` then collides.
    """
    known = run.data.params
    params = [Param(k, v) for k, v in project.parameters.items() if k not in known]
    if params:
        client.log_batch(run.info.run_id, params=params)


def _tags(project: Project, entry_point: str, version: str | None) -> dict[str, str]:
    folder = str(project.folder)
    location = mlflow_projects._parse_subdirectory(project.uri)[0]
    if mlflow_projects._is_local_uri(location):
        source = _get_git_url_if_present(str(Path(project.uri).absolute()))
    else:
        source = project.uri
    parent = fluent.active_run()
    commit = mlflow_projects.get_git_commit(folder)
    url = mlflow_projects.get_git_repo_url(folder)
    branch = mlflow_projects._is_valid_branch_name(folder, version)
    tags: Mapping[str, str | None] = {
        names.MLFLOW_USER: _get_user(),
        names.MLFLOW_SOURCE_NAME: without_credentials(source),
        names.MLFLOW_SOURCE_TYPE: SourceType.to_string(SourceType.PROJECT),
        names.MLFLOW_PROJECT_ENTRY_POINT: entry_point,
        names.MLFLOW_PROJECT_ENV: project.environment["manager"],
        names.MLFLOW_GIT_COMMIT: commit,
        names.MLFLOW_GIT_REPO_URL: without_credentials(url) if url else None,
        names.MLFLOW_GIT_BRANCH: version if branch else None,
        names.MLFLOW_PARENT_RUN_ID: parent.info.run_id if parent else None,
    }
    return {key: value for key, value in tags.items() if value is not None}

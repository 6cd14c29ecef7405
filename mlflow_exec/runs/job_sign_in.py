"""How a job signs in at the tracking server: as it is told, or as this process's sign-in says.

A token of this process is never sent along where another one follows it: a job that waits in a
queue or runs for days would outlive it. ``docs/sign-in.md`` has the table.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from mlflow_exec.auth.hosts import Place
from mlflow_exec.auth.reading import PROVIDER, SignIn, find_sign_ins
from mlflow_exec.auth.request_auth import RequestAuth
from mlflow_exec.auth.settings import BasicFileSettings, TokenFileSettings
from mlflow_exec.credential_sources import secret_of_file
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ConfigError
from mlflow_exec.runs import tracking
from mlflow_exec.schedulers.base import Scheduler
from mlflow_exec.settings import BackendSettings, KubernetesSettings

_CHOICE = "MLFLOW_TRACKING_AUTH"
_TOKEN = "MLFLOW_TRACKING_TOKEN"
_USER, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
_BY_MLFLOW = "kubernetes"
"""MLflow's own provider of this name sends the token of the pod's service account."""
_POD_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"
_DOCS = "see docs/sign-in.md"


@dataclass(frozen=True)
class JobSignIn:
    """What a job is given.

    Attributes:
        settings: The backend's, with where the job finds its token.
        secrets: Variables whose values this process sends out of sight.
    """

    settings: Any
    secrets: Mapping[str, Secret]


def sign_in_of_job(settings: BackendSettings, uri: str, scheduler: Scheduler) -> JobSignIn:
    """Return how a job signs in.

    Args:
        settings: The backend's.
        uri: The tracking URI of this process.
        scheduler: Where it runs.

    Raises:
        ConfigError: This process signs in by something that the job cannot, and it is not told
            another way.
    """
    own = tracking.credentials()
    given = getattr(settings, "secrets", {})
    if _TOKEN in given or getattr(settings, "tracking_token_audience", None):
        # Which MLflow would take before the token.
        return JobSignIn(settings, {k: v for k, v in own.items() if k not in (_USER, _PASSWORD)})
    choice = os.environ.get(_CHOICE)
    by_variable = _TOKEN in {*own} or {_USER, _PASSWORD} <= {*own, *given}
    if not choice or by_variable or _CHOICE in settings.env or not tracking.entry_can_write(uri):
        return JobSignIn(settings, own)
    if choice == _BY_MLFLOW and isinstance(settings, KubernetesSettings):
        return JobSignIn(_with_token_in(settings, Path(_POD_TOKEN)), {})
    if choice == PROVIDER:
        sign_in = _used(uri)
        found = sign_in.settings
        if isinstance(found, BasicFileSettings) and scheduler.carries_secrets():
            return JobSignIn(settings, _user_and_password(found))
        if isinstance(found, TokenFileSettings) and scheduler.shares_this_machine():
            return JobSignIn(_with_token_in(settings, found.token_file.absolute()), {})
        choice = f"{PROVIDER} ({sign_in.entry.name})"
    raise ConfigError(
        f"tracking server: this process signs in by {_CHOICE}={choice}, and the job could not; "
        f"{_way_on(settings)}; {_DOCS}"
    )


def _used(uri: str) -> SignIn:
    found = RequestAuth(find_sign_ins(), lambda: uri).sign_in_for(Place.of(uri))
    if found is None:
        raise ConfigError(f"sign-in: no credential is configured for the tracking server {uri}")
    return found


def _way_on(settings: BackendSettings) -> str:
    of_file = f"name a file with a token where it runs by 'secrets': {{{_TOKEN}: {{file: PATH}}}}"
    if isinstance(settings, KubernetesSettings):
        return f"set 'tracking_token_audience', or {of_file}"
    return of_file


def _with_token_in(settings: BackendSettings, path: Path) -> BackendSettings:
    kind = get_args(type(settings).model_fields["secrets"].annotation)[1]
    secrets = {**getattr(settings, "secrets", {}), _TOKEN: kind(file=str(path))}
    return settings.model_copy(update={"secrets": secrets})


def _user_and_password(settings: BasicFileSettings) -> dict[str, Secret]:
    user = settings.username or ""
    of_user = Secret.of(user, "the sign-in's username")
    if settings.username_file is not None:
        of_user = secret_of_file(settings.username_file)
    return {_USER: of_user, _PASSWORD: secret_of_file(settings.password_file)}

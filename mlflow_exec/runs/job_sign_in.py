"""How jobs sign in at the tracking server: as they are told, or as this process's sign-in says.

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
from mlflow_exec.settings import (
    BackendSettings,
    KubernetesSettings,
    KubernetesTargetSettings,
    TargetSettings,
)

_CHOICE = "MLFLOW_TRACKING_AUTH"
_TOKEN = "MLFLOW_TRACKING_TOKEN"
_USER, _PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"
_BY_MLFLOW = "kubernetes"
"""MLflow's own provider of this name sends the token of the pod's service account."""
_POD_TOKEN = "/var/run/secrets/kubernetes.io/serviceaccount/token"
_OF_THE_SERVER = ("runs:", "models:", "mlflow-artifacts:", "http:", "https:")
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
    known = _told(settings, uri)
    if known is not None:
        return JobSignIn(settings, known)
    if os.environ[_CHOICE] == _BY_MLFLOW and isinstance(settings, KubernetesSettings):
        return JobSignIn(_with_token_in(settings, Path(_POD_TOKEN)), {})
    used = _used(uri)
    given = None if used is None else used.settings
    if isinstance(given, BasicFileSettings) and scheduler.carries_secrets():
        return JobSignIn(settings, _user_and_password(given))
    if isinstance(given, TokenFileSettings) and scheduler.shares_this_machine():
        return JobSignIn(_with_token_in(settings, given.token_file.absolute()), {})
    raise _refusal(used, "job", _way_on(settings, "where it runs"))


def sign_in_of_deployment(
    settings: TargetSettings, uri: str, model_uri: str
) -> Mapping[str, Secret]:
    """Return the variables by which a deployment's replicas sign in, to download the model.

    Args:
        settings: The target's.
        uri: The tracking URI of this process.
        model_uri: Where the model is; in a store of its own it needs no tracking server.

    Raises:
        ConfigError: As `sign_in_of_job`.
    """
    known = _told(settings, uri)
    if known is not None:
        return known
    if not model_uri.startswith(_OF_THE_SERVER):
        return tracking.credentials()
    used = _used(uri)
    given = None if used is None else used.settings
    if isinstance(given, BasicFileSettings) and isinstance(settings, KubernetesTargetSettings):
        return _user_and_password(given)
    way_on = f"{_way_on(settings, 'where they run')}, or choose 'model_source: package'"
    raise _refusal(used, "deployment's replicas", way_on)


def _told(settings: Any, uri: str) -> Mapping[str, Secret] | None:
    """Return the variables where it is told how to sign in, or nobody has to; else None."""
    own = tracking.credentials()
    given = getattr(settings, "secrets", {})
    if _TOKEN in given or getattr(settings, "tracking_token_audience", None):
        # Which MLflow would take before the token.
        return {name: secret for name, secret in own.items() if name not in (_USER, _PASSWORD)}
    by_variable = _TOKEN in own or {_USER, _PASSWORD} <= {*own, *given}
    asked = os.environ.get(_CHOICE) and tracking.entry_can_write(uri)
    return own if by_variable or not asked or _CHOICE in settings.env else None


def _used(uri: str) -> SignIn | None:
    """Return the sign-in of this process; None where it is by another provider."""
    if os.environ[_CHOICE] != PROVIDER:
        return None
    found = RequestAuth(find_sign_ins(), lambda: uri).sign_in_for(Place.of(uri))
    if found is None:
        raise ConfigError(f"sign-in: no credential is configured for the tracking server {uri}")
    return found


def _refusal(used: SignIn | None, who: str, way_on: str) -> ConfigError:
    choice = f"{os.environ[_CHOICE]}{'' if used is None else f' ({used.entry.name})'}"
    return ConfigError(
        f"tracking server: this process signs in by {_CHOICE}={choice}, and the {who} could not; "
        f"{way_on}; {_DOCS}"
    )


def _way_on(settings: Any, where: str) -> str:
    of_file = f"name a file with a token {where} by 'secrets': {{{_TOKEN}: {{file: PATH}}}}"
    if isinstance(settings, KubernetesSettings):
        return f"set 'tracking_token_audience', or {of_file}"
    return of_file


def _with_token_in(settings: BackendSettings, path: Path) -> BackendSettings:
    kind = get_args(type(settings).model_fields["secrets"].annotation)[1]
    secrets = {**getattr(settings, "secrets", {}), _TOKEN: kind(file=str(path))}
    return settings.model_copy(update={"secrets": secrets})


def _user_and_password(settings: BasicFileSettings) -> dict[str, Secret]:
    user = Secret.of(settings.username or "", "the sign-in's username")
    if settings.username_file is not None:
        user = secret_of_file(settings.username_file)
    return {_USER: user, _PASSWORD: secret_of_file(settings.password_file)}

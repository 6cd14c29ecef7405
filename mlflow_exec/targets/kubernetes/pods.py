"""The two containers of a pod that answers for a model, as values of the template. Pure."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_exec.clients.kubernetes_resources import container_resources
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ConfigError
from mlflow_exec.releases import EndpointRelease, Release
from mlflow_exec.settings import KubernetesTargetSettings
from mlflow_exec.targets.requirements import (
    ROUTER_REQUIREMENTS,
    SCORING_REQUIREMENTS,
    merged_requirements,
)

PREPARE_CONTAINER = "prepare"
PORT = 8080
TOKEN_KEY = "mlflow-exec-token"
CODE_ZIP = "scoring.zip"
MODEL_ZIP = "model.zip"
SCORING = "MLFLOW_EXEC_SCORING"
ROUTER = "MLFLOW_EXEC_ROUTER"
ROUTES_FILE = "routes.json"

_FILES = "/mlflow-exec"
_CACHE = "/mlflow-exec-cache"
_PACKAGE = "/mlflow-exec-package"
_TOKEN = "/mlflow-exec-token"
_ROUTES = "/mlflow-exec-routes"
_ORDER = "MLFLOW_EXEC_ORDER"
_ENVIRONMENTS_BYTES = 20 * 1024**3
_LISTENING = ("--host", "0.0.0.0", "--port", str(PORT))
# So long everybody may take to hear that a pod gets no new requests.
_NO_MORE_REQUESTS_S = 5
_LIVENESS_PERIOD_S = 15


def pod_values(
    release: Release,
    settings: KubernetesTargetSettings,
    secret_name: str,
    files: str,
    package: str | None,
) -> dict[str, Any]:
    """Return what the template gets for the pods.

    Args:
        release: What is served.
        settings: The settings.
        secret_name: The Secret with the values that come from here.
        files: The ConfigMap with our own code.
        package: The ConfigMap with the model, where it travels along.

    Raises:
        ConfigError: A setting cannot be honoured.
    """
    download = _download_variables(release, settings, secret_name)
    return {
        **_containers(settings, secret_name, _order(release, settings), download, {
            SCORING: _scoring(release, settings),
        }),
        "volume_mounts": _mounts(settings, package),
        "volumes": _volumes(settings, secret_name, files, package),
    }  # fmt: skip


def router_pod_values(
    release: EndpointRelease, settings: KubernetesTargetSettings, files: str, routes: str
) -> dict[str, Any]:
    """Return what the template gets for the pods of an endpoint's router.

    Args:
        release: What is served.
        settings: The settings.
        files: The ConfigMap with our own code.
        routes: The ConfigMap with the routes, which changes while the pods run.
    """
    order = {
        "format": 1,
        "model": None,
        "command": ["-m", "mlflow_exec.scoring.router_server", *_LISTENING],
        **_environment(settings, None, ROUTER_REQUIREMENTS),
    }
    router = {
        "router": {"name": release.name, **settings.router_options()},
        "address": "http://{name}",  # the Services of the same namespace
        "routes_file": f"{_ROUTES}/{ROUTES_FILE}",
    }  # fmt: skip
    mount = {"name": "mlflow-exec-routes", "mountPath": _ROUTES, "readOnly": True}
    volume = {"name": "mlflow-exec-routes", "configMap": {"name": routes}}
    return {
        **_containers(settings, "", json.dumps(order, ensure_ascii=False), [], {
            ROUTER: json.dumps(router, ensure_ascii=False),
        }),
        "volume_mounts": [*_mounts(settings, None), mount],
        "volumes": [*_volumes(settings, "", files, None), volume],
    }  # fmt: skip


def _containers(
    settings: KubernetesTargetSettings,
    secret_name: str,
    order: str,
    download: list[dict[str, Any]],
    server: Mapping[str, str],
) -> dict[str, Any]:
    """Return what both containers are: the first step by its order, and the server after it."""
    common = _variables(settings, secret_name)
    first = [settings.python, "-I", "-S", "-u", f"{_FILES}/entry.py"]
    order_entry = {"name": _ORDER, "value": _escaped(order)}
    entries = [{"name": name, "value": _escaped(value)} for name, value in server.items()]
    drained_s = settings.request_timeout_s + settings.drain_s
    return {
        "grace_s": math.ceil(_NO_MORE_REQUESTS_S + drained_s) + 1,
        "timeout_s": math.ceil(settings.timeout_s),
        "liveness_failures": 4 + math.ceil(settings.request_timeout_s / _LIVENESS_PERIOD_S),
        "port": PORT,
        "image": settings.image,
        "image_pull_policy": settings.image_pull_policy,
        "image_pull_secrets": [{"name": name} for name in settings.image_pull_secrets],
        "prepare_command": [*first, "prepare", f"env:{_ORDER}"],
        "prepare_env": [*common, *download, order_entry],
        "command": [*first, "serve", f"env:{_ORDER}"],
        "env": [*common, *entries, order_entry],
        "stop_command": [
            settings.python, "-I", "-S", "-c", f"import time; time.sleep({_NO_MORE_REQUESTS_S})",
        ],
        "resources": container_resources(settings.resources, settings.gpu_resource),
    }  # fmt: skip


def own_secrets(
    release: Release, settings: KubernetesTargetSettings, environment: Mapping[str, str]
) -> dict[str, Secret]:
    """Return the values that travel in a Secret of the revision, by their key in it.

    Raises:
        ConfigError: A variable is not set here.
    """
    found = {n: s for n, s in release.secrets.items() if n not in settings.secrets}
    wanted = {n: r.env for n, r in settings.secrets.items() if r.env}
    if settings.token is not None and settings.token.env:
        wanted[TOKEN_KEY] = settings.token.env
    for name, variable in wanted.items():
        if variable not in environment:
            setting = "token" if name == TOKEN_KEY else f"secrets.{name}"
            raise ConfigError(f"{setting}: the environment variable {variable!r} is not set here")
        found[name] = Secret.from_environment(variable)
    return found


def _escaped(value: str) -> str:
    # The kubelet expands $(NAME) and takes $$ for $ in values:
    # https://kubernetes.io/docs/tasks/inject-data-application/define-interdependent-environment-variables/
    return value.replace("$", "$$")


def _variables(settings: KubernetesTargetSettings, secret_name: str) -> list[dict[str, Any]]:
    """Return the variables of both containers."""
    # A user without a home has no other place for it. Beside the environments it costs no space,
    # but in a cache that is kept nobody would ever tidy it up.
    packages = "/tmp/mlflow-exec-uv" if settings.cache else f"{_CACHE}/uv"
    entries: list[dict[str, Any]] = [
        {"name": key, "value": _escaped(value)}
        for key, value in {"UV_CACHE_DIR": packages, **settings.env}.items()
    ]
    for name, reference in sorted(settings.secrets.items()):
        if reference.secret:
            entries.append(_secret_variable(name, reference.secret, reference.key or name))
        elif reference.env:
            entries.append(_secret_variable(name, secret_name, name))
    return entries


def _download_variables(
    release: Release, settings: KubernetesTargetSettings, secret_name: str
) -> list[dict[str, Any]]:
    """Return the variables with which the model is downloaded, and by nothing else."""
    plain = {"MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false", **release.env}
    if release.tracking_uri:
        plain["MLFLOW_TRACKING_URI"] = release.tracking_uri
    entries = [
        {"name": key, "value": _escaped(value)}
        for key, value in plain.items()
        if key not in settings.env and key not in settings.secrets
    ]
    names = sorted(set(release.secrets) - set(settings.secrets))
    return entries + [_secret_variable(name, secret_name, name) for name in names]


def _secret_variable(name: str, secret: str, key: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key}}}


def _model_path(release: Release) -> str:
    """Return where the model's files are in the pod: by their content, or what stands for it."""
    package = release.model.package
    what = package.sha256 if package else f"{release.tracking_uri}\n{release.model.pinned_uri}"
    return f"{_CACHE}/models/{hashlib.sha256(what.encode()).hexdigest()[:32]}"


def _order(release: Release, settings: KubernetesTargetSettings) -> str:
    python = None if settings.any_python else release.model.python or None
    if settings.environment == "local" and settings.requirements:
        raise ConfigError(
            "requirements: nothing is installed with 'environment' local; set 'environment' to uv"
        )
    requirements = merged_requirements(
        SCORING_REQUIREMENTS, release.model.requirements, settings.requirements
    )
    package = f"{_PACKAGE}/{MODEL_ZIP}" if release.model.package else None
    order = {
        "format": 1,
        "model": {
            "uri": release.model.pinned_uri, "path": _model_path(release), "package": package,
        },
        "command": ["-m", "mlflow_exec.scoring", *_LISTENING],
        **_environment(settings, python, requirements),
        "secrets": {n: {"file": r.file} for n, r in settings.secrets.items() if r.file},
        "secret_names": sorted(
            {n for n, r in settings.secrets.items() if not r.file} | set(release.secrets)
        ),
    }  # fmt: skip
    return json.dumps(order, ensure_ascii=False)


def _environment(
    settings: KubernetesTargetSettings, python: str | None, requirements: Sequence[str]
) -> dict[str, Any]:
    """Return what the order says of the environment.

    Our code is in its path by the order: a variable of the container is refused by KServe.
    """
    environment: dict[str, Any] = {"manager": settings.environment, "python": python}
    cache = None
    if settings.environment == "uv":
        environment["dependencies"] = list(requirements)
        cache = {"path": f"{_CACHE}/environments", "limit_bytes": _ENVIRONMENTS_BYTES}
    return {
        "environment": environment,
        "environment_cache": cache,
        "python_path": f"{_FILES}/{CODE_ZIP}",
    }


def _scoring(release: Release, settings: KubernetesTargetSettings) -> str:
    options: dict[str, Any] = {
        "model_uri": _model_path(release),
        "name": release.name,
        "model_version": release.model.version,
        **settings.scoring_options(),
    }
    if settings.token is not None:
        options["token_file"] = settings.token.file or f"{_TOKEN}/token"
    return json.dumps(options, ensure_ascii=False)


def _mounts(settings: KubernetesTargetSettings, package: str | None) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {"name": "mlflow-exec", "mountPath": _FILES, "readOnly": True},
        {"name": "mlflow-exec-cache", "mountPath": _CACHE},
    ]
    if package:
        mounts.append({"name": "mlflow-exec-package", "mountPath": _PACKAGE, "readOnly": True})
    if settings.token is not None and not settings.token.file:
        mounts.append({"name": "mlflow-exec-token", "mountPath": _TOKEN, "readOnly": True})
    return mounts + settings.volume_mounts


def _volumes(
    settings: KubernetesTargetSettings, secret_name: str, files: str, package: str | None
) -> list[dict[str, Any]]:
    place: dict[str, Any] = {"emptyDir": {}}
    if settings.cache and settings.cache.claim:
        place = {"persistentVolumeClaim": {"claimName": settings.cache.claim}}
    elif settings.cache:
        place = {"hostPath": {"path": settings.cache.host_path, "type": "DirectoryOrCreate"}}
    volumes: list[dict[str, Any]] = [
        {"name": "mlflow-exec", "configMap": {"name": files}},
        {"name": "mlflow-exec-cache", **place},
    ]
    if package:
        volumes.append({"name": "mlflow-exec-package", "configMap": {"name": package}})
    token = settings.token
    if token is not None and not token.file:
        secret, key = (token.secret, token.key or "token") if token.secret else ("", "")
        source = {
            "secretName": secret or secret_name,
            "items": [{"key": key or TOKEN_KEY, "path": "token"}],
        }
        volumes.append({"name": "mlflow-exec-token", "secret": source})
    return volumes + settings.volumes

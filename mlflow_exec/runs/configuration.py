"""The settings of a call, out of all the places that say something about them.

Later ones win: the defaults, the MLproject's ``docker_env``, the backend configuration, the
environment of the command line.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlflow_exec.credentials import looks_secret, why_secret_parameter
from mlflow_exec.errors import ConfigError
from mlflow_exec.runs import tracking
from mlflow_exec.runs.project import Project
from mlflow_exec.schedulers.base import Scheduler
from mlflow_exec.settings import BackendSettings, expand_file, known_keys, parse_settings

_WHERE = "--backend-config"
# What MLflow puts into the configuration of every backend; taken out before keys are checked.
_INJECTED = (
    "ENV_MANAGER", "SYNCHRONOUS", "DOCKER_ARGS", "STORAGE_DIR", "build_image", "docker_auth",
)  # fmt: skip
_REFUSED = {
    "DOCKER_ARGS": "--docker-args: the job does not run by `docker run`; use the backend "
    "configuration's own settings (env, resources, patch, …)",
    "STORAGE_DIR": "--storage-dir: the job downloads path parameters on its own machine; leave it "
    "out",
    "build_image": "--build-image: no image is built; the project travels to the job by itself. "
    "Build the image with your own tools and set 'image'",
    "docker_auth": "docker_auth: no image is built or pulled here; for a private registry use "
    "'image_pull_secrets'",
}


# What whoever ends a run from outside must know of its submission.
_OF_THE_END = {
    "tracking_uri", "queue_timeout_s", "start_timeout_s", "image_pull_grace_s", "cancel_timeout_s",
    "infra_retries", "ttl_s",
}  # fmt: skip


def settings_of_the_end(settings: BackendSettings) -> str:
    """Return, as JSON for a tag, the settings that decide when and how others end a job.

    Only those that are not the default. A search for runs tells them without another request.
    """
    shown = settings.model_dump(mode="json", include=_OF_THE_END, exclude_defaults=True)
    return json.dumps(shown)


@dataclass(frozen=True)
class Origin:
    """One setting's value, and where it comes from."""

    value: Any
    where: str


def take_injected(config: Mapping[str, Any]) -> tuple[dict[str, Any], str | None]:
    """Return the user's own part of a configuration, and the environment manager.

    Raises:
        ConfigError: It holds an option of MLflow that has no meaning here.
    """
    own = expand_file(config, _WHERE)
    injected = {key: own.pop(key, None) for key in _INJECTED}
    for key, message in _REFUSED.items():
        if injected[key]:
            raise ConfigError(message)
    return own, injected["ENV_MANAGER"]


def read_settings(
    cls: type[BackendSettings], config: Mapping[str, Any], project: Project | None = None
) -> BackendSettings:
    """Return the checked settings, those of the project's ``docker_env`` included.

    Raises:
        ConfigError: A key is unknown, a value is wrong, or the backend knows no images.
    """
    found = _docker_env(project)
    if found and "image" not in cls.model_fields:
        raise ConfigError(
            "MLproject: docker_env names an image, and this backend runs jobs in the environment "
            "of the cluster's own nodes; replace docker_env by python_env, or use a backend that "
            "runs images (k8s)"
        )
    merged = {**found, **{key: value for key, value in config.items() if value is not None}}
    for key in set(found) & set(config):
        if isinstance(config[key], Mapping):
            merged[key] = {**found[key], **config[key]}
        elif isinstance(config[key], list):
            merged[key] = [*found[key], *config[key]]
    nulls = {key: None for key in config if key not in merged}
    return parse_settings(cls, merged | nulls, _WHERE)


def check_parameters(given: Mapping[str, Any], settings: BackendSettings) -> None:
    """Refuse a parameter that would put a secret on the run and into the job's command line.

    Raises:
        ConfigError: There is one; the message names the way on.
    """
    for name, value in given.items():
        if why := why_secret_parameter(str(name), str(value), settings.not_secret):
            raise ConfigError(
                f"parameter {name!r}: {why}, and parameters are on the run and in the job for "
                f"everybody to read; give a variable by 'secrets' in the backend configuration "
                f"and write ${str(name).upper()} in the MLproject's command, or name the parameter "
                f"in 'not_secret' if it is none"
            )


def _docker_env(project: Project | None) -> dict[str, Any]:
    """Return what an MLproject's docker_env says, as settings."""
    docker = project.docker_env if project else {}
    if not docker:
        return {}
    env: dict[str, str] = {}
    secrets: dict[str, Any] = {}
    for item in docker.get("environment") or []:
        if isinstance(item, list):
            env[str(item[0])] = str(item[1])
        elif item in os.environ and looks_secret(item):
            secrets[item] = {"env": item}
        elif item in os.environ:
            env[item] = os.environ[item]
    volumes, mounts = _docker_volumes(docker.get("volumes") or [])
    found = {
        "image": docker.get("image"),
        "env": env,
        "secrets": secrets,
        "volumes": volumes,
        "volume_mounts": mounts,
    }
    return {key: value for key, value in found.items() if value}


def _docker_volumes(given: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    volumes, mounts = [], []
    for number, text in enumerate(given):
        host, _, rest = text.partition(":")
        target, _, mode = rest.partition(":")
        if not target.startswith("/"):
            raise ConfigError(
                f"MLproject docker_env.volumes: '/path:/path' is needed; given {text!r}"
            )
        name = f"docker-env-{number}"
        volumes.append({"name": name, "hostPath": {"path": host}})
        mounts.append({"name": name, "mountPath": target, "readOnly": mode == "ro"})
    return volumes, mounts


def origins(
    settings: BackendSettings,
    config: Mapping[str, Any],
    project: Project,
    scheduler: Scheduler,
    env_manager: str | None,
    tracking_uri: str,
) -> dict[str, Origin]:
    """Return every setting that has a value, by name, with where it comes from.

    Args:
        settings: The result of all.
        config: What the backend configuration gave.
        project: The project.
        scheduler: For the settings that it takes from its own surroundings.
        env_manager: The option of the command line.
        tracking_uri: As the job is told it.
    """
    docker = _docker_env(project)
    shown: dict[str, Origin] = {}
    values = settings.model_dump(mode="json", by_alias=True)
    for key in known_keys(type(settings)):
        places = [
            place
            for place, held in (("MLproject docker_env", docker), (_WHERE, config))
            if held.get(key) is not None
        ]
        if not isinstance(values[key], (dict, list)):
            places = places[-1:]  # only these are merged
        if values[key] not in (None, {}, []):
            shown[key] = Origin(values[key], ", ".join(places) or "default")
    for key, (value, where) in scheduler.assumed().items():
        shown.setdefault(key, Origin(value, where))
    shown.setdefault("template", Origin(scheduler.template, "built in"))
    where = "MLFLOW_TRACKING_URI" if os.environ.get("MLFLOW_TRACKING_URI") else "MLflow's default"
    shown.setdefault("tracking_uri", Origin(tracking_uri, where))
    by_option = "--env-manager" if env_manager else "the project's files"
    shown["environment manager"] = Origin(project.environment["manager"], by_option)
    for name in tracking.credentials():
        shown[name] = Origin("***", f"the environment variable {name}")
    for name, value in tracking.plain_environment().items():
        shown[name] = Origin(value, f"the environment variable {name}")
    return shown

"""A job specification as one submission to Ray's Jobs API, and the package it runs. Pure."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from mlflow_exec import runtime
from mlflow_exec.clients.ray_packages import package_name
from mlflow_exec.credentials import holds_credentials, why_secret
from mlflow_exec.errors import ConfigError, TemplateError
from mlflow_exec.jobs import JobSpec
from mlflow_exec.schedulers.base import Plan
from mlflow_exec.settings import RaySettings
from mlflow_exec.source import write_zip
from mlflow_exec.templates import load_patch, merge, render, texts_in

META_MANAGED = "managed-by"
META_RUN = "mlflow-exec/run-id"
META_EXPERIMENT = "mlflow-exec/experiment-id"
META_RETRIES = "mlflow-exec/retries"
MANAGED_BY = "mlflow-exec"
JOB_TEMPLATE = "ray/job.yaml.j2"

RUNTIME_FOLDER = ".mlflow_exec"
ORDER_VARIABLE = "MLFLOW_EXEC_ORDER"
# A variable of the environment holds 128 KiB on Linux, and Ray puts this one, escaped again and
# again, into a second variable and into a command line. A larger order travels as a file.
ORDER_VARIABLE_BYTES = 16 * 1024
_ORDER_FILE = f"{RUNTIME_FOLDER}/order.json"

# Ray's own default of 3 s would kill the first step before it has kept the log; read from the
# job's environment by python/ray/dashboard/modules/job/job_supervisor.py.
_STOP_WAIT = {"RAY_JOB_STOP_WAIT_TIME_S": "30"}

# https://docs.ray.io/en/latest/cluster/running-applications/job-submission/openapi.html
_SUBMISSION_KEYS = (
    "entrypoint", "entrypoint_label_selector", "entrypoint_memory", "entrypoint_num_cpus",
    "entrypoint_num_gpus", "entrypoint_resources", "metadata", "runtime_env", "submission_id",
)  # fmt: skip


def make_plan(spec: JobSpec, settings: RaySettings) -> Plan:
    """Return the submission of a job, and its package as data.

    Raises:
        ConfigError: A template, a patch or a setting cannot be honoured.
        SourceError: The project has a file of our own name.
    """
    order = _order(spec, settings)
    # Ray replaces $NAME in the values of variables (update_envs in python/ray/_private/utils.py);
    # JSON can write the dollar so that nothing is found to replace.
    text = json.dumps(order).replace("$", "\\u0024")
    files = {
        f"{RUNTIME_FOLDER}/{name}": runtime.read(name).encode() for name in runtime.RUNTIME_FILES
    }
    by_file = len(text) > ORDER_VARIABLE_BYTES
    if by_file:
        files[_ORDER_FILE] = text.encode()
    package, content = _package(spec, files)
    variables = settings.env | ({} if by_file else {ORDER_VARIABLE: text})
    submission = render(_template(settings), _values(spec, settings, package, variables, by_file))
    if len(submission) != 1:
        raise TemplateError(f"template {str(_template(settings))!r}: exactly one object is needed")
    job = merge(submission[0], load_patch(settings.patch))
    _protect(job, spec, package)
    _refuse_literals(job, settings.not_secret)
    return Plan(spec, (job,), {package: content})


def _template(settings: RaySettings) -> Path | str:
    return Path(settings.template) if settings.template else JOB_TEMPLATE


def _order(spec: JobSpec, settings: RaySettings) -> dict[str, Any]:
    order = dict(spec.order)
    # The Jobs API starts an entry point once; what is repeated is repeated by the first step.
    order["retry"] = {"owner": "entry", "retries": settings.retries}
    order["secrets"] = {
        name: {"env": reference.node_env, "file": reference.file}
        for name, reference in settings.secrets.items()
    }
    order["deadline_s"] = settings.deadline_s
    cache = settings.environment_cache
    order["environment_cache"] = settings.kept_environments(
        None if cache is None else cache.path, dict(order.get("environment") or {}).get("manager")
    )
    if spec.bundle is not None:
        order["source"] = {
            "kind": "directory",
            "path": ".",
            "copy": True,
            "exclude": [RUNTIME_FOLDER],
            "subdirectory": dict(order.get("source") or {}).get("subdirectory", ""),
        }
    literal = {name: value for name, value in settings.env.items() if "$" in value}
    if literal:  # Ray would replace parts of them; the first step sets them as they are
        order["env"] = {**literal, **dict(order.get("env") or {})}
    return order


def _package(spec: JobSpec, files: Mapping[str, bytes]) -> tuple[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="mlflow-exec-") as folder:
        path = Path(folder) / "package.zip"
        sha256 = write_zip(path, spec.bundle, files)
        return package_name(sha256), path.read_bytes()


def _values(
    spec: JobSpec,
    settings: RaySettings,
    package: str,
    variables: dict[str, str],
    order_in_file: bool,
) -> dict[str, Any]:
    asked = settings.resources
    order = _ORDER_FILE if order_in_file else f"env:{ORDER_VARIABLE}"
    return {
        "name": spec.name,
        "entrypoint": f"exec python -I -S -u {RUNTIME_FOLDER}/entry.py {order}",
        "metadata": {
            META_MANAGED: MANAGED_BY,
            META_RUN: spec.run_id,
            META_EXPERIMENT: str(spec.experiment_id),
            META_RETRIES: str(settings.retries),
        },
        "cpu": 1 if asked.cpu is None else asked.cpu,
        "gpu": asked.gpu,
        "memory_bytes": asked.memory,
        "resources": asked.custom,
        "runtime_env": _runtime_env(settings.runtime_env, package, variables),
    }


def _runtime_env(
    given: Mapping[str, Any], package: str, variables: dict[str, str]
) -> dict[str, Any]:
    if "working_dir" in given:
        raise ConfigError(
            f"runtime_env.working_dir: the project is the working directory; given "
            f"{given['working_dir']!r}; put the files into the project, or give py_modules"
        )
    users = given.get("env_vars") or {}
    if not isinstance(users, Mapping):
        raise ConfigError(f"runtime_env.env_vars: a mapping is needed; given {users!r}")
    for module in given.get("py_modules") or ():
        if "://" not in str(module):
            raise ConfigError(
                f"runtime_env.py_modules: {module!r} is a path of this machine; give a URI such as "
                f"'s3://…/module.zip', or put the module into the project"
            )
    env_vars = {str(name): str(value) for name, value in users.items()}
    return {
        **{key: _contents(key, value) for key, value in given.items()},
        "working_dir": f"gcs://{package}",
        "env_vars": _STOP_WAIT | env_vars | variables,
    }


def _contents(key: str, value: Any) -> Any:
    """Return what a file names: Ray's own client reads these files here, the REST API there."""
    if not isinstance(value, str):
        return value
    if key in ("pip", "uv"):
        lines = [line.strip() for line in _read(key, value).splitlines()]
        return [line for line in lines if line and not line.startswith("#")]
    if key == "conda" and value.endswith((".yml", ".yaml")):
        return yaml.safe_load(_read(key, value))
    return value


def _read(key: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"runtime_env.{key}: {path!r} cannot be read: {error}") from error


def _protect(job: Mapping[str, Any], spec: JobSpec, package: str) -> None:
    """Refuse a template or patch that takes away what finds or starts the job."""
    unknown = sorted(set(job) - set(_SUBMISSION_KEYS))
    if unknown:
        raise TemplateError(
            f"patch: {unknown[0]!r} is no key of a Ray job submission. "
            f"Known: {', '.join(_SUBMISSION_KEYS)}"
        )
    if job.get("submission_id") != spec.name:
        raise TemplateError("patch: submission_id finds the job and must stay")
    metadata = job.get("metadata") or {}
    if (metadata.get(META_MANAGED), metadata.get(META_RUN)) != (MANAGED_BY, spec.run_id):
        raise TemplateError(
            f"patch: metadata {META_MANAGED!r} and {META_RUN!r} find the job and must stay"
        )
    if (job.get("runtime_env") or {}).get("working_dir") != f"gcs://{package}":
        raise TemplateError("patch: runtime_env.working_dir holds the job's first step, must stay")


def _refuse_literals(job: Mapping[str, Any], known_as_none: list[str]) -> None:
    """Refuse secrets that runtime_env, a template or a patch would show to all users of Ray."""
    environment = dict(job.get("runtime_env") or {})
    variables = dict(environment.pop("env_vars", None) or {})
    variables.pop(ORDER_VARIABLE, None)
    way = (
        "and Ray shows the runtime environment to everybody who can list jobs; give it by the "
        "setting 'secrets', which name a variable or a file of the cluster's nodes"
    )
    for name, value in variables.items():
        if why := why_secret(str(name), str(value), known_as_none):
            raise ConfigError(
                f"runtime_env.env_vars.{name}: {why}, {way}, or name it in 'not_secret' if it is "
                f"none"
            )
    for text in texts_in({**job, "runtime_env": environment}):
        if holds_credentials(text):
            raise ConfigError(f"runtime_env, patch: a URL holds credentials, {way}")

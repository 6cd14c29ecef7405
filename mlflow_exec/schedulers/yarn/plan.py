"""A job specification as one application by skein's specification, and the files it needs. Pure."""

from __future__ import annotations

import json
import math
import shlex
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow_exec import runtime
from mlflow_exec.clients.hadoop_config import HadoopConfig
from mlflow_exec.credentials import Secret, holds_credentials
from mlflow_exec.errors import ConfigError, TemplateError
from mlflow_exec.jobs import JobSpec
from mlflow_exec.schedulers.base import Plan
from mlflow_exec.schedulers.yarn.packing import Packing
from mlflow_exec.settings import YarnSettings
from mlflow_exec.source import write_zip
from mlflow_exec.templates import load_patch, merge, render, texts_in

APPLICATION_TEMPLATE = "yarn/application.yaml.j2"
MANAGED_BY = "mlflow-exec"
"""The tag that every application of ours has; its run's and its own name are two others."""
RETRIES_TAG = "mlflow-exec-retries"
"""The tag of an application whose first step may start the entry point more than once."""

FIRST_STEP = "mlflow_exec_job"
PROJECT = "mlflow_exec_project.zip"
ENVIRONMENT = "mlflow_exec_environment"
SECRET_PREFIX = "mlflow_exec_secret_"
ENVIRONMENTS_FOLDER = "environments"
_ORDER_FILE = "order.json"
_OWN_FOLDER = ".mlflow-exec"
_DEFAULT_MEMORY_BYTES = 1024**3
_MIB = 1024**2
# Java variables of skein's application master, not of the job. By default a SIGTERM makes the
# master take its leave of YARN before it goes, and YARN then forgets why it ended the container,
# be it for its memory.
_OF_MASTER = {"JAVA_TOOL_OPTIONS": "-Xrs"}
# https://jcristharif.com/skein/specification.html; `priority` is ours.
_KEYS = (
    "acls", "file_systems", "master", "max_attempts", "name", "node_label", "priority", "queue",
    "tags", "user",
)  # fmt: skip


def staging_root(settings: YarnSettings, config: HadoopConfig, user: str) -> str:
    """Return the URI of the folder for all that a user stages.

    Raises:
        ConfigError: The configuration names no HDFS, and no setting does.
    """
    base = settings.staging_dir or ""
    filesystem, path = config.default_filesystem, base
    if "://" in base:
        scheme, _, rest = base.partition("://")
        authority, _, path = rest.partition("/")
        filesystem, path = f"{scheme}://{authority}", f"/{path}"
    if not filesystem.startswith("hdfs://"):
        raise ConfigError(
            f"staging_dir: uploads need an HDFS; fs.defaultFS in {config.folder} is "
            f"{filesystem!r}; give a URI such as 'hdfs://namenode:8020/tmp/mlflow-exec'"
        )
    if not base:
        home = config.get("dfs.user.home.dir.prefix", "/user").rstrip("/")
        return f"{filesystem.rstrip('/')}{home}/{user}/{_OWN_FOLDER}"
    if not path.startswith("/"):
        raise ConfigError(f"staging_dir: an absolute path or a URI is needed; given {base!r}")
    return f"{filesystem.rstrip('/')}{path.rstrip('/')}/{user}"


def staging_folder(application: Mapping[str, Any]) -> str | None:
    """Return the URI of the folder with the files of one application; None if it has none."""
    files = (application.get("master") or {}).get("files") or {}
    own = files.get(FIRST_STEP) or {}
    source = str(own.get("source") or "")
    return source.rpartition("/")[0] or None


def make_plan(
    spec: JobSpec,
    settings: YarnSettings,
    root: str,
    packing: Packing | None,
    file_systems: Sequence[str] = (),
) -> Plan:
    """Return the application of a job, and the archive of its first step as data.

    Args:
        spec: The job.
        settings: Of the backend.
        root: What `staging_root` says.
        packing: The environment that travels with it, if one does.
        file_systems: What it reaches besides those of the settings.

    Raises:
        ConfigError: A template, a patch or a setting cannot be honoured.
    """
    secrets = _client_secrets(spec, settings)
    order = _order(spec, settings, secrets, packing)
    first_step, content = _first_step(order)
    folder = f"{root}/{spec.name}"
    files: dict[str, Any] = {
        FIRST_STEP: {"source": f"{folder}/{first_step}", "type": "archive"},
    }
    if spec.bundle is not None:
        source = f"{folder}/{spec.bundle.sha256[:32]}.zip"
        # Unpacked by the first step, which knows every file name and checks the sum.
        files[PROJECT] = {"source": source, "type": "file"}
    if packing is not None:
        source = f"{root}/{ENVIRONMENTS_FOLDER}/{packing.file_name}"
        files[ENVIRONMENT] = {"source": source, "type": "archive", "visibility": "private"}
    for name in secrets:
        files[f"{SECRET_PREFIX}{name}"] = {"source": f"{folder}/secret-{name}", "type": "file"}
    values = _values(spec, settings, files)
    values["file_systems"] = list(dict.fromkeys([*settings.file_systems, *file_systems]))
    rendered = render(_template(settings), values)
    if len(rendered) != 1:
        raise TemplateError(f"template {str(_template(settings))!r}: exactly one object is needed")
    application = merge(rendered[0], load_patch(settings.patch))
    _protect(application, spec, files)
    return Plan(spec, (application,), {first_step: content}, secrets)


def staged(plan: Plan) -> Iterator[tuple[str, bytes | Path | Secret]]:
    """Yield what is to be put into an application's staging folder, by file name.

    The first step's archive comes last: the folder is complete when it is there.
    """
    files = plan.objects[0]["master"]["files"]
    if plan.spec.bundle is not None:
        yield _base(files[PROJECT]), plan.spec.bundle.path
    for name, secret in plan.secrets.items():
        yield _base(files[f"{SECRET_PREFIX}{name}"]), secret
    yield from plan.data.items()


def _base(file: Mapping[str, Any]) -> str:
    return str(file["source"]).rpartition("/")[2]


def _template(settings: YarnSettings) -> Path | str:
    return Path(settings.template) if settings.template else APPLICATION_TEMPLATE


def _client_secrets(spec: JobSpec, settings: YarnSettings) -> dict[str, Secret]:
    """Return the secrets whose values this process has and the job is to get."""
    secrets = dict(spec.secrets)
    for name, reference in settings.secrets.items():
        if reference.env is not None:
            secrets[name] = Secret.from_environment(reference.env)
        else:
            secrets.pop(name, None)  # the node's own value wins over the tracking credentials here
    for name in secrets:
        if not name.replace("_", "a").isalnum() or not name.isascii():
            raise ConfigError(f"secrets.{name}: that is no name of an environment variable")
    return secrets


def _order(
    spec: JobSpec, settings: YarnSettings, secrets: Mapping[str, Secret], packing: Packing | None
) -> dict[str, Any]:
    order = dict(spec.order)
    # YARN starts an application master once; what is repeated is repeated by the first step.
    order["retry"] = {"owner": "entry", "retries": settings.retries}
    order["secrets"] = {
        name: {"env": None, "file": reference.file}
        for name, reference in settings.secrets.items()
        if reference.file is not None
    } | {name: {"env": None, "file": f"{SECRET_PREFIX}{name}"} for name in secrets}
    order["deadline_s"] = settings.deadline_s
    # Not by the launch script of the container, a shell that would change some values.
    order["env"] = {**settings.env, **dict(order.get("env") or {})}
    environment = dict(order.get("environment") or {})
    if settings.environment == "local":
        environment = {"manager": "local"}
    elif packing is not None:
        python = environment.get("python")
        environment = {"manager": "packed", "path": ENVIRONMENT, "python": python}
    order["environment"] = environment
    cache = settings.environment_cache
    built = environment.get("manager") != "packed"
    order["environment_cache"] = settings.kept_environments(
        cache.path if cache is not None and built else None, environment.get("manager")
    )
    if spec.bundle is not None:
        order["source"] = {
            "kind": "archive",
            "path": PROJECT,
            "sha256": spec.bundle.sha256,
            "subdirectory": dict(order.get("source") or {}).get("subdirectory", ""),
        }
    return order


def _first_step(order: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return the name and the content of the archive with the first step and its order."""
    files = {name: runtime.read(name).encode() for name in runtime.RUNTIME_FILES}
    files[_ORDER_FILE] = json.dumps(order).encode()
    with tempfile.TemporaryDirectory(prefix="mlflow-exec-") as folder:
        path = Path(folder) / "first-step.zip"
        sha256 = write_zip(path, None, files)
        return f"{sha256[:32]}.zip", path.read_bytes()


def _values(
    spec: JobSpec, settings: YarnSettings, files: Mapping[str, Any]
) -> dict[str, Any]:
    asked = settings.resources
    memory_bytes = asked.memory if asked.memory is not None else _DEFAULT_MEMORY_BYTES
    python = shlex.quote(settings.python)
    first_step = f"{python} -I -S -u {FIRST_STEP}/entry.py {FIRST_STEP}/{_ORDER_FILE}"
    return {
        "name": spec.name,
        "application_name": settings.application_name or spec.name,
        "queue": settings.queue,
        "node_label": settings.node_label,
        "user": settings.user,
        "tags": [
            MANAGED_BY, f"mlflow-{spec.run_id}", spec.name,
            *([RETRIES_TAG] if settings.retries else []),
        ],
        "priority": settings.priority,
        "acls": {"enable": True, **settings.acls.model_dump()},
        "memory_mib": math.ceil(memory_bytes / _MIB),
        "vcores": 1 if asked.cpu is None else max(1, int(asked.cpu)),
        "gpus": asked.gpu,
        "files": files,
        "env": dict(_OF_MASTER),
        "script": f"unset {' '.join(_OF_MASTER)}; exec {first_step}",
    }


def _protect(application: Mapping[str, Any], spec: JobSpec, files: Mapping[str, Any]) -> None:
    """Refuse a template or patch that takes away what finds, starts or guards the job."""
    unknown = sorted(set(application) - set(_KEYS))
    if unknown:
        raise TemplateError(
            f"patch: {unknown[0]!r} is no key of an application. Known: {', '.join(_KEYS)}"
        )
    tags = {str(tag).lower() for tag in application.get("tags") or ()}
    needed = {MANAGED_BY, f"mlflow-{spec.run_id}", spec.name}
    if not needed <= tags:
        raise TemplateError(f"patch: the tags {', '.join(sorted(needed))} find the job, must stay")
    if application.get("max_attempts") != 1:
        raise TemplateError(
            "patch: max_attempts must be 1: a second start would write the same run; see "
            "'infra_retries'"
        )
    master = application.get("master") or {}
    kept = master.get("files") or {}
    for name, file in files.items():
        if dict(kept.get(name) or {}).get("source") != file["source"]:
            raise TemplateError(f"patch: master.files.{name} is needed by the job, must stay")
    for text in texts_in(application):
        if holds_credentials(text):
            raise ConfigError(
                "patch: a URL holds credentials, and YARN shows the application to others; give "
                "them by 'secrets'"
            )

"""An MLflow project and a call of it, as the parts of a job order."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from mlflow.exceptions import MlflowException
from mlflow.projects import _project_spec, env_type
from mlflow.projects import utils as mlflow_projects
from mlflow.utils.environment import _PythonEnv
from mlflow.utils.file_utils import get_local_path_or_none

from mlflow_exec.credentials import holds_credentials, without_credentials
from mlflow_exec.errors import ConfigError

_FOLDER_OF_PARAMETERS = ".mlflow-exec-parameters"
_REQUIREMENTS = "requirements.txt"


@dataclass(frozen=True)
class Project:
    """A project whose call was checked.

    Attributes:
        name: From the MLproject file; may be empty.
        root: The folder to bundle.
        subdirectory: Where in it the project lies; empty for the root itself.
        uri: As the user gave it.
        git: ``uri`` and ``commit`` where the project came from git; else None.
        temporary: Whether ``root`` was made for this call.
        entry_point: The ``entry_point`` of the job order.
        environment: The ``environment`` of the job order.
        parameters: Name to value as text, declared and further ones, for the run's params.
        files: Files outside of the project that parameters name, by their path in the bundle.
        docker_env: The MLproject's ``docker_env``; empty if none.
    """

    name: str
    root: Path
    subdirectory: str
    uri: str
    git: Mapping[str, str] | None
    temporary: bool
    entry_point: Mapping[str, Any]
    environment: Mapping[str, Any]
    parameters: Mapping[str, str]
    files: Mapping[str, Path] = field(default_factory=dict)
    docker_env: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The folder with the MLproject file."""
        return self.root / self.subdirectory

    def close(self) -> None:
        """Remove what fetching the project left on this machine."""
        if self.temporary:
            shutil.rmtree(self.root, ignore_errors=True)


def read_project(
    uri: str,
    version: str | None,
    entry_point: str,
    parameters: Mapping[str, Any] | None,
    env_manager: str | None,
) -> Project:
    """Fetch a project and check the call: MLflow's own rules, and what would fail in the job.

    Raises:
        ConfigError: An entry point, a parameter or an environment file is missing or wrong.
        MlflowException: The project cannot be fetched or is not valid.
    """
    given = {str(k): v for k, v in (parameters or {}).items()}
    work_dir = _fetch(uri, version, entry_point, given)
    location, subdirectory = mlflow_projects._parse_subdirectory(uri)
    local = mlflow_projects._is_local_uri(location) and not location.endswith(".zip")
    root = work_dir if local else _without(work_dir, subdirectory)
    try:
        return _checked(uri, work_dir, root, location, subdirectory if not local else "",
                        entry_point, given, env_manager, local=local)  # fmt: skip
    except BaseException:
        if not local:
            shutil.rmtree(root, ignore_errors=True)
        raise


def _checked(
    uri: str,
    work_dir: Path,
    root: Path,
    location: str,
    subdirectory: str,
    entry_point: str,
    given: Mapping[str, Any],
    env_manager: str | None,
    *,
    local: bool,
) -> Project:
    project = mlflow_projects.load_project(str(work_dir))
    point = _entry_point(project, entry_point)
    values, files = _values(point, given, root)
    text = {name: str(value) for name, value in _given_or_default(point, given).items()}
    return Project(
        name=project.name or "",
        root=root,
        subdirectory=subdirectory.strip("/"),
        uri=uri,
        git=None if local else _git(location, root),
        temporary=not local,
        entry_point={
            "command": point.command,
            "parameters": {k: v for k, v in values.items() if k in point.parameters},
            "extra": {k: text[k] for k in values if k not in point.parameters},
        },
        environment=_environment(project, work_dir, env_manager),
        parameters=text,
        files=files,
        docker_env=project.docker_env or {},
    )


def _fetch(uri: str, version: str | None, entry_point: str, given: Mapping[str, Any]) -> Path:
    try:
        with _redacted_log():
            found = mlflow_projects.fetch_and_validate_project(uri, version, entry_point, given)
        return Path(found)
    except MlflowException as error:
        shown = without_credentials(str(error))
        if shown != str(error):  # the cause would show it all the same
            raise ConfigError(shown) from None
        raise
    except Exception as error:
        # MLflow takes what is no folder for a git repository, and lets git's own errors pass.
        if not type(error).__module__.startswith("git."):
            raise
        shown = without_credentials(uri)
        why = str(getattr(error, "stderr", "") or error).strip()
        raise ConfigError(
            f"project: {shown!r} is neither a folder nor a git repository that can be fetched: "
            f"{why}"
        ) from error


@contextmanager
def _redacted_log() -> Iterator[None]:
    """Within the block MLflow, which tells what it fetches, leaves credentials out of it."""

    def redact(record: logging.LogRecord) -> bool:
        record.msg, record.args = without_credentials(record.getMessage()), ()
        return True

    logger = logging.getLogger(mlflow_projects.__name__)
    logger.addFilter(redact)
    try:
        yield
    finally:
        logger.removeFilter(redact)


def _without(folder: Path, subdirectory: str) -> Path:
    for _ in Path(subdirectory).parts:
        folder = folder.parent
    return folder


def _git(location: str, root: Path) -> dict[str, str] | None:
    commit = mlflow_projects.get_git_commit(str(root))
    return {"uri": location, "commit": commit} if commit else None


def _entry_point(project: Any, name: str) -> Any:
    if name.endswith(".sh") and name not in (project._entry_points or {}):
        # MLflow would take the submitting user's $SHELL, which the image may not have.
        return _project_spec.EntryPoint(name, {}, f"sh {shlex.quote(name)}")
    point = project.get_entry_point(name)
    if point is None or not point.command:
        raise ConfigError(f"entry point {name!r}: the MLproject file gives it no command")
    try:
        point.command.format(**dict.fromkeys(point.parameters, ""))
    except (KeyError, IndexError, ValueError) as error:
        raise ConfigError(
            f"entry point {name!r}: its command {point.command!r} uses {error}, which is not among "
            f"its parameters: {', '.join(point.parameters) or 'none'}"
        ) from error
    return point


def _given_or_default(point: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    declared = {
        name: given.get(name, parameter.default) for name, parameter in point.parameters.items()
    }
    return declared | {name: value for name, value in given.items() if name not in declared}


def _values(
    point: Any, given: Mapping[str, Any], root: Path
) -> tuple[dict[str, dict[str, Any]], dict[str, Path]]:
    values: dict[str, dict[str, Any]] = {}
    files: dict[str, Path] = {}
    for name, value in _given_or_default(point, given).items():
        kind = point.parameters[name].type if name in point.parameters else "string"
        text = str(value)
        values[name] = {"value": text, "type": kind}
        if kind == "float":
            _check_number(name, text)
        elif kind == "uri":
            point.parameters[name].compute_value(text, None, 0)
        elif kind == "path":
            values[name]["value"] = _path_value(name, text, root, files)
    return values, files


def _check_number(name: str, text: str) -> None:
    try:
        float(text)
    except ValueError:
        raise ConfigError(
            f"parameter {name!r}: the MLproject file declares it as float; given {text!r}"
        ) from None


def _path_value(
    name: str, text: str, root: Path, files: dict[str, Path]
) -> str | dict[str, str]:
    """Return how the job finds a local file: inside of the bundle; other URIs stay as they are."""
    local = get_local_path_or_none(text)
    if not local:
        return text
    path = Path(os.path.abspath(local))
    if not path.exists():
        raise ConfigError(f"parameter {name!r}: there is no such file or folder; given {text!r}")
    if path.is_relative_to(root):
        return {"bundled": path.relative_to(root).as_posix()}
    inside = f"{_FOLDER_OF_PARAMETERS}/{name}/{path.name}"
    files[inside] = path
    return {"bundled": inside}


def _environment(project: Any, work_dir: Path, manager: str | None) -> dict[str, Any]:
    kind, file = project.env_type, project.env_config_path
    if manager is None:
        if kind == env_type.CONDA:
            manager = "conda"
        else:
            manager = "virtualenv" if kind == env_type.PYTHON and file else "local"
    if manager == "conda":
        if kind != env_type.CONDA:
            raise ConfigError(
                "--env-manager conda: the project has no conda.yaml; use virtualenv, uv or local"
            )
        conda_file = Path(file).relative_to(work_dir).as_posix()
        return {"manager": "conda", "conda_file": conda_file}
    if manager == "local":
        return {"manager": "local"}
    return {"manager": manager, **_python_environment(kind, file, work_dir)}


def _python_environment(kind: str, file: str | None, work_dir: Path) -> dict[str, Any]:
    try:
        if file and kind == env_type.CONDA:
            environment = _PythonEnv.from_conda_yaml(file)
        elif file:
            environment = _PythonEnv.from_yaml(file)
        elif (work_dir / _REQUIREMENTS).exists():
            return {"python": None, "dependencies": [f"-r {_REQUIREMENTS}"]}
        else:
            return {"python": None, "dependencies": []}
        declared = yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}
    except (OSError, TypeError, AttributeError, yaml.YAMLError, MlflowException) as error:
        raise ConfigError(f"environment: {file}: cannot be read: {error}") from error
    # MLflow puts the submitting machine's Python where the file names none; the job's image has
    # its own.
    for line in (*environment.build_dependencies, *environment.dependencies):
        if holds_credentials(line):
            raise ConfigError(
                f"environment: {Path(file).name}: {without_credentials(line)!r} holds credentials, "
                f"which everybody who sees the job could read; write ${{NAME}} in their place, and "
                f"give NAME by 'secrets'"
            )
    named = "python" in declared or kind == env_type.CONDA
    version = re.match(r"\d+\.\d+", str(environment.python)) if named else None
    return {
        "python": version.group() if version else None,
        "build_dependencies": list(environment.build_dependencies),
        "dependencies": list(environment.dependencies),
    }

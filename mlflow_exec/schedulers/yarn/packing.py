"""What decides what is in a packed Python environment, read without building it. Pure.

The setting ``environment`` of a YARN job is ``venv-pack`` or ``conda-pack`` where the nodes are not
to build it: the submitting machine does, once for all jobs with the same `Packing`.
"""

from __future__ import annotations

import hashlib
import json
import os
import posixpath
import re
import shutil
import sys
import sysconfig
import zipfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NoReturn

import yaml

from mlflow_exec.errors import ConfigError
from mlflow_exec.jobs import JobSpec
from mlflow_exec.registry import missing_extra
from mlflow_exec.runtime.environment_key import (
    UV_PROJECT_FILES,
    conda_names_one_version,
    installer_files,
    installer_variables,
    system_lines,
)
from mlflow_exec.runtime.job_order import EnvironmentSpec
from mlflow_exec.runtime.requirements import Requirements, Uncacheable, without_credentials

# A packing of another format has another key.
_FORMAT = 1
_EXTRAS = {"venv-pack": "yarn-venv", "conda-pack": "yarn-conda"}
_KEY_DIGITS = 40


@dataclass(frozen=True)
class Packing:
    """A packed environment, whether or not there is one yet.

    Attributes:
        kind: ``venv-pack`` or ``conda-pack``.
        key: A sha256 in hexadecimal digits over everything that decides what is in it.
        file_name: Of its archive.
        pinned: Whether every requirement names one version; else newer ones may have come.
    """

    kind: str
    key: str
    file_name: str
    pinned: bool


def describe(kind: str, spec: JobSpec) -> Packing | None:
    """Return the packed environment that a job needs; None if its project names no dependencies.

    Nothing is built, unpacked or asked for over the network.

    Args:
        kind: ``venv-pack`` or ``conda-pack``.
        spec: The job. Its bundle is read, as far as the requirements name files in it.

    Raises:
        MissingExtraError: The packer is not installed.
        ConfigError: This environment cannot be packed so, or names files that are not there.
    """
    environment = environment_of(spec)
    if environment.manager == "local":
        return None
    if (kind == "conda-pack") != (environment.manager == "conda"):
        other, manager = (
            ("venv-pack", "conda' and a conda.yaml")
            if kind == "conda-pack"
            else ("conda-pack", "virtualenv'")
        )
        raise ConfigError(
            f"environment: {kind!r} does not pack what the project or --env-manager asks for, "
            f"manager {environment.manager!r}; use {other!r}, or '--env-manager {manager}"
        )
    with ExitStack() as stack:
        archive = None
        if spec.bundle is not None:
            archive = stack.enter_context(zipfile.ZipFile(spec.bundle.path))
        files = _ProjectFiles(kind, archive, project_folder(spec))
        return _described(kind, environment, files, variables_of(spec))


def environment_of(spec: JobSpec) -> EnvironmentSpec:
    """Return the environment that the job's order asks for."""
    given: dict[str, Any] = dict(spec.order.get("environment") or {})
    for name in ("build_dependencies", "dependencies"):
        given[name] = tuple(given.get(name) or ())
    return EnvironmentSpec(**given)


def project_folder(spec: JobSpec) -> str:
    """Return the folder of the project in its bundle, ``""`` for the root."""
    return str(dict(spec.order.get("source") or {}).get("subdirectory") or "").strip("/")


def variables_of(spec: JobSpec) -> dict[str, str]:
    """Return the variables for the installers, without secrets.

    Those of this machine win: the job's own are for a node, but may say where packages are.
    """
    of_job = {**spec.settings.env, **dict(spec.order.get("env") or {})}
    foreign = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME")
    return {k: v for k, v in {**of_job, **os.environ}.items() if k not in foreign}


def _described(
    kind: str, environment: EnvironmentSpec, files: _ProjectFiles, env: Mapping[str, str]
) -> Packing:
    # Without variables: no secret's value is needed to tell one environment from another.
    first, then = _Lines(files), _Lines(files)
    first.add(environment.build_dependencies, files.folder)
    then.add(environment.dependencies, files.folder)
    pinned = then.pinned
    conda = ""
    if environment.conda_file is not None:
        path = posixpath.join(files.folder, environment.conda_file)
        conda = files.text(path)
        exact = _add_conda(path, conda, then)
        pinned = exact and then.pinned
    parts = [
        ["format", _FORMAT, kind, _version(kind)],
        ["environment", environment.manager, environment.python],
        ["machine", _machine(environment, env)],
        ["build_dependencies", first.meaning],
        ["dependencies", then.meaning],
        ["conda", without_credentials(conda)],
        ["variables", installer_variables(env)],
        ["configuration", installer_files(env, None), files.configuration()],
    ]
    text = json.dumps(parts, sort_keys=True)
    key = hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
    return Packing(kind, key, f"{key[:_KEY_DIGITS]}.tar.gz", pinned)


def module_of(kind: str) -> str:
    """Return the Python module of a packer."""
    return kind.replace("-", "_")


def _version(kind: str) -> str:
    if kind not in _EXTRAS:
        raise ConfigError(f"environment: {kind!r} packs nothing; known: {', '.join(_EXTRAS)}")
    try:
        return version(kind)
    except PackageNotFoundError as error:
        missing = ModuleNotFoundError(kind, name=module_of(kind))
        raise missing_extra(_EXTRAS[kind], missing) from error


def _machine(environment: EnvironmentSpec, env: Mapping[str, str]) -> list[Any]:
    """Return what decides which packages fit, and where the nodes' Python has to be."""
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):
        libc = None
    facts: list[Any] = [sysconfig.get_platform(), libc, system_lines()]
    if environment.manager == "conda":
        return facts
    own = "{}.{}".format(*sys.version_info[:2])
    wanted = ".".join((environment.python or own).strip().lstrip("=").split(".")[:2])
    if wanted == own:
        facts += [sys.version, sysconfig.get_config_var("SOABI"), os.path.realpath(sys.executable)]
    else:
        found = shutil.which(f"python{wanted}", path=env.get("PATH", os.defpath))
        facts += [wanted, found and os.path.realpath(found)]
    tool = "uv" if shutil.which("uv", path=env.get("PATH", os.defpath)) else "pip"
    return [*facts, tool]


def _add_conda(path: str, text: str, lines: _Lines) -> bool:
    """Read a conda file; returns whether its own packages all name one version."""
    try:
        found = yaml.safe_load(text)
        items = list((found or {}).get("dependencies") or [])
    except (yaml.YAMLError, AttributeError, TypeError) as error:
        raise ConfigError(f"environment: {path} is no conda environment file: {error}") from error
    exact = True
    for item in items:
        if isinstance(item, str):
            exact = exact and conda_names_one_version(item)
        elif isinstance(item, dict):
            lines.add([str(line) for line in item.get("pip") or []], posixpath.dirname(path))
    return exact


class _ProjectFiles:
    """The files of a bundle, read in place.

    Attributes:
        folder: The project's folder in it.
    """

    def __init__(self, kind: str, archive: zipfile.ZipFile | None, folder: str) -> None:
        self.folder = folder
        self.kind = kind
        self._archive = archive
        self._names = set(archive.namelist()) if archive is not None else set()

    def text(self, path: str) -> str:
        """Return the text of a file.

        Raises:
            ConfigError: There is none.
        """
        name = posixpath.normpath(path)
        if name not in self._names or self._archive is None:
            self.refuse(path)
        return self._archive.read(name).decode("utf-8-sig", "replace")

    def digests(self, path: str) -> list[str]:
        """Return names and digests of a file, or of all files in a folder; none if there is none.

        A name is relative to ``path``.
        """
        top = posixpath.normpath(path)
        prefix = "" if top == "." else f"{top}/"
        names = [n for n in self._names if n == top or n.startswith(prefix)]
        return [f"{posixpath.relpath(name, top)} {self._digest(name)}" for name in sorted(names)]

    def configuration(self) -> list[str]:
        """Return the texts of the project's files that the installers go by."""
        found = []
        for name in UV_PROJECT_FILES:
            path = posixpath.normpath(posixpath.join(self.folder, name))
            text = self.text(path) if path in self._names else ""
            if name != "pyproject.toml" or "tool.uv" in text:
                found.append(without_credentials(text))
        return found

    def refuse(self, path: str) -> NoReturn:
        """Say that a file of the project is missing."""
        if self._archive is None:
            raise ConfigError(
                f"environment: {self.kind} needs the project's {path!r}, and the project does not "
                f"travel with the job; use another 'source', or 'environment': 'build'"
            )
        raise ConfigError(
            f"environment: the project has no {path!r}, which its requirements name; is it left "
            f"out by .gitignore or .mlflowignore?"
        )

    def _digest(self, name: str) -> str:
        assert self._archive is not None
        digest = hashlib.sha256()
        with self._archive.open(name) as content:
            while piece := content.read(1 << 20):
                digest.update(piece)
        return digest.hexdigest()


class _Lines(Requirements):
    """Requirement lines whose files are in a bundle.

    A line that may mean something else tomorrow makes them not pinned, where an environment on a
    node would not be kept at all: a packed one has to be kept to be used.
    """

    def __init__(self, files: _ProjectFiles) -> None:
        super().__init__({})
        self._project = files

    def add_line(self, text: str, folder: str, constraints: bool) -> None:
        if re.match(r"-e\b|--editable\b", text):
            raise ConfigError(
                f"environment: {without_credentials(text)!r} is an editable requirement, which "
                f"cannot be packed; leave out {text.split()[0]!r}"
            )
        try:
            super().add_line(text, folder, constraints)
        except Uncacheable:
            self.meaning.append(without_credentials(text))
            self.loosen(text)

    def read_file(self, path: str) -> tuple[str, str]:
        if os.path.isabs(path):
            return super().read_file(path)
        return posixpath.normpath(path), self._project.text(path)

    def add_path(self, path: str, folder: str, reason: str) -> None:
        path = re.sub(r"\[[^\]]*\]$", "", path.strip("'\"").strip())
        if os.path.isabs(path) or path.startswith("~"):
            raise Uncacheable(reason)
        # Installers take them from where they are started, or from beside the file with the line.
        found: Iterable[list[str]] = (
            self._project.digests(posixpath.join(base, path))
            for base in dict.fromkeys((self._project.folder, folder))
        )
        digests = [digest for one in found for digest in one]
        if not digests:
            self._project.refuse(path)
        self.meaning += digests

"""Computes the entry point's command line as MLflow does, inside the job."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import urllib.parse
from typing import Any, Callable, Dict

from .environment import Environment
from .job_order import EntryPoint, SetupError, invalid
from .processes import Runner
from .source_fetch import Project, download, download_by_mlflow, failed

_SCHEME = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*:")


def command_line(entry_point: EntryPoint, path_of: Callable[[str, Any], str]) -> str:
    """Return the command with every value shell-quoted in its place.

    Args:
        entry_point: The command and its parameters.
        path_of: Resolves the value of a parameter of type ``path`` (name, value) to a local path.

    Raises:
        SetupError: invalid_config, where the command does not fit its parameters.
    """
    values: Dict[str, str] = {}
    for name, parameter in entry_point.parameters.items():
        if not isinstance(parameter, dict) or "value" not in parameter:
            raise invalid(f"entry_point.parameters.{name} needs a 'value'; {parameter!r}")
        value = parameter["value"]
        text = path_of(name, value) if parameter.get("type") == "path" else str(value)
        values[name] = shlex.quote(text)
    try:
        command = entry_point.command.format(**values)
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise invalid(
            f"the command does not fit its parameters: {type(error).__name__}: {error}; "
            f"{entry_point.command!r}",
            "Check the braces in the MLproject's command; a literal brace is written twice.",
        ) from error
    extra = [
        f"--{shlex.quote(str(key))} {shlex.quote(str(value))}"
        for key, value in entry_point.extra.items()
    ]
    return " ".join([command, *extra])


class PathParameters:
    """Resolves parameters of type ``path`` to paths in the job's file system.

    Args:
        project: Bundled paths are relative to its root, others to its directory.
        scratch_dir: An existing private folder for what is fetched.
        runner: Runs MLflow's own download.
        environment: The environment that has MLflow.
        env: The variables for processes.
    """

    def __init__(
        self,
        project: Project,
        scratch_dir: str,
        runner: Runner,
        environment: Environment,
        env: Dict[str, str],
    ) -> None:
        self._project = project
        self._scratch_dir = scratch_dir
        self._runner = runner
        self._environment = environment
        self._env = env

    def resolve(self, name: str, value: Any) -> str:
        """Return the local path of a parameter's value.

        Raises:
            SetupError: source_fetch, where there is nothing at it or it cannot be fetched.
        """
        if isinstance(value, dict):
            bundled = str(value.get("bundled", ""))
            return self._existing(name, os.path.join(self._project.root, bundled))
        text = str(value)
        if _SCHEME.match(text) and not text.startswith("file:"):
            return self._fetched(name, text)
        if text.startswith("file:"):
            text = urllib.parse.unquote(urllib.parse.urlsplit(text).path)
        return self._existing(name, os.path.join(self._project.directory, text))

    def _existing(self, name: str, path: str) -> str:
        if not os.path.exists(path):
            raise failed(
                f"parameter {name!r}: there is no {path} in the job",
                "Put the file into the project, or give a URI that the job can fetch.",
            )
        return os.path.abspath(path)

    def _fetched(self, name: str, uri: str) -> str:
        folder = os.path.join(self._scratch_dir, "parameters", name.replace("/", "_"))
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        scheme = uri.split(":", 1)[0].lower()
        if scheme in ("http", "https"):
            last = urllib.parse.unquote(urllib.parse.urlsplit(uri).path.rsplit("/", 1)[-1])
            path = os.path.join(folder, last.replace("/", "_").strip(".") or "file")
            with open(path, "wb") as out:
                download(uri, out)
            return path
        try:
            env = self._environment.apply(self._env)
            return download_by_mlflow(uri, folder, self._runner, env)
        except SetupError as error:
            hint = "The job's environment needs mlflow and the credentials for this store."
            raise failed(f"parameter {name!r}: {error}", hint) from error

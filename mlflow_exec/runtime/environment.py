"""Builds the Python environment of the entry point."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Dict, List, Mapping, Optional, Sequence

from .job_order import EnvironmentSpec, SetupError
from .processes import Outcome, Runner
from .requirements import passwords

_URL_USER = re.compile(r"(://)[^/@\s]+@")
_FILE_OPTION = re.compile(r"^(-r|-c|--requirement|--constraint)[\s=]\s*(\S.*)$")


def failed(message: str, hint: str = "") -> SetupError:
    """Return the error for an environment that cannot be built."""
    return SetupError("environment_setup", f"environment: {message}", hint)


@dataclass(frozen=True)
class Environment:
    """A Python environment that is ready.

    Attributes:
        bin_dir: Goes first on PATH; None for the image's own environment.
        variables: More variables for the processes in it.
    """

    bin_dir: Optional[str] = None
    variables: Dict[str, str] = field(default_factory=dict)

    def apply(self, env: Dict[str, str]) -> Dict[str, str]:
        """Return a copy of the variables for a process in this environment."""
        applied = {**env, **self.variables}
        if self.bin_dir is not None:
            applied["PATH"] = self.bin_dir + os.pathsep + applied.get("PATH", os.defpath)
        if self.variables:
            applied.pop("PYTHONHOME", None)
        return applied


def python_of(env: Mapping[str, str]) -> str:
    """Return the Python that a command with these variables finds."""
    path = env.get("PATH", os.defpath)
    return shutil.which("python", path=path) or shutil.which("python3", path=path) or "python3"


def environment_in(manager: str, folder: str) -> Environment:
    """Return the environment that a manager has made in a folder."""
    variable = "CONDA_PREFIX" if manager == "conda" else "VIRTUAL_ENV"
    return Environment(os.path.join(folder, "bin"), {variable: folder})


class EnvironmentBuilder:
    """Builds one environment.

    Args:
        spec: What is wanted.
        project_dir: The project; requirement and conda files are relative to it.
        scratch_dir: An existing private folder for the environment.
        runner: Runs the installers, their output going to the job's log.
        env: The variables for the installers.
        target_dir: An existing folder for what has to stay with the environment; the scratch
            folder if None.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        project_dir: str,
        scratch_dir: str,
        runner: Runner,
        env: Dict[str, str],
        target_dir: Optional[str] = None,
    ) -> None:
        self._spec = spec
        self._project_dir = project_dir
        self._scratch_dir = scratch_dir
        self._target_dir = target_dir
        self._venv = os.path.join(target_dir or scratch_dir, "env")
        self._runner = runner
        self._env = dict(env)

    def build(self) -> Environment:
        """Build it.

        Raises:
            SetupError: environment_setup, with the last lines of the installer.
        """
        if self._spec.manager == "local":
            return self._local()
        self._runner.log.hide(self._passwords())
        return self._conda() if self._spec.manager == "conda" else self._virtualenv()

    def _passwords(self) -> List[str]:
        """Return what installers may print of the addresses that they are told."""
        lines = [*self._spec.build_dependencies, *self._spec.dependencies]
        if self._spec.conda_file:
            lines.append(f"-r {self._spec.conda_file}")
        return passwords(lines, self._project_dir)

    def tool(self) -> str:
        """Return the kind of installer that builds it: ``pip``, ``uv``, or that of conda.

        Raises:
            SetupError: environment_setup, where there is none.
        """
        if self._spec.manager == "conda":
            return os.path.basename(self._conda_tool())
        return "uv" if self._spec.manager == "uv" or self._which("uv") else "pip"

    def interpreter(self) -> Optional[str]:
        """Return the Python that it is made with; None where the installer brings it.

        Raises:
            SetupError: environment_setup, where nobody brings it.
        """
        wanted = self._wanted_version()
        if self._spec.manager == "conda":
            return None
        if wanted is None:
            return sys.executable
        if self.tool() != "uv":
            return self._interpreter()
        uv = self._which("uv")
        return self._which(f"python{wanted}") if uv is None else self._found_by_uv(uv, wanted)

    def _which(self, name: str) -> Optional[str]:
        return shutil.which(name, path=self._env.get("PATH", os.defpath))

    def _local(self) -> Environment:
        """Use the image as it is; MLproject commands say ``python``, which some images lack."""
        if self._which("python"):
            return Environment()
        folder = os.path.join(self._scratch_dir, "bin")
        os.makedirs(folder, exist_ok=True)
        for name in ("python", "python3"):
            link = os.path.join(folder, name)
            if not self._which(name) and not os.path.lexists(link):
                os.symlink(sys.executable, link)
        return Environment(folder)

    def _virtualenv(self) -> Environment:
        uv = self._which("uv") or (self._install_uv() if self._spec.manager == "uv" else None)
        if uv is not None:
            wanted = self._wanted_version()
            if self._target_dir and wanted and self._found_by_uv(uv, wanted) is None:
                # A Python that uv brings has to last as long as the environment.
                self._env["UV_PYTHON_INSTALL_DIR"] = os.path.join(self._target_dir, "python")
            self._make([uv, "venv", "--python", self._python_for_uv(), self._venv], "uv venv")
        else:
            self._make([self._interpreter(), "-m", "venv", self._venv], "python -m venv")
        python = os.path.join(self._venv, "bin", "python")
        installer = (
            [uv, "pip", "install", "--python", python]
            if uv is not None
            else [python, "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
        )
        for name in ("build_dependencies", "dependencies"):
            lines: Sequence[str] = getattr(self._spec, name)
            if lines:
                self._install([*installer, "-r", self._requirements_file(name, lines)], name)
        return environment_in(self._spec.manager, self._venv)

    def _wanted_version(self) -> Optional[str]:
        """Return the wanted major.minor if it is not the one that runs us."""
        if not self._spec.python:
            return None
        wanted = ".".join(self._spec.python.strip().lstrip("=").split(".")[:2])
        return None if wanted == "{}.{}".format(*sys.version_info[:2]) else wanted

    def _python_for_uv(self) -> str:
        return self._wanted_version() or sys.executable

    def _found_by_uv(self, uv: str, version: str) -> Optional[str]:
        """Return the Python that uv would take without bringing one."""
        done = subprocess.run(
            [uv, "python", "find", "--system", version],
            env={**self._env, "UV_PYTHON_DOWNLOADS": "never"},
            cwd=self._project_dir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        return os.fsdecode(done.stdout).strip() if done.returncode == 0 else None

    def _interpreter(self) -> str:
        wanted = self._wanted_version()
        if wanted is None:
            return sys.executable
        found = self._which(f"python{wanted}")
        if found is None:
            raise failed(
                f"the project wants Python {wanted}, the image has "
                "{}.{} and neither uv nor python{}".format(*sys.version_info[:2], wanted),
                f"Use an image with Python {wanted} or with uv, or change python_env.yaml.",
            )
        return found

    def _install_uv(self) -> str:
        tool_dir = os.path.join(self._scratch_dir, "uv")
        self._make([sys.executable, "-m", "venv", tool_dir], "python -m venv")
        python = os.path.join(tool_dir, "bin", "python")
        self._install([python, "-m", "pip", "install", "--no-input", "uv"], "uv")
        return os.path.join(tool_dir, "bin", "uv")

    def _requirements_file(self, name: str, lines: Sequence[str]) -> str:
        """Write the lines to a file; relative file options keep pointing into the project."""
        path = os.path.join(self._scratch_dir, f"{name}.txt")
        with open(path, "w", encoding="utf-8") as file:
            for line in lines:
                option = _FILE_OPTION.match(line.strip())
                if option:
                    target = os.path.join(self._project_dir, option.group(2).strip())
                    if not os.path.isfile(target):
                        raise failed(f"{line.strip()!r}: the project has no such file")
                    line = f"{option.group(1)} {target}"
                file.write(line + "\n")
        return path

    def _conda_tool(self) -> str:
        tool = next(filter(None, map(self._which, ("conda", "mamba", "micromamba"))), None)
        if tool is None:
            raise failed(
                "the project wants conda, but the image has neither conda, mamba nor micromamba",
                "Use an image that has one of them, or another --env-manager.",
            )
        return tool

    def _conda(self) -> Environment:
        tool = self._conda_tool()
        file = os.path.join(self._project_dir, self._spec.conda_file or "conda.yaml")
        if not os.path.isfile(file):
            raise failed(f"the project has no conda file {self._spec.conda_file!r}")
        argv = [tool, "env", "create", "-p", self._venv, "-f", file]
        if os.path.basename(tool) == "micromamba":
            argv.append("--yes")
        self._install(argv, "conda packages")
        return environment_in(self._spec.manager, self._venv)

    def _make(self, argv: List[str], what: str) -> None:
        self._check(
            self._run(argv),
            f"{what} failed",
            "Does the image have the venv module (Debian: python3-venv) or uv? "
            "With --env-manager local the image's own packages are used.",
        )

    def _install(self, argv: List[str], what: str) -> None:
        self._check(
            self._run(argv),
            f"installing {what} failed",
            "Check the requirements, and that the job can reach the package index.",
        )

    def _run(self, argv: List[str]) -> Outcome:
        self._runner.log.say("environment: " + " ".join(argv))
        try:
            return self._runner.run(argv, self._project_dir, self._env)
        except OSError as error:
            raise failed(f"{argv[0]} cannot be started: {error}") from error

    def _check(self, outcome: Outcome, message: str, hint: str) -> None:
        if outcome.returncode != 0:
            tail = _URL_USER.sub(r"\1***@", outcome.tail)
            raise failed(f"{message} (exit code {outcome.returncode}): {tail}", hint)

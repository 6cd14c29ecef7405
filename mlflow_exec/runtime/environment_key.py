"""The key of an environment: a digest of everything that decides what is in it."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Dict, List, Mapping, Optional, Sequence

from .job_order import EnvironmentSpec
from .requirements import Requirements, Uncacheable, without_credentials

_FORMAT = 1
_PROBE_TIMEOUT_S = 30.0
# Asks a Python what decides which packages fit it and whether its environments still work.
_PROBE = """\
import json, os, platform, sys, sysconfig
try:
    libc = os.confstr("CS_GNU_LIBC_VERSION")
except (AttributeError, ValueError, OSError):
    libc = "".join(platform.libc_ver())
print(json.dumps({
    "executable": os.path.realpath(sys.executable), "version": sys.version,
    "implementation": sys.implementation.name, "platform": sysconfig.get_platform(),
    "abi": sysconfig.get_config_var("SOABI"), "libc": libc,
}))
"""
# What a build from source goes by, of the variables that are in use everywhere.
_BUILD_VARIABLES = (
    "ARCHFLAGS", "CC", "CFLAGS", "CMAKE_ARGS", "CPPFLAGS", "CUDA_HOME", "CXX", "CXXFLAGS",
    "FFLAGS", "FORCE_CUDA", "LDFLAGS", "RUSTFLAGS", "TORCH_CUDA_ARCH_LIST",
)  # fmt: skip
_CONDA_VARIABLES = ("CONDARC", "CONDA_CHANNELS", "CONDA_CHANNEL_ALIAS", "CONDA_SUBDIR")
_INSTALLERS = ("PIP_", "UV_", "CONDA_OVERRIDE_")
# Of the installers' variables those that change nothing of the result.
_HARMLESS = re.compile(
    r"USERNAME|PASSWORD|TOKEN|SECRET|KEYRING|CERT|CACHE|TIMEOUT|RETRIES|LOG|PROGRESS|COLOR|QUIET"
    r"|VERBOSE|NO_INPUT|VERSION_CHECK|PROXY|CONCURRENT|ROOT_USER_ACTION|LINK_MODE|TLS|INSTALL_DIR"
    r"|BREAK_SYSTEM|REQUIRE_VIRTUALENV|DEFAULT_TIMEOUT|DISABLE_PIP"
)
_FILE_VARIABLES = (
    "PIP_CONFIG_FILE", "PIP_CONSTRAINT", "PIP_REQUIREMENT", "PIP_BUILD_CONSTRAINT",
    "UV_CONFIG_FILE", "UV_CONSTRAINT", "UV_OVERRIDE", "UV_BUILD_CONSTRAINT", "CONDARC",
)  # fmt: skip
_CONFIG_FILES = (
    "/etc/pip.conf", "/etc/xdg/pip/pip.conf", "~/.pip/pip.conf", "~/.config/pip/pip.conf",
    "/etc/uv/uv.toml", "~/.config/uv/uv.toml", "~/.condarc", "/etc/conda/.condarc",
)  # fmt: skip
UV_PROJECT_FILES = ("uv.toml", "pyproject.toml")
"""By which uv goes where they lie in its working folder."""
_CONDA_ITEM = re.compile(r"^\s*-\s+(.*?)\s*$")
_CONDA_EXACT = re.compile(r"^(?:[\w.-]+::)?[\w.-]+(?:\[[^\]]*\])?\s*={1,3}\s*[^\s=<>*,|]+(=\S+)?$")


@dataclass(frozen=True)
class EnvironmentKey:
    """What an environment is known by.

    Attributes:
        digest: 64 hex digits.
        pinned: Whether every dependency names one version; else newer ones may have come.
    """

    digest: str
    pinned: bool


def python_facts(python: str, env: Mapping[str, str]) -> Dict[str, Any]:
    """Return what decides which packages fit a Python, and where it is.

    Raises:
        Uncacheable: It cannot be asked.
    """
    try:
        done = subprocess.run(
            [python, "-I", "-S", "-c", _PROBE],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=_PROBE_TIMEOUT_S,
        )
        facts: Dict[str, Any] = json.loads(done.stdout.decode("utf-8", "replace"))
    except (OSError, ValueError, subprocess.TimeoutExpired) as error:
        raise Uncacheable(f"{python} does not tell its version: {error}") from error
    return facts


def key_of(
    spec: EnvironmentSpec,
    project_dir: str,
    env: Mapping[str, str],
    tool: str,
    python: Optional[str],
) -> EnvironmentKey:
    """Return the key of an environment.

    Args:
        spec: What is wanted.
        project_dir: What its files are relative to.
        env: The variables of the installers.
        tool: The kind of installer, such as ``pip`` or ``uv``.
        python: The interpreter that it is made with; None where the installer brings it.

    Raises:
        Uncacheable: The same words could make another environment.
    """
    # What an installer brings fits the machine as our own Python does.
    facts = python_facts(python or sys.executable, env)
    if python is None:
        facts = {name: facts[name] for name in ("platform", "libc")}
    first, then = Requirements(env), Requirements(env)
    first.add(spec.build_dependencies, project_dir)
    then.add(spec.dependencies, project_dir)
    pinned = then.pinned
    conda: Sequence[str] = ()
    if spec.manager == "conda":
        path = os.path.join(project_dir, spec.conda_file or "conda.yaml")
        conda = _text(path).splitlines()
        pinned = _add_conda(conda, os.path.dirname(path), then)
    parts = [
        ["format", _FORMAT],
        ["environment", spec.manager, tool, spec.python, facts, system_lines()],
        ["build_dependencies", first.meaning],
        ["dependencies", then.meaning],
        ["conda", [without_credentials(line) for line in conda]],
        ["variables", installer_variables(env)],
        ["files", installer_files(env, project_dir)],
    ]
    text = json.dumps(parts, sort_keys=True)
    return EnvironmentKey(hashlib.sha256(text.encode("utf-8", "replace")).hexdigest(), pinned)


def system_lines() -> List[str]:
    """Return which system's libraries a build from source finds."""
    lines = _text("/etc/os-release", "").splitlines()
    return sorted(line for line in lines if line.startswith(("ID=", "VERSION_ID=")))


def installer_variables(env: Mapping[str, str]) -> List[List[str]]:
    """Return names and values of the variables that decide what installers do."""
    named = (*_BUILD_VARIABLES, *_CONDA_VARIABLES)
    return [
        [name, without_credentials(value)]
        for name, value in sorted(env.items())
        if name in named or (name.startswith(_INSTALLERS) and not _HARMLESS.search(name))
    ]


def installer_files(env: Mapping[str, str], project_dir: Optional[str]) -> List[List[str]]:
    """Return the installers' own configuration, by file; None leaves the project's out."""
    home = env.get("HOME") or os.path.expanduser("~")
    paths = [home + path[1:] if path.startswith("~") else path for path in _CONFIG_FILES]
    if env.get("XDG_CONFIG_HOME"):
        paths += [os.path.join(env["XDG_CONFIG_HOME"], p) for p in ("pip/pip.conf", "uv/uv.toml")]
    for name in _FILE_VARIABLES:
        paths += [path for path in env.get(name, "").split() if "://" not in path]
    if project_dir is not None:
        paths += [os.path.join(project_dir, name) for name in UV_PROJECT_FILES]
    found = []
    for path in paths:
        text = _text(path, "")
        if text and (os.path.basename(path) != "pyproject.toml" or "tool.uv" in text):
            # The project lies in a new folder each time.
            inside = os.path.dirname(path) == project_dir
            found.append([os.path.basename(path) if inside else path, without_credentials(text)])
    return found


def _text(path: str, default: Optional[str] = None) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError as error:
        if default is not None:
            return default
        raise Uncacheable(f"{path} cannot be read: {error}") from error


def conda_names_one_version(item: str) -> bool:
    """Whether a line of a conda file always means the same; pip itself does not matter."""
    return bool(_CONDA_EXACT.match(item) or re.match(r"^pip\b", item))


def _add_conda(lines: Sequence[str], folder: str, requirements: Requirements) -> bool:
    """Read a conda file without a YAML parser; return whether all in it name one version.

    Raises:
        Uncacheable: It refers to what may change, or is written in a way that is not read here.
    """
    pinned, wanted, by_pip = True, False, False
    for line in lines:
        text = re.sub(r"(^|\s)#.*$", "", line).rstrip()
        if text and not text[0].isspace() and not text.startswith("-"):
            wanted, by_pip = text.startswith("dependencies:"), False
            if wanted and text != "dependencies:":
                raise Uncacheable("the conda file's dependencies are not one on each line")
            continue
        item = _CONDA_ITEM.match(text)
        if not wanted or not text.strip():
            continue
        if item is None or item.group(1).startswith(("[", "{", "&", "*", "|", ">")):
            raise Uncacheable(f"the conda file's line {text.strip()!r} is not understood")
        value = item.group(1).strip("'\"")
        if value == "pip:":
            by_pip = True
        elif by_pip:
            requirements.add([value], folder)
        elif not conda_names_one_version(value):
            pinned = False
    return pinned and requirements.pinned

"""An environment that was built and packed elsewhere, and that the cluster unpacked beside the job.

Its files are shared by the jobs of a node and read-only, so it is used as it lies: nothing is
rewritten in it.

- venv-pack: the environment's ``python`` is a link to the Python of the machine that built it,
  which each node must have at the same place.
- conda-pack: ``conda-unpack``, which writes the new place into files that hold the old one, is not
  run. Python, its packages, and the scripts of both find their files relative to themselves. What
  the packages' activation scripts set is set, and OpenSSL, which has the place of its certificates
  compiled in, is told it by SSL_CERT_FILE. A program that holds its prefix in other ways (R, some
  compilers) does not work.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import subprocess
from typing import Dict, List, Mapping

from .environment import Environment, failed
from .processes import Runner

_PROBE = "import sys; print('%d.%d' % sys.version_info[:2])"
_PROBE_TIMEOUT_S = 60.0
_ACTIVATE = """\
for script in "$CONDA_PREFIX"/etc/conda/activate.d/*.sh; do . "$script"; done
exec "$CONDA_PREFIX/bin/python" -I -S -c '
import json, os, sys
with open(sys.argv[1], "w") as file: json.dump(dict(os.environ), file)' "$1"
"""


def packed(path: str, runner: Runner, env: Mapping[str, str], scratch_dir: str) -> Environment:
    """Return the environment in an unpacked folder, ready.

    Args:
        path: The folder, as seen from the working folder.
        runner: Runs the activation scripts of a conda environment.
        env: The variables of the entry point.
        scratch_dir: An existing private folder.

    Raises:
        SetupError: environment_setup, where its Python does not run on this node.
    """
    # Not resolved: links to a node's cache of files are not what programs should show.
    folder = os.path.abspath(path)
    if not os.path.isdir(os.path.join(folder, "bin")):
        raise failed(f"there is no packed environment at {folder}", "Submit the job again.")
    _check_python(folder, env)
    if not os.path.isdir(os.path.join(folder, "conda-meta")):
        return Environment(os.path.join(folder, "bin"), {"VIRTUAL_ENV": folder})
    variables = {"CONDA_PREFIX": folder}
    certificates = os.path.join(folder, "ssl", "cert.pem")
    if "SSL_CERT_FILE" not in env and os.path.isfile(certificates):
        variables["SSL_CERT_FILE"] = certificates
    environment = Environment(os.path.join(folder, "bin"), variables)
    if glob.glob(os.path.join(glob.escape(folder), "etc", "conda", "activate.d", "*.sh")):
        variables.update(_activated(environment.apply(dict(env)), runner, scratch_dir))
    return environment


def _check_python(folder: str, env: Mapping[str, str]) -> None:
    python = os.path.join(folder, "bin", "python")
    version = _wanted_version(folder)
    place = os.path.realpath(python)
    inside = os.path.commonpath([place, os.path.realpath(folder)]) == os.path.realpath(folder)
    wants = f"the packed environment wants Python {version} at {place}"
    hint = (
        "Give the nodes the same Python, pack on a machine that is like them, or let the nodes "
        "build it: 'environment': 'build'."
    )
    clean = {k: v for k, v in env.items() if k not in ("PYTHONHOME", "PYTHONPATH")}
    try:
        done = subprocess.run(
            [python, "-I", "-S", "-c", _PROBE],
            env=clean,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=_PROBE_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        if not inside and not os.path.exists(place):
            raise failed(f"{wants}, which this node does not have", hint) from error
        raise failed(f"the packed environment's {place} does not start: {error}", hint) from error
    if done.returncode != 0:
        lines = done.stderr.decode("utf-8", "replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        raise failed(
            f"the packed environment's {place} does not start (exit code {done.returncode}): "
            f"{last}",
            hint,
        )
    found = done.stdout.decode("utf-8", "replace").strip()
    if version and found != version:
        raise failed(f"{wants}, which is Python {found} on this node", hint)


def _wanted_version(folder: str) -> str:
    """Return the major.minor that the packages were installed for; empty if there are none."""
    names = _names(os.path.join(folder, "lib"))
    found = [re.match(r"^python(\d+\.\d+)$", name) for name in names]
    return next((match.group(1) for match in found if match), "")


def _names(folder: str) -> List[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _activated(env: Dict[str, str], runner: Runner, scratch_dir: str) -> Dict[str, str]:
    """Return the variables that the packages' activation scripts set."""
    # They are written for bash.
    shell = "bash" if shutil.which("bash", path=env.get("PATH", os.defpath)) else "sh"
    answer = os.path.join(scratch_dir, "activated.json")
    try:
        outcome = runner.run([shell, "-c", _ACTIVATE, shell, answer], scratch_dir, env)
        if outcome.returncode != 0:
            raise failed(f"the activation scripts of the packages failed: {outcome.tail}")
        with open(answer, encoding="utf-8") as file:
            found: Dict[str, str] = json.load(file)
    except (OSError, ValueError) as error:
        raise failed(f"the activation scripts of the packages failed: {error}") from error
    return {name: value for name, value in found.items() if env.get(name) != value}

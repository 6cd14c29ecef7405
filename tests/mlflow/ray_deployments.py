"""Steps of the tests of Ray Serve."""

from __future__ import annotations

import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import NoneType

from click.testing import CliRunner
from mlflow.deployments.cli import commands

from tests.mlflow.served_models import BODY, JSON

SMALL = {"environment": "local", "resources.cpu": "0.1"}


def asks(url: str) -> Callable[[], tuple[int, bytes]]:
    """Return what asks a deployment once."""

    def ask() -> tuple[int, bytes]:
        request = urllib.request.Request(f"{url}/invocations", data=BODY, headers=JSON)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    return ask


def run(*command: str, fails: bool = False) -> str:
    """Run a command of this environment; returns what it prints, or says where it fails."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / command[0]), *command[1:]],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def mlflow_deployments(*arguments: str, fails: bool = False) -> str:
    """Run a verb of MLflow's command line in this process, which has imported it already."""
    done = CliRunner().invoke(commands, arguments)
    assert (done.exit_code != 0) == fails, f"{done.output}\n{done.exception!r}"
    assert isinstance(done.exception, (NoneType, SystemExit)), "a traceback would be printed"
    return done.output if fails else done.stdout

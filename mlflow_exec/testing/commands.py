"""Commands as a user gives them, in this environment."""

from __future__ import annotations

import io
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import NoneType

from click.testing import CliRunner
from mlflow.deployments.cli import commands

from mlflow_exec.cli import main


def run(*command: str, fails: bool = False) -> str:
    """Run a command of this environment; returns what it prints, or says where it fails."""
    done = subprocess.run(
        [str(Path(sys.executable).parent / command[0]), *command[1:]],
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def mlflow_exec(*arguments: str, fails: bool = False) -> str:
    """Run our own command line in this process; returns what it prints, or says where it fails."""
    said, told, code = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(said), redirect_stderr(told):
        try:
            main(arguments)
        except SystemExit as end:
            code = int(end.code or 0)
    assert (code != 0) == fails, said.getvalue() + told.getvalue()
    return told.getvalue() if fails else said.getvalue()


def mlflow_deployments(*arguments: str, fails: bool = False) -> str:
    """Run a verb of MLflow's command line in this process, which has imported it already."""
    done = CliRunner().invoke(commands, arguments)
    assert (done.exit_code != 0) == fails, f"{done.output}\n{done.exception!r}"
    assert isinstance(done.exception, (NoneType, SystemExit)), "a traceback would be printed"
    return done.output if fails else done.stdout

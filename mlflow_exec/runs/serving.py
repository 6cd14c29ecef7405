"""A model served on this machine in a Python environment that is made for it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import mlflow

import mlflow_exec
from mlflow_exec.errors import ConfigError
from mlflow_exec.runs.models import python_of, requirements_of
from mlflow_exec.runtime.end import EXIT_STOPPED
from mlflow_exec.runtime.environment_cache import Environments
from mlflow_exec.runtime.job_log import JobLog
from mlflow_exec.runtime.job_order import EnvironmentCacheSpec, EnvironmentSpec, SetupError
from mlflow_exec.runtime.processes import Runner, Stopped, StopSignal
from mlflow_exec.scoring.options import ENVIRONMENT_VARIABLE, ScoringOptions
from mlflow_exec.targets.requirements import SCORING_REQUIREMENTS, merged_requirements

_CACHE = EnvironmentCacheSpec("~/.cache/mlflow-exec/environments", 20 * 1024**3)
_TERM_GRACE_S = 5.0
_STDERR = 2
# Imports this package from where it is, and nothing that lies beside it; what was made for this
# server alone is removed at its end.
_START = """\
import atexit, importlib.util, runpy, shutil, sys
package, scratch = sys.argv[1:3]
del sys.argv[1:3]
atexit.register(shutil.rmtree, scratch, ignore_errors=True)
spec = importlib.util.spec_from_file_location("mlflow_exec", package)
sys.modules["mlflow_exec"] = module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
runpy.run_module("mlflow_exec.scoring", run_name="__main__", alter_sys=True)
"""


def serve_in_environment(
    manager: str, options: ScoringOptions, host: str, port: int
) -> NoReturn:
    """Make the model's environment, or find it, and become the server in it.

    It has the model's ``requirements.txt`` and what the server likes to have; of conda, what its
    ``conda.yaml`` says and no more. Environments are kept in ``~/.cache/mlflow-exec``, as those of
    jobs.

    Args:
        manager: ``uv``, ``virtualenv`` or ``conda``.
        options: What to serve, and how.
        host: The address to listen on.
        port: The port; 0 takes a free one.

    Raises:
        ConfigError: The model cannot be read, or its environment cannot be made.
        SystemExit: It was told to stop before it was the server.
    """
    scratch = tempfile.mkdtemp(prefix="mlflow-exec-serve-")
    stop = StopSignal()
    try:
        stop.install()
        path = _fetched(options.model_uri, scratch)
        python, variables = _environment(manager, path, scratch, stop)
        variables[ENVIRONMENT_VARIABLE] = replace(options, model_uri=str(path)).to_json()
        start = [python, "-c", _START, mlflow_exec.__file__, scratch]
        os.execve(python, [*start, "--host", host, "--port", str(port)], variables)
    except Stopped:
        sys.exit(EXIT_STOPPED)
    except SetupError as error:
        words = "; ".join(filter(None, (error.end.message.rstrip("."), error.end.hint)))
        raise ConfigError(f"--env-manager {manager}: {words}") from error
    finally:  # it is another program where all went well
        shutil.rmtree(scratch, ignore_errors=True)


def _fetched(uri: str, scratch: str) -> Path:
    """Return the folder with the model's files."""
    if os.path.isdir(uri):
        return Path(uri).absolute()
    folder = Path(scratch, "model")
    folder.mkdir()
    try:
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
    except Exception as error:  # each artifact store has errors of its own
        raise ConfigError(
            f"model {uri}: cannot be fetched: {type(error).__name__}: {error}"
        ) from error


def _environment(
    manager: str, path: Path, scratch: str, stop: StopSignal
) -> tuple[str, dict[str, str]]:
    """Return the Python of the model's environment, and the variables for a process in it.

    Raises:
        ConfigError: It is no model, or its requirements cannot be read.
        SetupError: The environment cannot be made.
        Stopped: A signal came.
    """
    spec = EnvironmentSpec(manager, python_of(path) or None, conda_file="conda.yaml")
    if manager != "conda":
        lines = requirements_of(path)
        merged = merged_requirements(SCORING_REQUIREMENTS, lines, (), has_files=True)
        spec = replace(spec, dependencies=tuple(merged))
    variables = dict(os.environ)
    # What is installed beside this Python, such as uv, is found without being on the path.
    places = [variables.get("PATH", os.defpath), os.path.dirname(sys.executable)]
    tools = {**variables, "PATH": os.pathsep.join(places)}
    runner = Runner(JobLog(None, _STDERR), stop, None, _TERM_GRACE_S)
    environments = Environments(spec, _CACHE, scratch, runner, tools)
    try:
        made = environments.prepare(str(path))
        environments.hand_over()
    except BaseException:
        environments.close()
        raise
    assert made.bin_dir is not None
    return os.path.join(made.bin_dir, "python"), made.apply(variables)

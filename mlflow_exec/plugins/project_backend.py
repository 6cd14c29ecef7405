"""What the project backends have in common: MLflow's calling conventions, and nothing else."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import click
from mlflow.exceptions import ExecutionException, MlflowException
from mlflow.projects.backend.abstract_backend import AbstractBackend
from mlflow.projects.submitted_run import SubmittedRun

from mlflow_exec.credentials import hide
from mlflow_exec.errors import MlflowExecError
from mlflow_exec.jobs import JobState
from mlflow_exec.runs import submit
from mlflow_exec.runs.progress import Progress
from mlflow_exec.runs.submitted import ExecSubmittedRun


@contextmanager
def execution_errors() -> Iterator[None]:
    """Turn our errors into the one that MLflow's command line prints without a traceback."""
    try:
        yield
    except ExecutionException:
        raise
    except (MlflowExecError, MlflowException) as error:
        shown = hide(str(error))
        # A traceback would show the cause all the same.
        raise ExecutionException(shown) from (error if shown == str(error) else None)


def run_project(
    backend: str,
    project_uri: str,
    entry_point: str,
    params: Mapping[str, Any] | None,
    version: str | None,
    backend_config: Mapping[str, Any] | str | None,
    tracking_uri: str,
    experiment_id: str,
) -> ExecSubmittedRun:
    """Submit a project for MLflow; the arguments are those of ``AbstractBackend.run``.

    On the command line the job is followed once MLflow has set its own tags, unless the setting
    ``wait`` is false; the exit code then tells how the job ended.

    Raises:
        ExecutionException: The call was refused, or the job could not be submitted.
    """
    if isinstance(backend_config, str):
        raise ExecutionException(
            f"backend_config: a dict, or the path of a .json file, is needed; "
            f"given {backend_config!r}. For YAML: {{'file': 'cfg.yaml'}}, or "
            f"mlflow_exec.load_config(path)"
        )
    command = _mlflow_run_command()
    options = command.params if command is not None else {}
    call = submit.Call(
        backend=backend,
        project_uri=project_uri,
        entry_point=entry_point,
        parameters=params or {},
        version=version,
        config=backend_config or {},
        tracking_uri=tracking_uri,
        experiment_id=str(experiment_id),
        run_id=options.get("run_id"),
        run_name=options.get("run_name"),
    )
    progress = Progress()
    with execution_errors(), progress.hearing():
        job = submit.run(call, progress)
    submitted = ExecSubmittedRun(job)
    if command is not None:
        if job.settings.wait:
            # MLflow sets its own tags after this function returns; following starts after that.
            command.call_on_close(lambda: follow(submitted, progress))
        else:
            progress.say(_ways_back(submitted.run_id))
    return submitted


class ProjectBackend(AbstractBackend):  # type: ignore[misc]
    """What MLflow loads for ``--backend``; a subclass gives the ``name``."""

    name: ClassVar[str]

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: dict[str, Any],
        version: str | None,
        backend_config: dict[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> SubmittedRun:
        """Submit the project; see MLflow's ``AbstractBackend.run``."""
        return run_project(
            self.name, project_uri, entry_point, params, version, backend_config, tracking_uri,
            experiment_id,
        )  # fmt: skip


def _mlflow_run_command() -> click.Context | None:
    """Return the context of ``mlflow run`` where that is what calls us.

    MLflow passes ``SYNCHRONOUS: False`` to plugins on the command line and in Python alike.
    """
    context = click.get_current_context(silent=True)
    if context is None or context.info_name != "run" or "backend_config" not in context.params:
        return None
    return context


def _ways_back(run_id: str) -> str:
    return (
        f"the job goes on. To follow it: mlflow-exec attach {run_id}\n"
        f"             To cancel it: mlflow-exec cancel {run_id}"
    )


def follow(submitted: ExecSubmittedRun, progress: Progress, *, detach: bool = False) -> None:
    """Print the job's log until it ends, then exit with 0, 1, or 130 after Ctrl-C.

    With ``detach`` Ctrl-C leaves the job running, whatever its settings say.
    """
    try:
        with execution_errors():
            status = submitted.follow(on_log=_print, progress=progress)
    except KeyboardInterrupt:
        _interrupted(submitted, progress, detach=detach)
        sys.exit(130)
    except ExecutionException as error:
        progress.say(str(error))
        progress.say(_ways_back(submitted.run_id))
        sys.exit(1)
    if status.state is not JobState.SUCCEEDED:
        sys.exit(1)


def _interrupted(submitted: ExecSubmittedRun, progress: Progress, *, detach: bool) -> None:
    if detach or submitted.settings.on_interrupt == "detach":
        progress.say(_ways_back(submitted.run_id))
        return
    # A second Ctrl-C must not leave half a cancellation.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        progress.say("cancelling the job")
        submitted.cancel()
        progress.say(f"run {submitted.run_id} is cancelled")
    except MlflowExecError as error:
        progress.say(str(error))
    finally:
        signal.signal(signal.SIGINT, before)


def _print(piece: str) -> None:
    sys.stdout.write(piece)
    sys.stdout.flush()

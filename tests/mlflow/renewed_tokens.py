"""A job whose token is refused while it runs, once another one is in its file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run

from mlflow_exec.runtime.end import TAG_LOG_COMPLETE, TAG_STATE_BY
from mlflow_exec.testing.collecting import until
from tests.guarded_server import Guard, takes
from tests.mlflow.submitted_runs import PLAIN, SubmittedRuns

TOKEN = "MLFLOW_TRACKING_TOKEN"
FIRST, SECOND = "first-token-of-the-test", "second-token-of-the-test"
_GOES_ON = """
import mlflow, pathlib, time
with mlflow.start_run():
    mlflow.log_metric("m", 1)
    with mlflow.start_run(nested=True):
        pass
    print("it has logged", flush=True)
    while "second" not in pathlib.Path({path!r}).read_text():
        time.sleep(0.1)
    mlflow.log_metric("m", 2)
"""


def sign_in_by_file(patch: pytest.MonkeyPatch, token: Path) -> None:
    """Have this process sign in by the token in a file."""
    for name, value in {
        "MLFLOW_TRACKING_AUTH": "mlflow-exec",
        "MLFLOW_EXEC_AUTH": "token-file",
        "MLFLOW_EXEC_AUTH_TOKEN_FILE": str(token),
        "MLFLOW_EXEC_AUTH_ALLOW_HTTP": "true",
    }.items():
        patch.setenv(name, value)


def outlives_its_token(
    runs: SubmittedRuns,
    guard: Guard,
    token: Path,
    path: str,
    python: str = "python3",
    **settings: Any,
) -> Run:
    """Submit the job, renew its token, and return its run; the end is the job's own.

    Args:
        runs: Submits it, and signs in by the same file.
        guard: The server.
        token: The file, as this process sees it.
        path: As the job sees it.
        python: The one that has MLflow.
        settings: Of the backend; ``secrets`` where it is to be told of the file.
    """
    token.write_text(FIRST)
    guard.accepts = takes(FIRST)
    project = runs.project(_GOES_ON.format(path=path), PLAIN.replace("python3", python))
    submitted = runs.run(project, **settings)
    until(
        lambda: "it has logged" in "".join(submitted.logs()) or submitted.status().state.is_final,
        "it has logged",
    )
    guard.accepts = takes(SECOND)
    token.write_text(SECOND)
    run = runs.ends(submitted, "SUCCEEDED")
    log = runs.log(submitted.run_id)
    assert run.data.metrics["m"] == 2, log
    assert run.data.tags[TAG_STATE_BY] == "entry"
    assert run.data.tags[TAG_LOG_COMPLETE] == "true"
    assert FIRST not in log
    assert SECOND not in log
    return run


def nested_tags(runs: SubmittedRuns, run: Run) -> dict[str, str]:
    """Return the tags of the run that the job has made below its own."""
    (nested,) = runs.mlflow.search_runs(
        [run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run.info.run_id}'"
    )
    return dict(nested.data.tags)

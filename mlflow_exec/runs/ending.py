"""The end of a run between MLflow and the schedulers: what is written, and what stands written."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, replace

from mlflow import MlflowClient
from mlflow.entities import Metric

from mlflow_exec.credentials import hide
from mlflow_exec.jobs import (
    JOB_NAME,
    Failure,
    FailureCategory,
    JobHandle,
    JobState,
    JobStatus,
)
from mlflow_exec.runs.artifacts import RunArtifacts
from mlflow_exec.runs.logs import FOLDER
from mlflow_exec.runtime.end import (
    FINAL_STATES,
    GIVEN_UP,
    TAG_CANCEL,
    TAG_FAILURE_CATEGORY,
    TAG_FAILURE_HINT,
    TAG_FAILURE_MESSAGE,
    TAG_STATE,
    End,
)

DIAGNOSIS = f"{FOLDER}/diagnosis.json"


def end_of(status: JobStatus) -> End:
    """Return the end of a run whose job has this final status."""
    why = status.failure
    if status.state is JobState.SUCCEEDED:
        return End("SUCCEEDED", exit_code=0)
    if why is None:
        return End(status.state.value, message=hide(status.message), exit_code=status.exit_code)
    return End(
        status.state.value, why.category.value, hide(why.message), why.hint, status.exit_code
    )


def written_failure(tags: Mapping[str, str]) -> Failure | None:
    """Return why a run failed, as its tags say; None if they name no category."""
    category = tags.get(TAG_FAILURE_CATEGORY)
    if not category:
        return None
    message, hint = tags.get(TAG_FAILURE_MESSAGE, ""), tags.get(TAG_FAILURE_HINT, "")
    return Failure(FailureCategory(category), message, hint)


def written_end(tags: Mapping[str, str]) -> JobStatus | None:
    """Return the end that a run's tags tell; None while it has none."""
    state = tags.get(TAG_STATE)
    if state not in FINAL_STATES:
        return None
    return JobStatus(JobState(state), "", written_failure(tags))


def as_decided(status: JobStatus, tags: Mapping[str, str]) -> JobStatus:
    """Return how a job ended, where somebody took it away: as who did it had said before.

    Args:
        status: The cluster's word. That a job was cancelled may be the work of a clock that ran
            out, on another machine too.
        tags: The run's.
    """
    decided = tags.get(TAG_CANCEL)
    if not decided or status.state is not JobState.CANCELLED:
        return status
    why = written_failure(tags)
    if decided == GIVEN_UP and why is not None:
        return replace(status, state=JobState.FAILED, message=why.message, failure=why)
    return JobStatus(JobState.CANCELLED, "The job was cancelled.", native=status.native)


def keep_diagnosis(
    artifacts: RunArtifacts, handle: JobHandle | None, status: JobStatus
) -> None:
    """Put what the scheduler says of a job on its run, as ``mlflow-exec/diagnosis.json``.

    Args:
        artifacts: The run's.
        handle: The job; None where the submission failed.
        status: Its final status.
    """
    data = {
        "handle": str(handle) if handle else None,
        "state": status.state.value,
        "message": status.message,
        "failure": asdict(status.failure) if status.failure else None,
        "exit_code": status.exit_code,
        "attempt": status.attempt,
        "native": status.native,
    }
    text = hide(json.dumps(data, indent=2, default=str, ensure_ascii=False))
    artifacts.write(DIAGNOSIS, text.encode("utf-8", "replace"))


def keep_usage(client: MlflowClient, run_id: str, handle: JobHandle, status: JobStatus) -> None:
    """Put what a job used on its run, as metrics whose step is the number of the submission.

    Repeating it changes no value.
    """
    match = JOB_NAME.match(handle.name)
    step = int(match.group(2)) if match else 1
    now_ms = int(time.time() * 1000)
    metrics = [
        Metric(f"mlflow_exec.{name}", value, now_ms, step) for name, value in status.usage.items()
    ]
    client.log_batch(run_id, metrics=metrics)

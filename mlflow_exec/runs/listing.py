"""Submitted runs, as they say themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from mlflow_exec.errors import ConfigError
from mlflow_exec.jobs import JobState
from mlflow_exec.runtime.end import (
    FINAL_STATES,
    TAG_BACKEND,
    TAG_FAILURE_CATEGORY,
    TAG_FAILURE_MESSAGE,
    TAG_HANDLE,
    TAG_KEPT,
    TAG_STATE,
)

_PAGE = 1000
_EXPERIMENTS = 100
_OPEN = f"tags.`{TAG_BACKEND}` != ''" + "".join(
    f" AND tags.`{TAG_STATE}` != '{state}'" for state in FINAL_STATES
)
# What a run does not have is not found by "!="; so every run has this tag from its beginning.
_UNKEPT = f"tags.`{TAG_KEPT}` = 'false'" + "".join(
    f" AND tags.`{TAG_STATE}` != '{state.value}'"
    for state in JobState
    if state.value not in FINAL_STATES
)


def submitted_runs(
    experiment_name: str | None = None,
    experiment_id: str | None = None,
    *,
    only_open: bool = False,
    limit: int = 50,
) -> list[dict[str, Any]]:
    """Return the newest submitted runs: run id, backend, handle, state, status and failure.

    Raises:
        ConfigError: There is no such experiment.
    """
    client = MlflowClient(mlflow.get_tracking_uri())
    experiments = _experiments(client, experiment_name, experiment_id)
    rows: list[dict[str, Any]] = []
    for start in range(0, len(experiments), _EXPERIMENTS):
        token: str | None = None
        while True:
            page = client.search_runs(
                experiments[start : start + _EXPERIMENTS],
                _OPEN if only_open else f"tags.`{TAG_BACKEND}` != ''",
                ViewType.ACTIVE_ONLY,
                max_results=min(_PAGE, limit),
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            rows += [_row(run) for run in page]
            token = page.token
            if not token or len(rows) >= limit:
                break
    rows.sort(key=lambda row: -row["start_time_ms"])
    return rows[:limit]


def open_runs(client: MlflowClient) -> Iterator[Run]:
    """Yield all submitted runs that have no end, of every experiment: one request per page."""
    yield from _found(client, _OPEN)


def unkept_runs(client: MlflowClient, ended_after_ms: int) -> Iterator[Run]:
    """Yield the runs that have an end, and of whose jobs not everything was kept yet.

    Args:
        client: For the tracking server.
        ended_after_ms: Only runs that ended later; milliseconds since 1970.
    """
    yield from _found(client, f"{_UNKEPT} AND attributes.end_time > {ended_after_ms}")


def _found(client: MlflowClient, chosen: str) -> Iterator[Run]:
    experiments = _experiments(client, None, None)
    for start in range(0, len(experiments), _EXPERIMENTS):
        token: str | None = None
        while True:
            page = client.search_runs(
                experiments[start : start + _EXPERIMENTS], chosen, ViewType.ACTIVE_ONLY,
                max_results=_PAGE, page_token=token,
            )  # fmt: skip
            yield from page
            token = page.token
            if not token:
                break


def _experiments(client: MlflowClient, name: str | None, identifier: str | None) -> list[str]:
    if identifier:
        return [identifier]
    if name:
        found = client.get_experiment_by_name(name)
        if found is None:
            raise ConfigError(f"--experiment-name: there is no experiment {name!r}")
        return [found.experiment_id]
    result: list[str] = []
    token: str | None = None
    while True:
        page = client.search_experiments(max_results=_PAGE, page_token=token)
        result += [experiment.experiment_id for experiment in page]
        token = page.token
        if not token:
            return result


def _row(run: Any) -> dict[str, Any]:
    tags = run.data.tags
    category, message = tags.get(TAG_FAILURE_CATEGORY), tags.get(TAG_FAILURE_MESSAGE, "")
    return {
        "run_id": run.info.run_id,
        "run_name": run.info.run_name,
        "backend": tags.get(TAG_BACKEND),
        "handle": tags.get(TAG_HANDLE),
        "state": tags.get(TAG_STATE, "UNKNOWN"),
        "status": run.info.status,
        "failure": f"{category}: {message}" if category else None,
        "start_time_ms": run.info.start_time or 0,
    }

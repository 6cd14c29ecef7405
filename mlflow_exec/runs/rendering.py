"""What a call of ``mlflow run`` would create, without creating it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import mlflow

from mlflow_exec.runs.configuration import Origin, origins, take_injected
from mlflow_exec.runs.progress import Progress
from mlflow_exec.runs.submit import Call, make_spec, prepare
from mlflow_exec.schedulers.base import Plan


def rendered(
    backend: str,
    uri: str,
    entry_point: str,
    version: str | None,
    parameters: Mapping[str, str],
    config: Mapping[str, Any],
) -> tuple[Plan, Mapping[str, Origin]]:
    """Return the plan of a call, for a run that does not exist, and its settings.

    Raises:
        MlflowExecError: The call would be refused.
    """
    call = Call(backend, uri, entry_point, parameters, version, config,
                mlflow.get_tracking_uri(), "0")  # fmt: skip
    prepared = prepare(call, Progress())
    try:
        plan = prepared.scheduler.plan(make_spec(prepared))
        own, env_manager = take_injected(config)
        found = origins(prepared.settings, own, prepared.project, prepared.scheduler,
                        env_manager, prepared.job_tracking_uri)  # fmt: skip
        return plan, found
    finally:
        prepared.close()

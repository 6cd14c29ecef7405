"""The engine `ray`: each check is a task of a Ray; data and model are put there once.

The result is that of the engine `local`: checks draw from generators of their own, and know
nothing of each other.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow_exec.clients import ray_tasks
from mlflow_exec.evaluation.checks.base import Check, Context
from mlflow_exec.evaluation.findings import Skipped
from mlflow_exec.evaluation.running import Progress, Ran, run_check
from mlflow_exec.evaluation.settings import ScanSettings


@dataclass(frozen=True, eq=False)
class _Shared:
    """What all tasks need. The deadline is a time of day: other machines have other clocks."""

    context: Context
    settings: ScanSettings
    deadline_s: float


def run_on_ray(
    checks: Sequence[Check[Any]], context: Context, settings: ScanSettings, progress: Progress
) -> Iterator[Ran]:
    """Run checks as tasks, side by side; yields what became of them in the order of `checks`.

    Raises:
        MissingExtraError: The Python package ``ray`` is not installed.
        UnreachableError: The Ray of `ray_address` does not answer.
        ConfigError: The model cannot be sent there.
    """
    left_s = context.deadline_s - time.monotonic()
    shared = _Shared(replace(context, progress=_silent), settings, time.time() + left_s)
    ran: dict[int, Ran] = {}
    progress("waiting for Ray")
    with ray_tasks.connected(settings.ray_address):
        for position, outcome in ray_tasks.results(_task, shared, checks):
            check = checks[position]
            if isinstance(outcome, Exception):
                said = f"its task on Ray failed: {type(outcome).__name__}: {outcome}"
                outcome = Ran(check, [], Skipped(check.name, said, expected=False), 0.0)
            ran[position] = outcome
            progress(f"{check.title} is done ({len(ran)} of {len(checks)})")
    yield from (ran[position] for position in sorted(ran))


def _silent(words: str) -> None:
    pass


def _task(shared: _Shared, check: Check[Any]) -> Ran:
    left_s = shared.deadline_s - time.time()
    context = replace(shared.context, deadline_s=time.monotonic() + left_s)
    return run_check(check, context, shared.settings)

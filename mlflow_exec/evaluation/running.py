"""Running one check: the unit of work of a scan, wherever it runs."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_exec.errors import ScanError
from mlflow_exec.evaluation.checks.base import Check, Context, OutOfTimeError
from mlflow_exec.evaluation.findings import Finding, Skipped
from mlflow_exec.evaluation.settings import ScanSettings

_log = logging.getLogger(__name__)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Ran:
    """What became of a check.

    Attributes:
        check: Which one it was.
        found: All that it yielded, also what may be chance.
        skipped: Why it was not run, or not to its end; None where it was.
        duration_s: How long it took.
    """

    check: Check[Any]
    found: list[Finding]
    skipped: Skipped | None
    duration_s: float


def run_check(check: Check[Any], context: Context, settings: ScanSettings) -> Ran:
    """Run a check, whatever happens in it."""
    begun = time.monotonic()
    found: list[Finding] = []
    skipped = _run(check, context, settings, found)
    return Ran(check, found, skipped, time.monotonic() - begun)


def run_here(
    checks: Sequence[Check[Any]], context: Context, settings: ScanSettings, progress: Progress
) -> Iterator[Ran]:
    """Run checks in this process, one after the other."""
    for number, check in enumerate(checks, start=1):
        context.progress = prefixed(progress, f"{check.title} ({number} of {len(checks)})")
        context.progress("")
        yield run_check(check, context, settings)


def prefixed(progress: Progress, prefix: str) -> Progress:
    """Return a progress whose words follow others."""
    return lambda words: progress(f"{prefix}: {words}" if words else prefix)


def _run(
    check: Check[Any], context: Context, settings: ScanSettings, found: list[Finding]
) -> Skipped | None:
    try:
        context.tick()
        reason = check.applies(context)
        if reason is not None:
            return Skipped(check.name, reason, expected=True)
        for finding in check.run(context):
            found.append(finding)
    except OutOfTimeError:
        said = f"the time of {settings.time_budget_s:g} s was over (time_budget_s)"
        begun = f"; it had found {len(found)} until then" if found else ""
        return Skipped(check.name, said + begun, expected=False)
    except ScanError as error:
        return Skipped(check.name, str(error), expected=False)
    except Exception as error:  # the other checks are worth having
        _log.exception("The check %s failed", check.name)
        return Skipped(check.name, f"it failed: {error!r}", expected=False)
    return None

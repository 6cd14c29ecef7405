"""What became of the validations of a suite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """Whether the model passed one validation.

    Attributes:
        name: As the suite has it.
        kind: Of the validation, such as ``threshold``.
        severity: ``major``, ``medium`` or ``minor``: how bad it is that it failed.
        passed: False also where it could not be told: a gate stays shut then.
        message: One sentence for people: what was wanted, and what is.
        figure: What was compared with the limit; None where it could not be told.
        details: More figures, by stable names; JSON values only.
    """

    name: str
    kind: str
    severity: str
    passed: bool
    message: str
    figure: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)


SEVERITIES = ("major", "medium", "minor")
"""The worst first."""


def failing(verdicts: Iterable[Verdict], fail_on: str) -> list[Verdict]:
    """Return the validations that failed and are that bad, or worse; the worst first."""
    counted = SEVERITIES[: SEVERITIES.index(fail_on) + 1]
    failed = [v for v in verdicts if not v.passed and v.severity in counted]
    return sorted(failed, key=lambda verdict: SEVERITIES.index(verdict.severity))


def verdict_metrics(verdicts: Iterable[Verdict]) -> dict[str, float]:
    """Return the metrics of a suite: ``scan/suite/<name>`` is 1 where it passed, and the totals.

    The totals are ``scan/n_failed_major`` and so on. Nothing where there was no suite.
    """
    taken = list(verdicts)
    found = {f"scan/suite/{verdict.name}": float(verdict.passed) for verdict in taken}
    for severity in SEVERITIES if taken else ():
        failed = sum(not v.passed and v.severity == severity for v in taken)
        found[f"scan/n_failed_{severity}"] = float(failed)
    return found

"""What was looked at before something is done, in sentences for the user."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Report:
    """What the preflight found that does not stop the job: sentences for the user."""

    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Finding:
    """One thing that ``mlflow-exec doctor`` looked at.

    Attributes:
        ok: Whether it is as it should be.
        subject: What was looked at.
        detail: What was found.
        way_on: What to do about it, where it is not.
    """

    ok: bool
    subject: str
    detail: str
    way_on: str = ""

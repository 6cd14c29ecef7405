"""The pauses between the tries of one thing at a system that gives no answer now."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import TypeVar

from mlflow_exec.errors import UnreachableError

T = TypeVar("T")

PATIENCE_S = 20.0
"""So long a system that has just started may not be able to do what it is asked for."""
_FIRST_S = 0.2
_LONGEST_S = 5.0


class Pauses:
    """Says how long to wait before each next try of one thing.

    Longer each time, and by chance a little more or less, so that many who were turned away at
    the same moment do not come back at the same moment.
    """

    def __init__(self) -> None:
        self._next_s = _FIRST_S

    def next_s(self, asked_for_s: float = 0.0) -> float:
        """Return the next pause, in seconds; never shorter than what the system asks for."""
        usual_s = self._next_s * random.uniform(0.5, 1.5)
        self._next_s = min(self._next_s * 2, _LONGEST_S)
        return max(usual_s, asked_for_s + usual_s / 4 if asked_for_s else 0.0)


def repeated(action: Callable[[], T], patience_s: float | None = None) -> T:
    """Do what is safe to repeat until an answer comes.

    Raises:
        UnreachableError: None came within ``patience_s``, by default `PATIENCE_S`.
    """
    pauses = Pauses()
    end_s = time.monotonic() + (PATIENCE_S if patience_s is None else patience_s)
    while True:
        try:
            return action()
        except UnreachableError:
            if time.monotonic() > end_s:
                raise
        time.sleep(pauses.next_s())


def retry_after_s(value: str | None, date: str | None) -> float:
    """Return how long an answer asks to be left alone, by its headers; 0 if it does not ask.

    Args:
        value: ``Retry-After``: seconds, or a date.
        date: ``Date``. A date is compared with this one, which is of the same clock; this
            machine's may be wrong.
    """
    if not value:
        return 0.0
    if value.strip().isdigit():
        return float(value)
    try:
        until, now = parsedate_to_datetime(value), parsedate_to_datetime(date or "")
    except (TypeError, ValueError):
        return 0.0
    return max(0.0, (until - now).total_seconds())

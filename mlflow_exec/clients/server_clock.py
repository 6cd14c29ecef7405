"""The time by a server's own clock, as its answers tell it."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime


class ServerClock:
    """One server's clock; this machine's may be minutes away from it, or be set meanwhile."""

    def __init__(self) -> None:
        self._told: tuple[datetime, float] | None = None

    def hear(self, date: str | None) -> None:
        """Take note of an answer's ``Date`` header."""
        if date:
            with suppress(ValueError):
                self._told = parsedate_to_datetime(date), time.monotonic()

    def now(self) -> datetime | None:
        """Return the time, to a second; None while no answer has told it."""
        if self._told is None:
            return None
        date, at_s = self._told
        return date + timedelta(seconds=time.monotonic() - at_s)

"""A server's clock, however wrong this machine's is."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from email.utils import format_datetime

import pytest

from mlflow_exec.clients.server_clock import ServerClock


@pytest.mark.parametrize("ahead_s", [-600, 0, 600])
def test_it_goes_on_from_what_an_answer_said(ahead_s: float) -> None:
    clock, there = ServerClock(), datetime.now(timezone.utc) + timedelta(seconds=ahead_s)
    assert clock.now() is None
    clock.hear(format_datetime(there, usegmt=True))
    now = clock.now()
    assert now is not None
    assert -1 <= (now - there).total_seconds() < 5


@pytest.mark.parametrize("date", [None, "", "soon"])
def test_an_answer_without_a_time_tells_nothing(date: str | None) -> None:
    clock = ServerClock()
    clock.hear(date)
    assert clock.now() is None

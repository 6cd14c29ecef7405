"""Pauses between tries grow, differ, and are as long as the system asks for."""

from __future__ import annotations

import pytest

from mlflow_exec.clients.pauses import Pauses, retry_after_s

NOON = "Tue, 24 Nov 2026 12:00:00 GMT"


def test_pauses_grow_up_to_a_limit_and_are_not_the_same_for_all() -> None:
    some, others = Pauses(), Pauses()
    first = [some.next_s() for _ in range(12)]
    assert first != [others.next_s() for _ in range(12)]
    assert 0.1 <= first[0] <= 0.3
    assert all(2.5 <= pause_s <= 7.5 for pause_s in first[5:])


def test_a_pause_is_never_shorter_than_asked_for() -> None:
    assert all(2 <= Pauses().next_s(2) < 2.2 for _ in range(100))


@pytest.mark.parametrize(
    ("value", "date", "expected_s"),
    [
        (None, NOON, 0),
        ("3", None, 3),
        # Both are of the server's clock, whatever this machine's says.
        ("Tue, 24 Nov 2026 12:00:07 GMT", NOON, 7),
        ("Tue, 24 Nov 2026 11:00:00 GMT", NOON, 0),
        ("Tue, 24 Nov 2026 12:00:07 GMT", None, 0),
        ("soon", NOON, 0),
    ],
)
def test_retry_after_is_a_time_or_a_date(
    value: str | None, date: str | None, expected_s: float
) -> None:
    assert retry_after_s(value, date) == expected_s

"""Ports that nobody uses."""

from __future__ import annotations

import socket

import pytest

from mlflow_exec.clients import ports


def test_a_range_in_whose_lower_part_a_port_is_used_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = 500
    first = ports.free_range(count)
    monkeypatch.setattr(ports, "_PORTS", range(first, first + count))
    assert ports._are_free(first, 20)
    with socket.socket() as used:
        used.bind(("127.0.0.1", first + 5))
        assert not ports._are_free(first, 20)
        monkeypatch.setattr(ports, "_PORTS", range(first - count, first + count))
        assert {ports.free_range(count) for _ in range(20)} == {first - count}

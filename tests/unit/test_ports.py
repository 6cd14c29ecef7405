"""Ports that nobody uses."""

from __future__ import annotations

import socket

from mlflow_exec.clients import ports


def test_a_range_in_whose_lower_part_a_port_is_used_is_passed_over() -> None:
    count = len(ports._PORTS) // 2
    first, second = ports._PORTS.start, ports._PORTS.start + count
    assert {ports.free_range(count) for _ in range(50)} == {first, second}
    with socket.socket() as used:
        used.bind(("127.0.0.1", first + 5))
        assert {ports.free_range(count) for _ in range(20)} == {second}

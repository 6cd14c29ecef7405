"""Ports of this machine's loopback that nobody uses."""

from __future__ import annotations

import contextlib
import random
import socket

# Below those that Ray and Kubernetes (from 30000) and the system (from 32768) hand out.
_PORTS = range(10_000, 30_000)
# Without those that Ray gives to its workers and to servers of its clients, up to 23,999.
_SERVERS = range(24_000, 30_000)


def free_port(host: str = "127.0.0.1") -> int:
    """Return a port that nobody uses now.

    Not one that the system gives to outgoing connections, for one of those might have it before
    the server that it is for.
    """
    numbers = random.SystemRandom()  # two processes with the same seed do not draw the same
    while True:
        port = numbers.choice(_SERVERS)
        if _are_free(port, 1, host):
            return port


def free_range(count: int, looked_at: int = 20) -> int:
    """Return the first of so many ports that another process is not likely to hand out, too.

    Args:
        count: How many.
        looked_at: So many of them, the lowest, are not used now.
    """
    firsts = list(range(_PORTS.start, _PORTS.stop, count))
    random.shuffle(firsts)
    return next((first for first in firsts if _are_free(first, looked_at)), firsts[0])


def _are_free(first: int, count: int, host: str = "127.0.0.1") -> bool:
    with contextlib.ExitStack() as bound:
        try:
            for port in range(first, first + count):
                bound.enter_context(socket.socket()).bind((host, port))
        except OSError:
            return False
    return True

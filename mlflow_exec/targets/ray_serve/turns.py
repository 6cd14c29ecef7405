"""Whose turn it is to write to a Serve, among the processes of one machine."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow_exec.clients import ray_embedded


@contextmanager
def turn(address: str) -> Iterator[None]:
    """Take turns with the other processes of this user that write to the same Serve."""
    folder = ray_embedded.home()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"serve-{hashlib.sha256(address.encode()).hexdigest()[:16]}.lock"
    descriptor = os.open(folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


"""Locks that a fork does not leave held."""

from __future__ import annotations

import os
import threading
import weakref

_all: weakref.WeakSet[ProcessLock] = weakref.WeakSet()


class ProcessLock:
    """A lock between the threads of one process; a forked one begins with a free one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        _all.add(self)

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take it; returns whether it was to be had."""
        return self._lock.acquire(blocking)

    def release(self) -> None:
        """Free it."""
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()


def _free_all() -> None:
    # The threads that held them at the fork are not in the child.
    for lock in list(_all):
        lock._lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_all)

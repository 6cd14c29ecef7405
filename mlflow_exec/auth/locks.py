"""A lock that a fork does not leave held."""

from __future__ import annotations

import os
import threading


class ProcessLock:
    """A lock between the threads of one process; a forked one begins with a free one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pid = os.getpid()

    def acquire(self, *, blocking: bool = True) -> bool:
        """Take it; returns whether it was to be had."""
        # The thread that held it at the fork is not in the child.
        if self._pid != os.getpid():
            self._lock, self._pid = threading.Lock(), os.getpid()
        return self._lock.acquire(blocking)

    def release(self) -> None:
        """Free it."""
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *_: object) -> None:
        self.release()

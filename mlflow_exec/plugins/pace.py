"""How many files are sent at a time."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_AT_FIRST = 4


class Pace:
    """Few at a time where sending them computes, more where it waits for the system. Thread-safe.

    Threads that compute take turns in one interpreter, and the more there are the longer that
    takes: sixteen that nothing holds up are slower than four.
    """

    def __init__(self, most: int) -> None:
        """Begin with a few.

        Args:
            most: So many at most.
        """
        self._most = most
        self._limit = min(_AT_FIRST, most)
        self._active = 0
        self._least_took_s = self._least_computed_s = math.inf
        self._changed = threading.Condition()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait until one more may be sent, and learn from how long it takes."""
        with self._changed:
            while self._active >= self._limit:
                self._changed.wait()
            self._active += 1
        began_s, computed_s = time.monotonic(), time.thread_time()
        try:
            yield
        finally:
            took_s = time.monotonic() - began_s
            computed_s = time.thread_time() - computed_s
            with self._changed:
                self._active -= 1
                # The quickest was held up least by others; so many fill one processor.
                self._least_took_s = min(self._least_took_s, took_s)
                self._least_computed_s = min(self._least_computed_s, computed_s)
                wanted = self._least_took_s / max(self._least_computed_s, 1e-6)
                self._limit = min(max(_AT_FIRST, math.ceil(wanted)), self._most)
                self._changed.notify(max(0, self._limit - self._active))

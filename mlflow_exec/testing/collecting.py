"""Endless iterations, such as a watch or a followed log, as something a test can wait for."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Collected(Generic[T]):
    """Runs an iteration in a thread and keeps its items.

    Attributes:
        items: What came so far.
    """

    def __init__(self, source: Iterable[T]) -> None:
        self.items: list[T] = []
        self._queue: queue.SimpleQueue[tuple[T] | BaseException | None] = queue.SimpleQueue()
        self._over = False
        threading.Thread(target=self._run, args=(source,), daemon=True).start()

    def _run(self, source: Iterable[T]) -> None:
        try:
            for item in source:
                self._queue.put((item,))
            self._queue.put(None)
        except BaseException as error:  # shown by the thread that waits
            self._queue.put(error)

    def _take(self, timeout_s: float) -> None:
        try:
            got = self._queue.get(timeout=max(timeout_s, 0.001))
        except queue.Empty:
            return
        if isinstance(got, BaseException):
            self._over = True
            raise got
        if got is None:
            self._over = True
        else:
            self.items.append(got[0])

    def until(self, check: Callable[[list[T]], bool], what: str, timeout_s: float = 240) -> list[T]:
        """Wait until the items satisfy the check, and return them.

        Raises:
            AssertionError: They did not in time, or the iteration ended before.
        """
        deadline_s = time.monotonic() + timeout_s
        while not check(self.items):
            seen = f"{what}; seen: {self.items[-5:]!r:.3000}"
            assert not self._over, f"it ended before {seen}"
            assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {seen}"
            self._take(deadline_s - time.monotonic())
        return self.items

    def all(self, timeout_s: float = 240) -> list[T]:
        """Wait until the iteration has ended, and return all items.

        Raises:
            AssertionError: It did not end in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while not self._over:
            seen = f"{self.items[-5:]!r:.3000}"
            assert time.monotonic() < deadline_s, f"no end within {timeout_s:g} s; seen: {seen}"
            self._take(deadline_s - time.monotonic())
        return self.items


def until(check: Callable[[], T], what: str, timeout_s: float = 240) -> T:
    """Ask until the answer is true, and return it: at first often, then twice a second.

    Raises:
        AssertionError: It was not in time.
    """
    deadline_s = time.monotonic() + timeout_s
    pause_s = 0.02
    while not (found := check()):
        assert time.monotonic() < deadline_s, f"not within {timeout_s:g} s: {what}"
        time.sleep(pause_s)
        pause_s = min(1.3 * pause_s, 0.5)
    return found


def within(timeout_s: float, call: Callable[[], T]) -> T:
    """Return what the call returns.

    Raises:
        AssertionError: It did not return in time; it goes on in its thread.
    """
    return Collected(call() for _ in range(1)).all(timeout_s)[0]

"""How much of all files that are on their way may be in memory at a time, in one process."""

from __future__ import annotations

import threading


class Budget:
    """So many bytes; who wants more waits for others to give theirs back. Thread-safe.

    One thing may be larger than all of it, if it is alone.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._taken_bytes = 0
        self._changed = threading.Condition()

    def take(self, size_bytes: int) -> None:
        """Wait for so much; the caller must hold nothing that only it can give back."""
        with self._changed:
            self._changed.wait_for(lambda: self._has(size_bytes))
            self._taken_bytes += size_bytes

    def take_now(self, size_bytes: int) -> bool:
        """Take so much if it is there."""
        with self._changed:
            if not self._has(size_bytes):
                return False
            self._taken_bytes += size_bytes
            return True

    def give_back(self, size_bytes: int) -> None:
        """Give back what was taken."""
        with self._changed:
            self._taken_bytes -= size_bytes
            self._changed.notify_all()

    def _has(self, size_bytes: int) -> bool:
        return not self._taken_bytes or self._taken_bytes + size_bytes <= self._size_bytes

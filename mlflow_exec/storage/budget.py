"""How much of all files that are on their way may be in memory at a time, in one process."""

from __future__ import annotations

import os
import threading
import time

PATIENCE_S = 300.0


class Share:
    """What was taken of a budget; given back once, by whoever is done with it.

    Attributes:
        size_bytes: So much.
        until_s: When it does not count any more, of the monotonic clock.
    """

    def __init__(self, budget: Budget, size_bytes: int) -> None:
        self._budget = budget
        self.size_bytes = size_bytes
        self.until_s = time.monotonic() + PATIENCE_S

    def give_back(self, *_: object) -> None:
        """Let others have it. Idempotent."""
        self._budget._remove(self)

    def __enter__(self) -> None:
        """Give it back at the end."""

    def __exit__(self, *_: object) -> None:
        self.give_back()


class Budget:
    """So many bytes; who wants more waits for others to give theirs back. Thread-safe.

    One thing may be larger than all of it, if it is alone. What is held for longer than
    `PATIENCE_S` does not count any more: who sends, or reads, has perhaps gone without a word, and
    all others would wait for ever. A forked process begins with all of it. Lives as long as the
    process does.
    """

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._shares: set[Share] = set()
        self._changed = threading.Condition()

    def take(self, size_bytes: int) -> Share:
        """Wait for so much; the caller should hold nothing that only it can give back."""
        with self._changed:
            while (wait_s := self._wait_s(size_bytes)) > 0:
                self._changed.wait(wait_s)
            return self._add(size_bytes)

    def take_now(self, size_bytes: int) -> Share | None:
        """Take so much if it is there."""
        with self._changed:
            return None if self._wait_s(size_bytes) > 0 else self._add(size_bytes)

    def is_free(self) -> bool:
        """Whether nothing is taken."""
        return not self._shares

    def _add(self, size_bytes: int) -> Share:
        share = Share(self, size_bytes)
        self._shares.add(share)
        return share

    def _remove(self, share: Share) -> None:
        with self._changed:
            self._shares.discard(share)
            self._changed.notify_all()

    def _wait_s(self, size_bytes: int) -> float:
        """Return how long to wait at most before looking again; 0 if it is there."""
        now_s = time.monotonic()
        held = [share for share in self._shares if share.until_s > now_s]
        if not held or sum(share.size_bytes for share in held) + size_bytes <= self._size_bytes:
            return 0.0
        return min(share.until_s for share in held) - now_s

"""Where what is asynchronous runs, for threads that wait for it."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
ANSWER_S = 120.0
"""How long one of those threads waits."""


class EventLoop:
    """An event loop in a thread of its own; a forked process has another one.

    To be made once for each module: what a forked process does with it is never given back.
    """

    def __init__(self, name: str) -> None:
        """Start nothing yet.

        Args:
            name: Of the thread.
        """
        self._name = name
        self._begin()
        if hasattr(os, "register_at_fork"):  # else a lock that was held then would be for ever
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._made: asyncio.AbstractEventLoop | None = None

    def start(self, awaited: Awaitable[T]) -> Future[T]:
        """Have something done."""

        async def run() -> T:
            return await awaited

        return asyncio.run_coroutine_threadsafe(run(), self._running())

    def wait(self, awaited: Awaitable[T]) -> T:
        """Have something done, and return what comes of it.

        Raises:
            TimeoutError: Of `concurrent.futures`: nothing came within `ANSWER_S`.
        """
        return self.start(awaited).result(ANSWER_S)

    def call(self, action: Callable[[], object]) -> None:
        """Have something called there, some time."""
        self._running().call_soon_threadsafe(action)

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._made is None:
                loop = asyncio.new_event_loop()
                # Reads ahead of a connection that broke, which nobody waits for any more.
                loop.set_exception_handler(lambda _, told: _LOG.debug("%s", told.get("message")))
                threading.Thread(target=loop.run_forever, name=self._name, daemon=True).start()
                self._made = loop
            return self._made

"""Threads that predict, so that the event loop goes on answering."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any

PATIENCE_S = 0.02
"""How long a job waits for a thread that is at work before one more is used."""

_COMPUTING = 0.7
"""From this share of one processor on, a process is computing rather than waiting."""

_PROCESSORS = (
    len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
)

_Job = tuple[Callable[[], Any], "asyncio.Future[Any]"]


class Workers:
    """As few threads as keep up, and up to a limit as many as are needed.

    Threads of one Python take turns: two that compute hinder each other. So jobs go to one thread
    while it keeps up. Where a job had to wait, one more thread is used: up to one for each
    processor, and beyond that where the process is not computing, as with a model that asks another
    service. It is given up when there is nothing to do for it.

    Everything but `_work` runs in the event loop's thread.
    """

    def __init__(self, max_threads: int, patience_s: float = PATIENCE_S) -> None:
        self._max_threads = max_threads
        self._patience_s = patience_s
        self._lock = threading.Lock()
        self._waiting: deque[_Job] = deque()
        self._active = 0
        self._idle: list[_Turn] = []
        self._allowed = 1
        self._is_watched = False
        self._watched_since = (0.0, 0.0)  # the clock, and the process's computing time

    async def run(self, call: Callable[[], Any], timeout_s: float | None) -> Any:
        """Run a call in a thread and return its result.

        Args:
            call: What to run.
            timeout_s: How long to wait for its end; None: for ever.

        Raises:
            asyncio.TimeoutError: It took longer; the thread goes on with it until it ends.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        clock = None if timeout_s is None else loop.call_later(timeout_s, expire, future)
        try:
            self._submit((call, future), loop)
            return await future
        finally:
            if clock:
                clock.cancel()

    def _submit(self, job: _Job, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            if self._active >= self._allowed:
                self._waiting.append(job)
                if not self._is_watched and self._allowed < self._max_threads:
                    self._watch(job, loop)
                return
            self._active += 1
        self._start(job)

    def _watch(self, job: _Job, loop: asyncio.AbstractEventLoop) -> None:
        self._is_watched = True
        self._watched_since = (time.monotonic(), time.process_time())
        loop.call_later(self._patience_s, self._add_one, job, loop)

    def _add_one(self, watched: _Job, loop: asyncio.AbstractEventLoop) -> None:
        """Use one more thread where the job that was watched is still waiting."""
        job = None
        with self._lock:
            self._is_watched = False
            if watched in self._waiting and self._would_help():
                self._allowed += 1
                self._active += 1
                job = self._waiting.popleft()
            if self._waiting and self._allowed < self._max_threads:
                self._watch(self._waiting[0], loop)
        if job:
            self._start(job)

    def _would_help(self) -> bool:
        if self._allowed < min(_PROCESSORS, self._max_threads):
            return True
        since_s, computed_s = self._watched_since
        share = (time.process_time() - computed_s) / max(time.monotonic() - since_s, 1e-9)
        return self._allowed < self._max_threads and share < _COMPUTING

    def _start(self, job: _Job) -> None:
        with self._lock:
            turn = self._idle.pop() if self._idle else None
        if turn is not None:
            turn.give(job)
            return
        turn = _Turn(job)
        threading.Thread(target=self._work, args=(turn,), name="prediction", daemon=True).start()

    def _work(self, turn: _Turn) -> None:
        job: _Job | None = turn.take()
        while True:
            while job is not None:
                _do(job)
                job = self._next(turn)
            job = turn.take()

    def _next(self, turn: _Turn) -> _Job | None:
        with self._lock:
            if self._waiting and self._active <= self._allowed:
                return self._waiting.popleft()
            self._active -= 1
            if not self._waiting:
                self._allowed = max(1, min(self._allowed, self._active + 1))
            self._idle.append(turn)
            return None


class _Turn:
    """Where one thread waits for its next job."""

    def __init__(self, job: _Job) -> None:
        self._job = job
        self._is_given = threading.Semaphore(1)

    def give(self, job: _Job) -> None:
        self._job = job
        self._is_given.release()

    def take(self) -> _Job:
        self._is_given.acquire()
        return self._job


def _do(job: _Job) -> None:
    call, future = job
    if future.done():  # nobody waits for it any more
        return
    try:
        result = call()
    except BaseException as error:
        deliver(future, None, error)
    else:
        deliver(future, result)


def deliver(future: asyncio.Future[Any], result: Any, error: BaseException | None = None) -> None:
    """Give a future its result or its error, from any thread."""
    with suppress(RuntimeError):  # the loop was closed meanwhile
        future.get_loop().call_soon_threadsafe(_settle, future, result, error)


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def expire(future: asyncio.Future[Any]) -> None:
    """End the wait for a future whose time is over; runs in its event loop."""
    if not future.done():
        future.set_exception(asyncio.TimeoutError())

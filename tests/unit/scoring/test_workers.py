"""As few threads as keep up, and more where they wait."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

from mlflow_exec.scoring.workers import Workers


class Noted:
    """Calls that note which threads they ran in, and how many at a time."""

    def __init__(self) -> None:
        self.threads: set[int] = set()
        self.running = self.most = 0
        self.lock = threading.Lock()

    def call(self, seconds: float) -> float:
        with self.lock:
            self.threads.add(threading.get_ident())
            self.running += 1
            self.most = max(self.most, self.running)
        time.sleep(seconds)
        with self.lock:
            self.running -= 1
        return seconds


async def run_all(workers: Workers, calls: list[Any], timeout_s: float = 30) -> list[Any]:
    return await asyncio.gather(*[workers.run(call, timeout_s) for call in calls])


def test_what_keeps_up_stays_in_one_thread() -> None:
    noted = Noted()

    async def run() -> None:
        workers = Workers(8, patience_s=30)
        for _ in range(20):
            await run_all(workers, [lambda: noted.call(0)] * 20)

    asyncio.run(run())
    assert len(noted.threads) == 1


def test_what_waits_gets_more_threads_up_to_the_limit() -> None:
    noted, released = Noted(), threading.Event()

    def wait() -> None:
        noted.call(0)
        noted.running += 1
        if noted.running == 5:
            released.set()
        assert released.wait(30)

    async def run() -> None:
        await run_all(Workers(5, patience_s=0.001), [wait] * 20)

    asyncio.run(run())
    assert len(noted.threads) == 5


def test_results_and_errors_go_to_who_asked() -> None:
    def fail() -> None:
        raise KeyError("x")

    async def run() -> list[Any]:
        workers = Workers(2)
        calls = [lambda i=i: i for i in range(50)]
        found = await run_all(workers, calls)
        with pytest.raises(KeyError):
            await workers.run(fail, 30)
        return [*found, await workers.run(lambda: "on", 30)]

    assert asyncio.run(run()) == [*range(50), "on"]


def test_what_nobody_waits_for_any_more_is_not_done() -> None:
    done: list[int] = []
    started, may_end = threading.Event(), threading.Event()

    def block() -> None:
        started.set()
        may_end.wait(30)

    async def run() -> None:
        workers = Workers(1)
        blocked = asyncio.create_task(workers.run(block, 30))
        await asyncio.to_thread(started.wait, 30)
        with pytest.raises(asyncio.TimeoutError):
            await workers.run(lambda: done.append(1), 0.01)
        may_end.set()
        await blocked
        await workers.run(lambda: done.append(2), 30)

    asyncio.run(run())
    assert done == [2]

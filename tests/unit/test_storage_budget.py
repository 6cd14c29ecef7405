"""What is on its way at a time is bounded, and nobody waits for ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from mlflow_exec.storage.budget import Budget
from mlflow_exec.testing.collecting import until


def test_no_more_is_taken_than_there_is() -> None:
    budget, most, now, lock = Budget(100), 0, 0, threading.Lock()

    def use(size_bytes: int) -> None:
        nonlocal most, now
        budget.take(size_bytes)
        with lock:
            now += size_bytes
            most = max(most, now)
        with lock:
            now -= size_bytes
        budget.give_back(size_bytes)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, [30, 50, 70, 10] * 100))
    assert 0 < most <= 100
    assert budget.take_now(100)


def test_who_wants_more_waits_until_it_is_given_back() -> None:
    budget = Budget(100)
    budget.take(80)
    assert not budget.take_now(30)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(budget.take, 30)
        until(lambda: waiting.running(), "it waits")
        assert not waiting.done()
        budget.give_back(80)
        waiting.result(10)


def test_what_is_larger_than_all_of_it_passes_alone() -> None:
    budget = Budget(100)
    budget.take(1000)
    assert not budget.take_now(1)
    budget.give_back(1000)
    assert budget.take_now(1)

"""What is on its way at a time is bounded, and nobody waits for ever."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlflow_exec.errors import UnreachableError
from mlflow_exec.storage.budget import Budget
from mlflow_exec.storage.parts import again
from mlflow_exec.testing.collecting import until


def test_no_more_is_taken_than_there_is() -> None:
    budget, most, now, lock = Budget(100), 0, 0, threading.Lock()

    def use(size_bytes: int) -> None:
        nonlocal most, now
        share = budget.take(size_bytes)
        with lock:
            now += size_bytes
            most = max(most, now)
        with lock:
            now -= size_bytes
        share.give_back()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, [30, 50, 70, 10] * 100))
    assert 0 < most <= 100
    assert budget.take_now(100)


def test_who_wants_more_waits_until_it_is_given_back() -> None:
    budget = Budget(100)
    share = budget.take(80)
    assert not budget.take_now(30)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(budget.take, 30)
        until(lambda: waiting.running(), "it waits")
        assert not waiting.done()
        share.give_back()
        share.give_back()  # once more is nothing more
        waiting.result(60)


def test_what_is_larger_than_all_of_it_passes_alone() -> None:
    budget = Budget(100)
    with budget.take(1000):
        assert not budget.take_now(1)
    assert budget.take_now(1)


def test_nobody_waits_for_ever_for_one_who_has_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow_exec.storage.budget.PATIENCE_S", 0.1)
    budget = Budget(100)
    gone = budget.take(100)
    with ThreadPoolExecutor(1) as pool:
        share = pool.submit(budget.take, 60).result(60)
    gone.give_back()
    share.give_back()
    assert budget.is_free()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_process_has_a_budget_of_its_own() -> None:
    budget = Budget(100)
    budget.take(100)
    child = os.fork()
    if not child:
        os._exit(0 if budget.take_now(100) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert not budget.take_now(1)


@pytest.mark.parametrize(("failing_s", "tries"), [(60.0, 5), (-1.0, 1)])
def test_what_fails_for_long_is_not_tried_again(
    failing_s: float, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_exec.storage.parts._FAILING_S", failing_s)
    monkeypatch.setattr("mlflow_exec.clients.pauses._FIRST_S", 0.001)
    tried = []

    def fail() -> None:
        tried.append(1)
        raise UnreachableError("no answer")

    with pytest.raises(UnreachableError):
        again(fail)
    assert len(tried) == tries

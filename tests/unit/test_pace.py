"""Few files are sent at a time at first, and more where they wait."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

from mlflow_exec.plugins.pace import Pace
from mlflow_exec.testing.collecting import until

MOST = 16


class Files:
    """Files that are being sent, each until it is let go."""

    def __init__(self, pool: ThreadPoolExecutor, count: int) -> None:
        self.pace = Pace(MOST)
        self.begun = 0
        self.most = 0
        self.active = 0
        self.changed = threading.Condition()
        self.free = threading.Semaphore(0)
        self.sent = [pool.submit(self._send) for _ in range(count)]

    def _send(self) -> None:
        with self.pace.turn():
            with self.changed:
                self.begun += 1
                self.active += 1
                self.most = max(self.most, self.active)
            self.free.acquire()
            with self.changed:
                self.active -= 1


def test_more_are_sent_at_a_time_where_each_waits() -> None:
    with ThreadPoolExecutor(3 * MOST) as pool:
        files = Files(pool, 3 * MOST)
        until(lambda: files.active == 4, "a few are sent")
        for let_go in range(1, 3 * MOST + 1):
            files.free.release()
            until(lambda: files.begun >= min(3 * MOST, let_go + 4), "others follow")  # noqa: B023
        for sent in files.sent:
            sent.result()
    assert files.most == MOST


def test_no_more_than_a_few_begin_before_one_has_told_how_long_it_takes() -> None:
    with ThreadPoolExecutor(MOST) as pool:
        files = Files(pool, MOST)
        until(lambda: files.active == 4, "a few are sent")
        assert files.begun == 4
        files.free.release()
        until(lambda: files.begun == MOST, "that one has waited for long, so all follow")
        files.free.release(MOST)

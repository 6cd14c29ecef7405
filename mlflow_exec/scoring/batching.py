"""Micro-batching: requests that wait for the model are put together by rows.

Nothing waits while the model is idle. What comes while it predicts goes to it at once afterwards,
so batches grow with the load by themselves. Only for models that treat each row by itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from mlflow_exec.scoring.asgi import Answer
from mlflow_exec.scoring.fast_path import Request
from mlflow_exec.scoring.metrics import Metrics
from mlflow_exec.scoring.options import ScoringOptions
from mlflow_exec.scoring.scorer import Scorer
from mlflow_exec.scoring.workers import Workers, deliver, expire

_logger = logging.getLogger(__name__)


class _Waiting:
    """A request that waits for its batch; its future gives None where it has to go alone."""

    def __init__(self, body: bytes, content_type: str | None) -> None:
        self.body = body
        self.content_type = content_type
        self.future: asyncio.Future[Answer | None] = asyncio.get_running_loop().create_future()
        self.request: Request | None = None


class Batches:
    """Answers requests to one model in batches, one batch at a time.

    A failing batch is asked again request by request, so that a bad one fails alone.
    """

    def __init__(
        self, scorer: Scorer, workers: Workers, options: ScoringOptions, metrics: Metrics
    ) -> None:
        self._scorer = scorer
        self._workers = workers
        self._max_rows = options.batch_max_rows
        self._wait_s = options.batch_wait_ms / 1000
        self._metrics = metrics
        self._waiting: deque[_Waiting] = deque()
        self._task: asyncio.Task[None] | None = None
        self._is_full = asyncio.Event()
        self._are_rows_split = True

    async def answer(self, body: bytes, content_type: str | None, timeout_s: float) -> Answer:
        """Answer one request.

        Raises:
            asyncio.TimeoutError: It took longer.
        """
        loop = asyncio.get_running_loop()
        if self._are_rows_split:
            waiting = _Waiting(body, content_type)
            clock = loop.call_later(timeout_s, expire, waiting.future)
            try:
                self._add(waiting)
                answer = await waiting.future
            finally:
                timeout_s = max(0.0, clock.when() - loop.time())
                clock.cancel()
            if answer is not None:
                return answer
        found: Answer = await self._workers.run(
            lambda: self._scorer.answer(body, content_type), timeout_s
        )
        return found

    def _add(self, waiting: _Waiting) -> None:
        self._waiting.append(waiting)
        if len(self._waiting) >= self._max_rows:
            self._is_full.set()
        if self._task is None:
            self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        """Predict on what waits until nothing does."""
        try:
            while self._waiting:
                count = min(len(self._waiting), self._max_rows)
                batch = [self._waiting.popleft() for _ in range(count)]
                await self._workers.run(partial(self._predict, batch), None)
                self._is_full.clear()
                if self._wait_s and 0 < len(self._waiting) < self._max_rows:
                    with suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(self._is_full.wait(), self._wait_s)
        finally:
            self._task = None

    def _predict(self, batch: list[_Waiting]) -> None:
        """Answer every request of a batch; runs in a thread."""
        understood = []
        for waiting in batch:
            if waiting.future.done():  # nobody waits any more
                continue
            waiting.request = self._scorer.understand(waiting.body, waiting.content_type)
            if waiting.request is None:
                deliver(waiting.future, None)
            else:
                understood.append(waiting)
        for together in self._alike(understood):
            if len(together) == 1 or not self._at_once(together):
                for waiting in together:
                    deliver(waiting.future, self._alone(waiting))

    def _alone(self, waiting: _Waiting) -> Answer:
        assert waiting.request is not None
        return self._scorer.answer_to(waiting.request, waiting.body, waiting.content_type)

    def _alike(self, understood: list[_Waiting]) -> Iterator[list[_Waiting]]:
        """Yield those that can be put together, each time at most `batch_max_rows` rows."""
        groups: dict[Any, list[_Waiting]] = {}
        rows: dict[Any, int] = {}
        for waiting in understood:
            assert waiting.request is not None
            shape = _shape(waiting.request)
            if shape is None:
                yield [waiting]
                continue
            count = waiting.request.rows
            if rows.get(shape, 0) + count > self._max_rows and shape in groups:
                yield groups.pop(shape)
                rows[shape] = 0
            groups.setdefault(shape, []).append(waiting)
            rows[shape] = rows.get(shape, 0) + count
        yield from groups.values()

    def _at_once(self, together: list[_Waiting]) -> bool:
        """Ask the model once for all of them; return whether that gave an answer for each."""
        requests = [waiting.request for waiting in together if waiting.request is not None]
        rows = sum(request.rows for request in requests)
        assert self._scorer.fast_path is not None
        try:
            whole = Request(_joined([request.data for request in requests]), None)
            predictions = self._scorer.fast_path.predict(whole)
        except Exception:
            return False
        if not isinstance(predictions, (np.ndarray, pd.DataFrame, pd.Series, list)) or (
            len(predictions) != rows
        ):
            self._are_rows_split = False
            _logger.warning(
                "batching is off: the model does not return one prediction for each row, but a %s",
                type(predictions).__name__,
            )
            return False
        self._metrics.count_batch(rows)
        start = 0
        for waiting, request in zip(together, requests):
            part = slice(start, start + request.rows)
            start = part.stop
            own = getattr(predictions, "iloc", predictions)[part]
            deliver(
                waiting.future,
                self._scorer.answer_of(own, request.rows, waiting.body, waiting.content_type),
            )
        return True


def _shape(request: Request) -> Any:
    """Return what has to be equal to be put together; None: it goes alone."""
    if request.params:
        return None
    data = request.data
    if isinstance(data, pd.DataFrame):
        # Together the rows are counted anew: labels of the client's own would be lost.
        return "frame" if data.index.equals(pd.RangeIndex(len(data))) else None
    if isinstance(data, np.ndarray):
        return data.shape[1:]
    return tuple(array.shape[1:] for array in data.values())


def _joined(parts: list[Any]) -> Any:
    if isinstance(parts[0], pd.DataFrame):
        return pd.concat(parts, ignore_index=True)
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

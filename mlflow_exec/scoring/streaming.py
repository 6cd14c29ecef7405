"""Predictions piece by piece: `predict_stream` as server-sent events."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

from mlflow.exceptions import MlflowException

from mlflow_exec.scoring.asgi import EVENT_STREAM, Answer, refusal
from mlflow_exec.scoring.json_text import dumps
from mlflow_exec.scoring.scorer import Scorer
from mlflow_exec.scoring.workers import Workers

_logger = logging.getLogger(__name__)

_END = b"data: [DONE]\n\n"
_AHEAD = 16
"""So many pieces may be ready before the client has taken them; then the model waits."""

_NOT_STREAMED = refusal(
    406, "BAD_REQUEST",
    "This model has no predict_stream. Ask without Accept: text/event-stream.",
)  # fmt: skip


class Stream:
    """One request that is answered piece by piece."""

    def __init__(self, scorer: Scorer, workers: Workers, timeout_s: float) -> None:
        self._scorer = scorer
        self._workers = workers
        self._timeout_s = timeout_s
        self._is_left = threading.Event()
        self._room = threading.Semaphore(_AHEAD)
        self._events: asyncio.Queue[bytes | None] = asyncio.Queue()

    async def run(
        self, body: bytes, content_type: str | None,
        receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]],
    ) -> Answer | None:  # fmt: skip
        """Send the pieces as they come; returns an answer to send where there are none to send.

        The time limit holds for each piece. When the client goes away, the model is asked for no
        more.

        Raises:
            asyncio.TimeoutError: The request could not be read in time; nothing was sent.
        """
        if getattr(self._scorer.model, "_predict_stream_fn", None) is None:
            return _NOT_STREAMED
        refusal, asked = await self._workers.run(
            lambda: self._scorer.parsed_by_mlflow(body, content_type), self._timeout_s
        )
        if refusal is not None:
            answer: Answer = refusal
            return answer
        head = [(b"content-type", EVENT_STREAM.encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        loop = asyncio.get_running_loop()
        predicting = asyncio.ensure_future(
            self._workers.run(lambda: self._predict(asked, loop), None)
        )
        leaving = asyncio.ensure_future(self._watch(receive))
        try:
            while (event := await self._next()) is not None:
                await send({"type": "http.response.body", "body": event, "more_body": True})
                self._room.release()
        finally:
            self._leave()
            leaving.cancel()
            predicting.add_done_callback(lambda future: future.cancelled() or future.exception())
        await send({"type": "http.response.body", "body": b""})
        return None

    async def _next(self) -> bytes | None:
        try:
            return await asyncio.wait_for(self._events.get(), self._timeout_s)
        except asyncio.TimeoutError:
            self._leave()
            self._events.put_nowait(None)
            return _error("TIMEOUT", "Request processing time exceeded limit")

    async def _watch(self, receive: Callable[[], Awaitable[Any]]) -> None:
        """Let the model stop when the client goes away."""
        while (await receive())["type"] != "http.disconnect":
            pass
        self._leave()
        self._events.put_nowait(None)

    def _leave(self) -> None:
        self._is_left.set()
        self._room.release()  # a thread may wait for room

    def _predict(self, asked: tuple[Any, Any], loop: asyncio.AbstractEventLoop) -> None:
        """Hand over the model's pieces as events; runs in a thread."""
        for event in self._pieces(*asked):
            self._room.acquire()
            if self._is_left.is_set():
                return
            with suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(self._events.put_nowait, event)
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(self._events.put_nowait, None)

    def _pieces(self, data: Any, params: Any) -> Iterator[bytes]:
        try:
            for piece in self._scorer.model.predict_stream(data, params=params):
                yield b"data: " + dumps(piece).encode() + b"\n\n"
            yield _END
        except MlflowException as error:
            yield _error(error.error_code, error.message)
        except Exception as error:
            _logger.exception("the model failed")
            yield _error("INTERNAL_ERROR", f"the model failed: {type(error).__name__}: {error}")


def _error(code: str, message: str) -> bytes:
    text = json.dumps({"error_code": code, "message": message})
    return b"event: error\ndata: " + text.encode() + b"\n\n"

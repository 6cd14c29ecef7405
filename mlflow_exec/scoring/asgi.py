"""What ASGI applications here have in common: answers, bodies in time, refusals.

It needs nothing but Python, so that a router runs where no model and no MLflow is.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections.abc import Awaitable, Callable, Coroutine
from time import monotonic
from typing import Any, NamedTuple

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

JSON = "application/json"
EVENT_STREAM = "text/event-stream"


class Answer(NamedTuple):
    """What is sent back.

    Attributes:
        status: The HTTP status code.
        body: The whole body.
        media_type: The content type's value, with a charset for text.
        path: Who answered: ``fast``, ``mlflow``, or ``none`` where the model was not asked for.
        rows: How many rows were predicted; 0 where only MLflow knows.
        headers: What else is in the head.
    """

    status: int
    body: bytes
    media_type: str
    path: str = "none"
    rows: int = 0
    headers: tuple[tuple[bytes, bytes], ...] = ()


async def lifespan(receive: Receive, send: Send, end: Callable[[], Awaitable[None]]) -> None:
    """Follow the server's life, and do what is to be done before it ends."""
    while True:
        message = await receive()
        if message["type"] == "lifespan.shutdown":
            await end()
        await send({"type": message["type"] + ".complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def nobody_left(in_flight: Callable[[], int], timeout_s: float) -> bool:
    """Wait until no request is under way, for so long at most; return whether that is so."""
    end_s = monotonic() + timeout_s
    while in_flight() and monotonic() < end_s:
        await asyncio.sleep(0.02)
    return not in_flight()


def spare_what_is_there() -> None:
    """Keep the garbage collector from what a process has loaded to serve, which stays.

    Each full collection would look at all of it while every request waits: 140 ms with pandas and
    scikit-learn. Of the whole process, so only for one that does nothing but serve.
    """
    gc.collect()
    gc.freeze()


def route_in(scope: Scope) -> str:
    """Return the path below the one that the application is mounted at, as Starlette does."""
    path: str = scope["path"]
    root = scope.get("root_path", "")
    return path[len(root) :] if root and path.startswith(root + "/") else path


async def in_time(body: Coroutine[Any, Any, bytes | None], timeout_s: float) -> bytes | None:
    """Await it in this very task, as the body is nearly always there and another task costs more.

    Raises:
        asyncio.TimeoutError: It took longer.
    """
    task = asyncio.current_task()
    assert task is not None
    is_over = False

    def end() -> None:
        nonlocal is_over
        is_over = True
        task.cancel()

    clock = asyncio.get_running_loop().call_later(timeout_s, end)
    try:
        return await body
    except asyncio.CancelledError:
        if not is_over:
            raise
        if hasattr(task, "uncancel"):  # from Python 3.11 on
            task.uncancel()
        raise asyncio.TimeoutError from None
    finally:
        clock.cancel()


async def whole_body(receive: Receive, limit: int) -> bytes | None:
    """Return the whole body, or a part that is over the limit; None if the client went away."""
    parts: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit or not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def send_answer(send: Send, answer: Answer, *headers: tuple[bytes, bytes]) -> None:
    """Send a whole answer, with further headers."""
    about = [(b"content-length", b"%d" % len(answer.body)), *answer.headers, *headers]
    if answer.media_type:
        about.insert(1, (b"content-type", answer.media_type.encode("latin-1")))
    await send({"type": "http.response.start", "status": answer.status, "headers": about})
    await send({"type": "http.response.body", "body": answer.body})


def refusal(status: int, code: str, message: str) -> Answer:
    """Return an answer in the form of MLflow's errors."""
    text = json.dumps({"error_code": code, "message": message})
    return Answer(status, text.encode(), JSON)


def too_large(limit: int) -> Answer:
    """Return the refusal of a body of more than `limit` bytes."""
    return refusal(
        413, "REQUEST_LIMIT_EXCEEDED",
        f"The request's body is larger than max_request_bytes, {limit}. "
        "Send fewer rows at a time, or have the server started with a larger limit.",
    )  # fmt: skip


TIMED_OUT = Answer(504, b"Request processing time exceeded limit", JSON)
NOT_FOUND = Answer(404, b'{"detail":"Not Found"}', JSON)
WRONG_METHOD = Answer(405, b'{"detail":"Method Not Allowed"}', JSON)

"""Requests that come by another way than HTTP, answered by an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from typing import Any, Tuple
from urllib.parse import unquote

from mlflow_exec.scoring.asgi import Receive, Scope

_AHEAD = 16
"""So many pieces may wait to be taken; then the application waits."""

Headers = Tuple[Tuple[bytes, bytes], ...]
Asgi = Callable[[Any, Any, Any], Awaitable[None]]


async def whole(
    app: Asgi, method: str, path: str, headers: Headers, body: bytes
) -> tuple[int, Headers, bytes]:
    """Return the status, the headers and the body of the answer to one request."""
    head: dict[str, Any] = {}
    parts: list[bytes] = []

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            head.update(message)
        else:
            parts.append(message.get("body", b""))

    await app(_scope(method, path, headers), _receive(body, asyncio.Event()), send)
    return head["status"], tuple(head["headers"]), b"".join(parts)


async def pieces(
    app: Asgi, method: str, path: str, headers: Headers, body: bytes
) -> AsyncGenerator[Any, None]:
    """Yield the status and the headers, then the pieces of the body as they come.

    Whoever stops to ask lets the application see that the client has gone.
    """
    sent: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue(_AHEAD)
    gone = asyncio.Event()

    async def answer() -> None:
        try:
            await app(_scope(method, path, headers), _receive(body, gone), sent.put)
        finally:
            with suppress(asyncio.CancelledError):
                await sent.put(None)

    task = asyncio.ensure_future(answer())
    try:
        while (message := await sent.get()) is not None:
            if message["type"] == "http.response.start":
                yield message["status"], tuple(message["headers"])
            elif message.get("body"):
                yield message["body"]
        await task  # with its error, if it had one
    finally:
        gone.set()
        task.cancel()


def _scope(method: str, path: str, headers: Headers) -> Scope:
    path, _, query = path.partition("?")
    return {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http",
        "method": method, "path": unquote(path), "raw_path": path.encode(), "root_path": "",
        "query_string": query.encode("latin-1"), "headers": list(headers),
    }  # fmt: skip


def _receive(body: bytes, gone: asyncio.Event) -> Receive:
    first = True

    async def receive() -> dict[str, Any]:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    return receive

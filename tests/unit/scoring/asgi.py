"""Asking an ASGI application without a network."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, NamedTuple


class Reply(NamedTuple):
    status: int
    body: bytes
    headers: dict[str, str]


def ask(
    app: Any,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] = b"",
    headers: dict[str, str] | None = None,
) -> Reply:
    return asyncio.run(ask_async(app, method, path, body, headers))


async def ask_async(
    app: Any,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] = b"",
    headers: dict[str, str] | None = None,
) -> Reply:
    chunks = iter([body] if isinstance(body, bytes) else body)
    sent: list[dict[str, Any]] = []
    ended = False
    answered = asyncio.Event()

    async def receive() -> dict[str, Any]:
        nonlocal ended
        if ended:
            await answered.wait()
            return {"type": "http.disconnect"}
        chunk = next(chunks, None)
        ended = chunk is None
        return {"type": "http.request", "body": chunk or b"", "more_body": not ended}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)
        if message["type"] == "http.response.body" and not message.get("more_body"):
            answered.set()

    try:
        await app(_scope(method, path, headers or {}), receive, send)
    except Exception:
        # Starlette answers with 500 and hands the error on, for the server's log.
        if not answered.is_set():
            raise
    start = sent[0]
    return Reply(
        start["status"],
        b"".join(m.get("body", b"") for m in sent[1:]),
        {name.decode(): value.decode() for name, value in start["headers"]},
    )


def _scope(method: str, path: str, headers: dict[str, str]) -> dict[str, Any]:
    """Make a scope; a path such as ``/mounted|/ping`` is below where the application is."""
    root_path = path.rpartition("|")[0]
    path = path.replace("|", "")
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": root_path,
        "scheme": "http",
        "query_string": b"",
        "headers": [(k.lower().encode(), v.encode()) for k, v in headers.items()],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {},
    }

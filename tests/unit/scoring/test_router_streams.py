"""Answers that come piece by piece, through the router of an endpoint."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from mlflow_exec.scoring.relayed import pieces
from mlflow_exec.scoring.router import RouterApp
from mlflow_exec.scoring.routes import Routes
from mlflow_exec.scoring.variants import Asked, Reply
from tests.unit.scoring.routed import (
    BODY,
    OPTIONS,
    Stream,
    routed,
    run,
    scoring,
)


@pytest.mark.parametrize("relays", [False, True], ids=["by HTTP", "by a handle"])
def test_pieces_are_passed_on_as_they_come_until_the_client_leaves(relays: bool) -> None:
    async def test() -> None:
        model, got = Stream(), asyncio.Queue[Any]()
        app, left = scoring(model), asyncio.Event()
        async with routed(Routes(1, {"one": 1}), one=app) as router:
            if relays:
                router = RouterApp(OPTIONS, lambda _: Relayed(app))
                router.set_routes(Routes(1, {"one": 1}))
            body = iter([{"type": "http.request", "body": BODY}])

            async def receive() -> Any:
                if (message := next(body, None)) is not None:
                    return message
                await left.wait()
                return {"type": "http.disconnect"}

            async def send(message: Any) -> None:
                await got.put(message)

            headers = [(b"content-type", b"application/json"), (b"accept", b"text/event-stream")]
            scope = {
                "type": "http", "method": "POST", "path": "/invocations", "query_string": b"",
                "headers": headers,
            }  # fmt: skip
            asking = asyncio.ensure_future(router(scope, receive, send))
            assert (await got.get())["status"] == 200
            assert b"data: 0" in (await got.get())["body"]
            left.set()
            await asking
            assert await asyncio.to_thread(model.is_left.wait, 30)

    run(test)


class Relayed:
    """A way as that of Ray: a handle of the application."""

    def __init__(self, app: Any) -> None:
        self._app = app

    async def ask(self, asked: Asked, timeout_s: float) -> Reply:
        found = pieces(self._app, asked.method, asked.path, asked.headers, asked.body)
        status, headers = await found.__anext__()
        return Reply(status, headers, b"", found)


def test_pieces_that_nobody_takes_are_not_asked_for() -> None:
    async def test() -> None:
        sent = 0

        async def endless(scope: Any, receive: Any, send: Any) -> None:
            nonlocal sent
            await send({"type": "http.response.start", "status": 200, "headers": []})
            while True:
                await send({"type": "http.response.body", "body": b"x", "more_body": True})
                sent += 1

        found = pieces(endless, "POST", "/invocations", (), b"")
        for _ in range(3):
            await found.__anext__()
        for _ in range(100):
            await asyncio.sleep(0)
        assert sent < 30
        await found.aclose()

    run(test)

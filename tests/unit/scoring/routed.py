"""A router before applications that listen on ports of their own, and steps of its tests."""

from __future__ import annotations

import asyncio
import itertools
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from mlflow.models import Model, ModelSignature
from mlflow.pyfunc import PyFuncModel
from mlflow.types import ColSpec, Schema

from mlflow_exec.scoring.app import ScoringApp
from mlflow_exec.scoring.http_variants import HttpVariants
from mlflow_exec.scoring.options import ScoringOptions
from mlflow_exec.scoring.router import RouterApp, RouterOptions
from mlflow_exec.scoring.routes import Routes
from tests.unit.scoring.asgi import Reply as Answered
from tests.unit.scoring.asgi import ask_async

SIGNATURE = ModelSignature(Schema([ColSpec("double", "a")]))
BODY = b'{"inputs": {"a": [1.5]}}'
JSON = {"content-type": "application/json"}
OPTIONS = RouterOptions("iris", 1000, 5.0)


class Constant:
    """Answers a number."""

    def __init__(self, answer: float) -> None:
        self.answer = answer

    def predict(self, data: Any, params: Any = None) -> list[float]:
        return [self.answer]


class Stuck(Constant):
    """Answers when it is told to."""

    def __init__(self, answer: float) -> None:
        super().__init__(answer)
        self.may_answer = threading.Event()

    def predict(self, data: Any, params: Any = None) -> list[float]:
        assert self.may_answer.wait(60)
        return [self.answer]


class Stream(Constant):
    """Answers piece by piece, without an end."""

    def __init__(self) -> None:
        super().__init__(1)
        self.is_left = threading.Event()

    def predict_stream(self, data: Any, params: Any = None) -> Iterator[int]:
        try:
            yield from itertools.count()
        finally:
            self.is_left.set()


def scoring(model: Any, **options: Any) -> ScoringApp:
    streams = {"predict_stream_fn": "predict_stream"} if hasattr(model, "predict_stream") else {}
    wrapped = PyFuncModel(Model(signature=SIGNATURE), model, **streams)
    return ScoringApp(wrapped, ScoringOptions("m", **options))


@asynccontextmanager
async def routed(
    routes: Routes, options: RouterOptions = OPTIONS, **apps: Any
) -> AsyncIterator[RouterApp]:
    """Give a router before applications that listen on ports of their own."""
    servers = {
        name: uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_level="error"))
        for name, app in apps.items()
    }
    tasks = [asyncio.ensure_future(server.serve()) for server in servers.values()]
    while not all(server.started for server in servers.values()):
        await asyncio.sleep(0.01)
    ports = {
        name: server.servers[0].sockets[0].getsockname()[1] for name, server in servers.items()
    }
    ways = HttpVariants("http://127.0.0.1:{name}")
    router = RouterApp(options, lambda name: ways(str(ports.get(name, 1))))
    router.set_routes(routes)
    try:
        yield router
    finally:
        await ways.close()
        for server in servers.values():
            server.should_exit = True
        await asyncio.gather(*tasks)


async def predict(router: RouterApp, **headers: str) -> Answered:
    return await ask_async(router, "POST", "/invocations", BODY, {**JSON, **headers})


async def about(router: RouterApp) -> Any:
    found = json.loads((await ask_async(router, "GET", "/routes")).body)
    return {"number": found["number"], **found["counts"]}


async def copies_end(router: RouterApp, name: str, count: int) -> dict[str, int]:
    while True:
        found: dict[str, int] = (await about(router))["shadows"].get(name, {})
        if sum(found.values()) >= count:
            return found
        await asyncio.sleep(0.01)


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))

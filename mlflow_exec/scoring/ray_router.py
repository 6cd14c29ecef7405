"""The router of an endpoint as an application of Ray Serve: what ``import_path`` names.

The variants are other applications of the same Serve, asked by their handles. The routes are its
``user_config``: a change of them restarts nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.requests import Request
from starlette.responses import Response

from mlflow_exec.scoring.ray_serve import Answered
from mlflow_exec.scoring.router import RouterApp, RouterOptions
from mlflow_exec.scoring.routes import Routes
from mlflow_exec.scoring.variants import Asked, Reply, UnreachableVariantError, passed_on

_GONE = (RayActorError, RayServeException, BackPressureError)


class ApplicationVariant:
    """A variant that is an application of this Serve."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._handle: Any = None

    async def ask(self, asked: Asked, timeout_s: float) -> Reply:
        """See `mlflow_exec.scoring.variants.Variant`."""
        try:
            if self._handle is None:  # asks the controller, and waits for its answer
                self._handle = await asyncio.to_thread(serve.get_app_handle, self._name)
            call = (asked.method, asked.path, asked.headers, asked.body)
            if asked.wants_events:
                return await self._streamed(call, timeout_s)
            answer = self._handle.relayed.remote(*call)
            status, headers, body = await asyncio.wait_for(answer, timeout_s)
        except _GONE as error:
            raise UnreachableVariantError(str(error).strip().splitlines()[0]) from error
        return Reply(status, passed_on(headers), body)

    async def _streamed(self, call: tuple[Any, ...], timeout_s: float) -> Reply:
        pieces = self._handle.options(stream=True).relayed_stream.remote(*call)
        status, headers = await asyncio.wait_for(pieces.__anext__(), timeout_s)
        return Reply(status, passed_on(headers), b"", _rest(pieces))


async def _rest(pieces: Any) -> AsyncGenerator[bytes, None]:
    try:
        async for piece in pieces:
            yield piece
    finally:
        pieces.cancel()


class Router:
    """One replica of the router."""

    def __init__(self, args: Mapping[str, Any]) -> None:
        self._app = RouterApp(RouterOptions(**args["router"]), ApplicationVariant)
        self._answer = Answered(self._app)

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take the routes of the newest revision, in the event loop, between two requests."""
        revision = user_config["revision"]
        self._app.set_routes(Routes.from_data({**revision["routes"], "number": revision["number"]}))

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        return self._answer


def build(args: dict[str, Any]) -> Any:
    """Return Serve's application.

    Args:
        args: ``router``: the fields of `RouterOptions`.
    """
    return serve.deployment(Router, name="Router").bind(args)

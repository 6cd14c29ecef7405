"""The router of an endpoint as an application of Ray Serve: what ``import_path`` names.

The variants are other applications of the same Serve, asked by their handles. The routes are its
``user_config``: a change of them restarts nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Mapping
from time import monotonic
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve import exceptions
from ray.serve.exceptions import BackPressureError, RayServeException
from starlette.requests import Request
from starlette.responses import Response

from mlflow_exec.scoring.ray_serve import Answered
from mlflow_exec.scoring.router import RouterApp, RouterOptions
from mlflow_exec.scoring.routes import Routes
from mlflow_exec.scoring.variants import Asked, Reply, UnreachableVariantError, passed_on

_GONE = (RayActorError, RayServeException, BackPressureError)
_UNAVAILABLE = getattr(exceptions, "DeploymentUnavailableError", ())  # an older Ray has none
# A request for an application that is deleted would wait until its time is over.
_LOOK_S = 1.0


class ApplicationVariant:
    """A variant that is an application of this Serve."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._handle: Any = None
        self._look: asyncio.Future[set[str]] | None = None

    async def ask(self, asked: Asked, timeout_s: float) -> Reply:
        """See `mlflow_exec.scoring.variants.Variant`."""
        try:
            if self._handle is None:  # asks the controller, and waits for its answer
                self._handle = await asyncio.to_thread(serve.get_app_handle, self._name)
            call = (asked.method, asked.path, asked.headers, asked.body)
            if asked.wants_events:
                return await self._streamed(call, timeout_s)
            answer = self._handle.relayed.remote(*call)
            status, headers, body = await self._answered(answer, timeout_s)
        except _GONE as error:
            raise UnreachableVariantError(self._why(error)) from error
        return Reply(status, passed_on(headers), body)

    def _why(self, error: Exception) -> str:
        if isinstance(error, _UNAVAILABLE):  # it says only which
            return f"application {self._name!r} was deleted, or none of its replicas starts"
        return str(error).strip().splitlines()[0]

    async def _streamed(self, call: tuple[Any, ...], timeout_s: float) -> Reply:
        pieces = self._handle.options(stream=True).relayed_stream.remote(*call)
        status, headers = await self._answered(pieces.__anext__(), timeout_s)
        return Reply(status, passed_on(headers), b"", _rest(pieces))

    async def _answered(self, answer: Awaitable[Any], timeout_s: float) -> Any:
        """Return an answer, if it comes in time and as long as somebody is there to give it.

        Raises:
            UnreachableVariantError: The application is not there any more.
            asyncio.TimeoutError: It has not come in time.
        """
        waiting, end_s = asyncio.ensure_future(answer), monotonic() + timeout_s
        try:
            while (left_s := end_s - monotonic()) > 0:
                if (await asyncio.wait({waiting}, timeout=min(_LOOK_S, left_s)))[0]:
                    return waiting.result()
                if left_s > _LOOK_S and self._name not in await self._applications():
                    self._handle = None
                    raise UnreachableVariantError(f"application {self._name!r} was deleted")
            raise asyncio.TimeoutError
        finally:
            waiting.cancel()

    async def _applications(self) -> set[str]:
        """Return the names of Serve's applications, by one question for all who wait."""
        if self._look is None or self._look.done():
            self._look = asyncio.ensure_future(asyncio.to_thread(_names))
        return await asyncio.shield(self._look)


def _names() -> set[str]:
    return set(serve.status().applications)


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

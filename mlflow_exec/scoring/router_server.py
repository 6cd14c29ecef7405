"""``python -m mlflow_exec.scoring.router_server``: the router of an endpoint, over HTTP.

Its order is the JSON in ``MLFLOW_EXEC_ROUTER``. The routes are in a file of their own, which is
read again when it changes: a change of them restarts nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from mlflow_exec.scoring.asgi import Receive, Scope, Send
from mlflow_exec.scoring.options import OptionsError
from mlflow_exec.scoring.router import RouterApp, RouterOptions
from mlflow_exec.scoring.routes import Routes
from mlflow_exec.scoring.server import listen

_logger = logging.getLogger(__name__)

ENVIRONMENT_VARIABLE = "MLFLOW_EXEC_ROUTER"
_POLL_S = 0.5


class FileRouter:
    """A router whose routes are in a file; an ASGI application.

    Args:
        options: How requests are passed on.
        address: Of a variant, with ``{name}`` in the place of its name.
        routes_file: The file.

    Raises:
        OptionsError: The file cannot be read, or does not hold routes.
    """

    def __init__(self, options: RouterOptions, address: str, routes_file: str) -> None:
        try:
            from mlflow_exec.scoring.http_variants import HttpVariants
        except ImportError as error:
            raise OptionsError(
                "routing: aiohttp is missing in this environment; pip install aiohttp"
            ) from error
        self._variants = HttpVariants(address)
        self._file = Path(routes_file)
        self.app = RouterApp(options, self._variants)
        self._text = ""
        try:
            self.read()
        except (OSError, ValueError) as error:
            raise OptionsError(f"routes: {routes_file}: {error}") from error

    def read(self) -> None:
        """Take the routes of the file, if they are others.

        Raises:
            OSError, ValueError: It cannot be read, or does not hold routes; those before stay.
        """
        text = self._file.read_text(encoding="utf-8")
        if text != self._text:
            self._text = text  # told once, if it is none
            self.app.set_routes(Routes.from_data(json.loads(text)))

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_POLL_S)
            try:
                self.read()
            except Exception as error:  # those before stay
                _logger.warning("routes: %s", error)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection's event as ASGI asks for it."""
        if scope["type"] != "lifespan":
            await self.app(scope, receive, send)
            return
        following = asyncio.ensure_future(self._follow())
        try:
            await self.app(scope, receive, send)
        finally:
            following.cancel()
            with suppress(asyncio.CancelledError):
                await following
            await self._variants.close()


def main(arguments: list[str] | None = None) -> int:
    """Pass requests on until told to stop; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parsed = parser.parse_args(arguments)
    try:
        text = os.environ.get(ENVIRONMENT_VARIABLE)
        if not text:
            raise OptionsError(f"{ENVIRONMENT_VARIABLE}: is not set; it holds the order as JSON")
        order: dict[str, Any] = json.loads(text)
        options = RouterOptions(**order["router"])
        stop_s = options.timeout_s + options.drain_s

        def load() -> FileRouter:
            return FileRouter(options, order["address"], order["routes_file"])

        listen(load, parsed.host, parsed.port, what=f"endpoint {options.name}", stop_s=stop_s)
    except (OptionsError, ValueError, KeyError, TypeError) as error:
        print(f"mlflow_exec.scoring.router_server: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

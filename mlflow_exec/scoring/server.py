"""One server process: uvicorn around the application, and how it starts and stops."""

from __future__ import annotations

import math
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

from mlflow_exec.scoring.asgi import spare_what_is_there
from mlflow_exec.scoring.options import OptionsError, ScoringOptions

_EXIT_STOPPED = 143
"""As a shell tells that SIGTERM has ended a process."""


def run(options: ScoringOptions, host: str, port: int) -> None:
    """Load the model, then listen until SIGTERM or SIGINT; see `listen`.

    Args:
        options: What to serve, and how.
        host: The address to listen on.
        port: The port; 0 takes a free one, which is printed.

    Raises:
        LoadError: The model cannot be loaded, or fails on its own example.
        OptionsError: The tokens cannot be read, the port is taken, or uvicorn is missing.
    """

    def load() -> Any:
        from mlflow_exec.scoring.app import ScoringApp

        return ScoringApp.load(options)

    listen(load, host, port, what=options.model_uri, stop_s=options.stop_s)


def listen(load: Callable[[], Any], host: str, port: int, *, what: str, stop_s: float) -> None:
    """Answer by an ASGI application until SIGTERM or SIGINT.

    The port is taken at once and opens when the application is there. When told to stop, it
    closes, and requests that are under way are answered, for ``stop_s`` at most; what is not
    listening yet ends at once.

    Args:
        load: Makes the application.
        host: The address to listen on.
        port: The port; 0 takes a free one, which is printed.
        what: What is served, to be printed.
        stop_s: How long requests may go on after the order to stop.

    Raises:
        OptionsError: The port is taken, or uvicorn is missing.
    """
    # The first process of a container, as this one may be, is not ended by a signal that it does
    # not handle: while it loads it would be waited for in vain.
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        if stopped:  # what it has to take away is on its way
            return
        stopped = True
        raise SystemExit(_EXIT_STOPPED)

    signal.signal(signal.SIGTERM, stop)
    try:
        import uvicorn
    except ImportError as error:
        raise OptionsError(
            "serving: uvicorn is missing in this environment; pip install uvicorn"
        ) from error
    with _bound(host, port) as taken:
        try:
            app = load()
            spare_what_is_there()
        finally:
            if stopped:  # now: code of the model may hold the error back, or have threads that stay
                os._exit(_EXIT_STOPPED)
        address = f"http://{host}:{taken.getsockname()[1]}"
        print(f"serving {what} on {address}", file=sys.stderr, flush=True)
        config = uvicorn.Config(
            app, lifespan="on", access_log=False, proxy_headers=False, log_level="warning",
            timeout_graceful_shutdown=math.ceil(stop_s),
        )  # fmt: skip
        server = uvicorn.Server(config)
        signal.signal(signal.SIGTERM, server.handle_exit)
        server.run(sockets=[taken])


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
    except OSError as error:
        made.close()
        raise OptionsError(
            f"serving: port {port} of {host} cannot be used: {error.strerror}; name another port"
        ) from error
    return made

"""The application that Ray Serve runs: what ``import_path`` names.

It is imported by Serve's builder, in the model's environment, and by each replica. Only a replica
imports MLflow and loads the model: the builder is done sooner, and what fails is told as that
replica's failure.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from mlflow_exec.scoring.relayed import Headers, pieces, whole


class Answered(Response):
    """An answer that an ASGI application gives; Serve sends a Response by calling it."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Have the application answer."""
        await self._app(scope, receive, send)


class Model:
    """One replica."""

    def __init__(self, args: Mapping[str, Any]) -> None:
        _check_python(args["python"])
        _set_secrets(args["secrets"])
        model = args["model"]
        uri = model.get("uri") or _folder(model["folder"])
        from mlflow_exec.scoring.app import ScoringApp
        from mlflow_exec.scoring.asgi import spare_what_is_there
        from mlflow_exec.scoring.options import ScoringOptions

        self._app = ScoringApp.load(ScoringOptions(model_uri=uri, **args["scoring"]))
        self._answer = Answered(self._app)
        spare_what_is_there()

    def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Take note of nothing: the configuration holds what people and clients want to know."""

    def __del__(self) -> None:
        """Send the last traces; Serve calls it when a replica is to go, after its last request."""
        if app := getattr(self, "_app", None):  # it may not have loaded
            app.flush()

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        return self._answer

    async def relayed(
        self, method: str, path: str, headers: Headers, body: bytes
    ) -> tuple[int, Headers, bytes]:
        """Answer a request that a router passes on: the status, the headers, the body."""
        return await whole(self._app, method, path, headers, body)

    async def relayed_stream(
        self, method: str, path: str, headers: Headers, body: bytes
    ) -> AsyncGenerator[Any, None]:
        """Answer it piece by piece: the status and the headers first."""
        async for piece in pieces(self._app, method, path, headers, body):
            yield piece


def build(args: dict[str, Any]) -> Any:
    """Return Serve's application.

    Args:
        args: ``model`` (``uri``, or the ``folder`` of one that travelled along), ``python`` (the
            minor version that it needs, or empty), ``scoring`` (fields of `ScoringOptions`),
            ``secrets`` (where the node has the value of each variable).
    """
    _check_python(args["python"])
    return serve.deployment(Model, name="Model").bind(args)


def _check_python(needed: str) -> None:
    here = f"{sys.version_info[0]}.{sys.version_info[1]}"
    if needed and needed != here:
        raise RuntimeError(
            f"mlflow-exec: the model was logged with Python {needed}, and this cluster runs {here}"
        )


def _set_secrets(secrets: Mapping[str, Mapping[str, Any]]) -> None:
    for name, place in secrets.items():
        if place.get("file"):
            path = Path(place["file"]).expanduser()
            os.environ[name] = path.read_text(encoding="utf-8").strip()
        elif place.get("env") in os.environ:
            os.environ[name] = os.environ[place["env"]]
        else:
            raise RuntimeError(f"mlflow-exec: secrets.{name}: this node has no {place.get('env')}")


def _folder(name: str) -> str:
    """Return where Ray has unpacked the model that travelled along."""
    for place in sys.path:
        if (Path(place) / name / "MLmodel").is_file():
            return str(Path(place) / name)
    raise RuntimeError(f"mlflow-exec: the model cannot be fetched: no {name} on Python's path")

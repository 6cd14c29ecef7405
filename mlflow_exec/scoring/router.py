"""The router of an endpoint: passes each request on to one of its variants.

An ASGI application that keeps no state between requests but counts, so that any number of it can
stand side by side. How a variant is reached is the platform's: by a handle on Ray Serve, by HTTP on
Kubernetes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import socket
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any

from mlflow_exec.scoring.asgi import (
    JSON,
    TIMED_OUT,
    WRONG_METHOD,
    Answer,
    Receive,
    Scope,
    Send,
    in_time,
    lifespan,
    nobody_left,
    refusal,
    route_in,
    send_answer,
    too_large,
    whole_body,
)
from mlflow_exec.scoring.route_counts import RouteCounts
from mlflow_exec.scoring.routes import Choice, Routes
from mlflow_exec.scoring.sameness import same_content
from mlflow_exec.scoring.variants import (
    NOT_PASSED_ON,
    SHADOW_HEADER,
    VARIANT_HEADER,
    Asked,
    Reply,
    UnreachableVariantError,
    Variant,
)

_logger = logging.getLogger(__name__)

_PREDICTS = re.compile(r"^/invocations(\?|$)|^/v2/models/.*/infer(\?|$)")
_OWN_PATHS = ("/ping", "/health", "/metrics", "/routes")
# Copies under way: more would only pile up behind a shadow that is too slow. Bytes are those of
# requests and of the answers that they are compared with.
_MOST_COPIES = 64
_MOST_COPIED_BYTES = 64 * 1024 * 1024
# Larger answers are compared by a thread.
_AT_ONCE_BYTES = 64 * 1024
# What the variant may take to say itself that its time is over.
_LATER_S = 5.0


@dataclass(frozen=True)
class RouterOptions:
    """How an endpoint's requests are passed on.

    Attributes:
        name: The endpoint's.
        max_request_bytes: Larger bodies are refused with 413.
        timeout_s: The longest prediction.
        drain_s: How long requests may go on after the order to stop, beyond ``timeout_s``.
    """

    name: str
    max_request_bytes: int
    timeout_s: float
    drain_s: float = 30.0


@dataclass(frozen=True)
class _Table:
    """Routes, and the ways to all that they name; exchanged as a whole."""

    choice: Choice
    ways: Mapping[str, Variant]


class RouterApp:
    """Answers for one endpoint; an ASGI 3 application.

    Attributes:
        ready: Whether it takes requests: true once it has routes, false from `stop` on.
        counts: What was counted.
    """

    def __init__(self, options: RouterOptions, way_to: Callable[[str], Variant]) -> None:
        self.options = options
        self.counts = RouteCounts(options.name)
        self._way_to = way_to
        self._table: _Table | None = None
        self._is_stopped = False
        self._in_flight = 0
        self._copies: set[asyncio.Task[None]] = set()
        self._copied_bytes = 0

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self._table is not None and not self._is_stopped

    def set_routes(self, routes: Routes) -> None:
        """Pass on by these routes from the next request on."""
        known = self._table.ways if self._table else {}
        names = {*routes.weights, *routes.shadows}
        ways = {name: known.get(name) or self._way_to(name) for name in names}
        self._table = _Table(Choice(routes), ways)

    def stop(self) -> None:
        """Tell who asks that no more requests are wanted; those that are under way go on."""
        self._is_stopped = True

    async def drained(self) -> bool:
        """Wait until no request is under way, as long as they may take; return whether it is so."""
        stop_s = self.options.timeout_s + self.options.drain_s
        return await nobody_left(lambda: self._in_flight, stop_s)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection's event as ASGI asks for it."""
        if scope["type"] == "http":
            path = route_in(scope)
            if path in _OWN_PATHS:
                if scope["method"] == "GET":
                    await send_answer(send, self._about(path))
                else:
                    await send_answer(send, WRONG_METHOD, (b"allow", b"GET"))
                return
            self._in_flight += 1
            try:
                await self._pass_on(path, scope, receive, send)
            finally:
                self._in_flight -= 1
        elif scope["type"] == "lifespan":
            await lifespan(receive, send, self._end)
        else:  # a websocket
            await send({"type": "websocket.close", "code": 1000})

    async def _end(self) -> None:
        self.stop()
        await self.drained()

    def _about(self, path: str) -> Answer:
        if path == "/metrics":
            status, media_type, body = self.counts.text()
            return Answer(status, body, media_type.decode())
        if path == "/routes":
            routes = json.loads(self._table.choice.routes.to_json()) if self._table else {}
            me = {"endpoint": self.options.name, "router": f"{socket.gethostname()}:{os.getpid()}"}
            about = {**me, **routes, "counts": self.counts.to_data()}
            text = json.dumps(about)
            return Answer(200, text.encode(), JSON)
        return Answer(200 if self.ready else 503, b"\n", JSON)

    async def _pass_on(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        start_s, table = monotonic(), self._table
        headers = _Headers(scope["headers"], table.choice.routes.sticky_header if table else None)
        asked = await self._asked(path, scope, headers, receive)
        if asked is None:
            return
        if isinstance(asked, Answer):
            await send_answer(send, asked)
            return
        predicts = asked.method == "POST" and _PREDICTS.search(asked.path) is not None
        chosen = table.choice.variant(headers.key, predicts=predicts) if table else None
        if table is None or chosen is None:
            await send_answer(send, self._unavailable("it has no variant with a weight"))
            return
        reply = await self._answer(table.ways[chosen], chosen, asked)
        self.counts.answered(chosen, reply.status, monotonic() - start_s)
        await _send(send, receive, reply, chosen)
        if predicts and reply.pieces is None and not reply.is_ours:
            for shadow in table.choice.shadows(chosen):
                self._copy(shadow, table.ways[shadow], asked, reply)

    async def _asked(
        self, path: str, scope: Scope, headers: _Headers, receive: Receive
    ) -> Asked | Answer | None:
        """Return the request, the answer to one that is refused, or None where the client left."""
        limit = self.options.max_request_bytes
        if not path.startswith("/"):
            return refusal(400, "BAD_REQUEST", "The path of a request begins with '/'.")
        if headers.length > limit:
            return too_large(limit)
        try:
            body = await in_time(whole_body(receive, limit), self.options.timeout_s)
        except asyncio.TimeoutError:
            return TIMED_OUT
        if body is None:
            return None
        if len(body) > limit:
            return too_large(limit)
        return Asked(scope["method"], _target(path, scope), headers.kept, body)

    async def _answer(self, way: Variant, name: str, asked: Asked) -> Reply:
        """Return a variant's answer, or one of ours for it."""
        timeout_s = self.options.timeout_s + _LATER_S
        try:
            try:
                return await way.ask(asked, timeout_s)
            except UnreachableVariantError:
                # A replica may have gone while it was asked. A prediction can be asked for again.
                return await way.ask(asked, timeout_s)
        except asyncio.TimeoutError:
            return _reply(TIMED_OUT)
        except UnreachableVariantError as error:
            return _reply(self._unavailable(f"variant {name!r} does not answer: {error}"))

    def _unavailable(self, why: str) -> Answer:
        return refusal(503, "TEMPORARILY_UNAVAILABLE", f"Endpoint {self.options.name!r}: {why}")

    # -- shadows ----------------------------------------------------------------------------

    def _copy(self, name: str, way: Variant, asked: Asked, reply: Reply) -> None:
        """Send a copy beside, unless too many are under way."""
        size = len(asked.body) + len(reply.body)
        full = self._copied_bytes + size > _MOST_COPIED_BYTES and self._copies
        if len(self._copies) >= _MOST_COPIES or full:
            self.counts.shadowed(name, "dropped")
            return
        self._copied_bytes += size
        task = asyncio.ensure_future(self._compare(name, way, asked, reply))
        self._copies.add(task)

        def over(_: object) -> None:
            self._copies.discard(task)
            self._copied_bytes -= size

        task.add_done_callback(over)

    async def _compare(self, name: str, way: Variant, asked: Asked, reply: Reply) -> None:
        copy = replace(asked, headers=(*asked.headers, SHADOW_HEADER))
        try:
            other = await way.ask(copy, self.options.timeout_s + _LATER_S)
            same = other.status == reply.status
            if same and len(reply.body) + len(other.body) > _AT_ONCE_BYTES:
                same = await asyncio.to_thread(same_content, other.body, reply.body)
            elif same:
                same = same_content(other.body, reply.body)
        except (UnreachableVariantError, asyncio.TimeoutError):
            self.counts.shadowed(name, "failed")
        except Exception:
            _logger.exception("a copy for %s failed", name)
            self.counts.shadowed(name, "failed")
        else:
            self.counts.shadowed(name, "same" if same else "different")


class _Headers:
    """The headers of a request: those that are passed on, and the few that matter here."""

    __slots__ = ("kept", "key", "length")

    def __init__(self, pairs: Any, sticky_header: str | None) -> None:
        wanted = sticky_header.lower().encode("latin-1") if sticky_header else None
        kept: list[tuple[bytes, bytes]] = []
        self.key: bytes | None = None
        self.length = 0
        for name, value in pairs:
            if name == wanted:
                self.key = value
            if name == b"content-length":
                self.length = int(value) if value.isdigit() else 0
            if name not in NOT_PASSED_ON:
                kept.append((name, value))
        self.kept = tuple(kept)


def _target(path: str, scope: Scope) -> str:
    """Return the path and the query as they came, below where the application is mounted.

    A slash at the end is left out, for which a server of models would send the client elsewhere.
    """
    raw: bytes = scope.get("raw_path") or b""
    root: bytes = scope.get("root_path", "").encode()
    raw = raw.partition(b"?")[0]
    if raw:
        path = (raw[len(root) :] if root and raw.startswith(root + b"/") else raw).decode("latin-1")
    path = path.rstrip("/") or "/"
    query = scope["query_string"].decode("latin-1")
    return f"{path}?{query}" if query else path


def _reply(answer: Answer) -> Reply:
    headers = ((b"content-type", answer.media_type.encode()),)
    return Reply(answer.status, headers, answer.body, is_ours=True)


async def _send(send: Send, receive: Receive, reply: Reply, variant: str) -> None:
    headers = [*reply.headers, (VARIANT_HEADER, variant.encode())]
    if reply.pieces is None:
        headers.append((b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    if reply.pieces is None:
        await send({"type": "http.response.body", "body": reply.body})
        return
    sending = asyncio.ensure_future(_send_pieces(send, reply.pieces))
    leaving = asyncio.ensure_future(_client_left(receive))
    try:
        await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if sending.done():
            await sending  # with its error, if it had one
    finally:
        for task in (sending, leaving):
            task.cancel()
        await asyncio.gather(sending, leaving, return_exceptions=True)
        await reply.pieces.aclose()


async def _send_pieces(send: Send, pieces: AsyncGenerator[bytes, None]) -> None:
    async for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def _client_left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass

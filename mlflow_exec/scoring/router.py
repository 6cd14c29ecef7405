"""The router of an endpoint: passes each request on to one of its variants.

An ASGI application that keeps no state between requests but counts, so that any number of it can
stand side by side. How a variant is reached is the platform's: by a handle on Ray Serve, by HTTP on
Kubernetes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, Protocol

from mlflow_exec.scoring.asgi import (
    JSON,
    TIMED_OUT,
    WRONG_METHOD,
    Answer,
    Receive,
    Scope,
    Send,
    in_time,
    refusal,
    route_in,
    send_answer,
    too_large,
    whole_body,
)
from mlflow_exec.scoring.route_counts import RouteCounts
from mlflow_exec.scoring.routes import Choice, Routes

_logger = logging.getLogger(__name__)

VARIANT_HEADER = b"x-mlflow-exec-variant"
SHADOW_HEADER = (b"x-mlflow-exec-shadow", b"1")
EVENT_STREAM = b"text/event-stream"
_OWN_PATHS = ("/ping", "/health", "/metrics", "/routes")
# What belongs to one connection (RFC 9110, 7.6.1), or is made anew for the next.
_NOT_PASSED_ON = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect",
    VARIANT_HEADER, SHADOW_HEADER[0],
})  # fmt: skip
# Copies under way: more would only pile up behind a shadow that is too slow.
_MOST_COPIES = 64
_MOST_COPIED_BYTES = 64 * 1024 * 1024
# Another order of the same additions changes the last digits.
_RELATIVE_TOLERANCE = 1e-6
# What the variant may take to say itself that its time is over.
_LATER_S = 5.0


@dataclass(frozen=True)
class Asked:
    """A request as it is passed on.

    Attributes:
        method: Such as ``POST``.
        path: Below the variant's address, with the query.
        headers: Without those of the connection.
        body: All of it.
    """

    method: str
    path: str
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    @property
    def wants_events(self) -> bool:
        """Whether the answer may come piece by piece."""
        return any(name == b"accept" and value.startswith(EVENT_STREAM)
                   for name, value in self.headers)  # fmt: skip


@dataclass(frozen=True)
class Reply:
    """What a variant answers.

    Attributes:
        status: The status code.
        headers: Without those of the connection.
        body: All of it; empty where it comes piece by piece.
        pieces: The pieces; None where the body is here.
    """

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes
    pieces: AsyncIterator[bytes] | None = None


class UnreachableVariantError(Exception):
    """A variant gives no answer; the message says why."""


class Variant(Protocol):
    """The way to one variant."""

    async def ask(self, asked: Asked, timeout_s: float) -> Reply:
        """Pass a request on.

        Raises:
            UnreachableVariantError: There is nobody who answers.
            asyncio.TimeoutError: The answer has not begun in time.
        """


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
        self._ways: dict[str, Variant] = {}
        self._choice: Choice | None = None
        self._is_stopped = False
        self._in_flight = 0
        self._copies: set[asyncio.Task[None]] = set()
        self._copied_bytes = 0

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        return self._choice is not None and not self._is_stopped

    @property
    def number(self) -> int | None:
        """The number of the routes; None before there are any."""
        return self._choice.routes.number if self._choice else None

    def set_routes(self, routes: Routes) -> None:
        """Pass on by these routes from the next request on."""
        names = {*routes.weights, *routes.shadows}
        self._ways = {name: self._ways.get(name) or self._way_to(name) for name in names}
        self._choice = Choice(routes)

    def stop(self) -> None:
        """Tell who asks that no more requests are wanted; those that are under way go on."""
        self._is_stopped = True

    async def drained(self) -> bool:
        """Wait until no request is under way, as long as they may take; return whether it is so."""
        end_s = monotonic() + self.options.timeout_s + self.options.drain_s
        while self._in_flight and monotonic() < end_s:
            await asyncio.sleep(0.02)
        return not self._in_flight

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection's event as ASGI asks for it."""
        if scope["type"] == "http":
            path = route_in(scope)
            if path in _OWN_PATHS:
                is_get = scope["method"] == "GET"
                await send_answer(send, self._about(path) if is_get else WRONG_METHOD)
                return
            self._in_flight += 1
            try:
                await self._pass_on(path, scope, receive, send)
            finally:
                self._in_flight -= 1
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        else:  # a websocket
            await send({"type": "websocket.close", "code": 1000})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.shutdown":
                self.stop()
                await self.drained()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                return

    def _about(self, path: str) -> Answer:
        if path == "/metrics":
            status, media_type, body = self.counts.text()
            return Answer(status, body, media_type.decode())
        if path == "/routes":
            routes = json.loads(self._choice.routes.to_json()) if self._choice else {}
            text = json.dumps({"endpoint": self.options.name, **routes, **self.counts.to_data()})
            return Answer(200, text.encode(), JSON)
        return Answer(200 if self.ready else 503, b"\n", JSON)

    async def _pass_on(self, path: str, scope: Scope, receive: Receive, send: Send) -> None:
        start_s, limit = monotonic(), self.options.max_request_bytes
        kept, key, length = self._headers(scope["headers"])
        if length > limit:
            await send_answer(send, too_large(limit))
            return
        try:
            body = await in_time(whole_body(receive, limit), self.options.timeout_s)
        except asyncio.TimeoutError:
            await send_answer(send, TIMED_OUT)
            return
        if body is None:
            return
        if len(body) > limit:
            await send_answer(send, too_large(limit))
            return
        query = scope["query_string"].decode("latin-1")
        asked = Asked(scope["method"], f"{path}?{query}" if query else path, kept, body)
        choice = self._choice
        chosen = choice.variant(key) if choice else None
        if choice is None or chosen is None:
            await send_answer(send, self._unavailable("it has no variant with a weight"))
            return
        reply = await self._answer(chosen, asked)
        self.counts.answered(chosen, reply.status, monotonic() - start_s)
        await _send(send, reply, chosen)
        if reply.pieces is None and path.startswith(("/invocations", "/v2/")):
            for shadow in choice.shadows():
                self._copy(shadow, asked, reply)

    def _headers(
        self, pairs: Any
    ) -> tuple[tuple[tuple[bytes, bytes], ...], bytes | None, int]:
        """Return what is passed on, the sticky key, and the body's length as far as it is told."""
        sticky = self._choice.routes.sticky_header if self._choice else None
        wanted = sticky.lower().encode("latin-1") if sticky else None
        kept, key, length = [], None, 0
        for name, value in pairs:
            if name == wanted:
                key = value
            if name == b"content-length":
                length = int(value) if value.isdigit() else 0
            if name not in _NOT_PASSED_ON:
                kept.append((name, value))
        return tuple(kept), key, length

    async def _answer(self, name: str, asked: Asked) -> Reply:
        """Return a variant's answer, or one of ours for it."""
        way, timeout_s = self._ways[name], self.options.timeout_s + _LATER_S
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

    def _copy(self, name: str, asked: Asked, reply: Reply) -> None:
        """Send a copy beside, unless too many are under way."""
        size = len(asked.body)
        full = self._copied_bytes + size > _MOST_COPIED_BYTES and self._copies
        if len(self._copies) >= _MOST_COPIES or full:
            self.counts.shadowed(name, "dropped")
            return
        self._copied_bytes += size
        task = asyncio.ensure_future(self._compare(name, asked, reply))
        self._copies.add(task)

        def over(_: object) -> None:
            self._copies.discard(task)
            self._copied_bytes -= size

        task.add_done_callback(over)

    async def _compare(self, name: str, asked: Asked, reply: Reply) -> None:
        copy = replace(asked, headers=(*asked.headers, SHADOW_HEADER))
        try:
            other = await self._ways[name].ask(copy, self.options.timeout_s + _LATER_S)
        except (UnreachableVariantError, asyncio.TimeoutError, KeyError):
            self.counts.shadowed(name, "failed")
            return
        except Exception:
            _logger.exception("a copy for %s failed", name)
            self.counts.shadowed(name, "failed")
            return
        same = other.status == reply.status and same_content(other.body, reply.body)
        self.counts.shadowed(name, "same" if same else "different")


def same_content(one: bytes, other: bytes) -> bool:
    """Whether two bodies say the same: numbers of JSON may differ in the last digits."""
    if one == other:
        return True
    try:
        return _alike(json.loads(one), json.loads(other))
    except ValueError:
        return False


def _alike(one: Any, other: Any) -> bool:
    numbers = (int, float)
    if isinstance(one, numbers) and isinstance(other, numbers):
        if isinstance(one, bool) or isinstance(other, bool):
            return one is other
        both_nan = one != one and other != other
        return both_nan or math.isclose(one, other, rel_tol=_RELATIVE_TOLERANCE)
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(one == other)


def passed_on(headers: Any) -> tuple[tuple[bytes, bytes], ...]:
    """Return the headers of an answer that do not belong to its connection."""
    return tuple((name, value) for name, value in headers if name not in _NOT_PASSED_ON)


def _reply(answer: Answer) -> Reply:
    return Reply(answer.status, ((b"content-type", answer.media_type.encode()),), answer.body)


async def _send(send: Send, reply: Reply, variant: str) -> None:
    headers = [*reply.headers, (VARIANT_HEADER, variant.encode())]
    if reply.pieces is None:
        headers.append((b"content-length", b"%d" % len(reply.body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    if reply.pieces is None:
        await send({"type": "http.response.body", "body": reply.body})
        return
    async for piece in reply.pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})

"""What a router asks its variants, what they answer, and what of it is passed on."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol

from mlflow_exec.scoring.asgi import EVENT_STREAM
from mlflow_exec.scoring.relayed import Headers

VARIANT_HEADER = b"x-mlflow-exec-variant"
SHADOW_HEADER = (b"x-mlflow-exec-shadow", b"1")
_EVENT_STREAM = EVENT_STREAM.encode()
# What belongs to one connection (RFC 9110, 7.6.1), or is made anew for the next.
NOT_PASSED_ON = frozenset({
    b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"te", b"trailer",
    b"transfer-encoding", b"upgrade", b"host", b"content-length", b"expect",
    # What the server that sends it says of itself.
    b"date", b"server",
    VARIANT_HEADER, SHADOW_HEADER[0],
})  # fmt: skip


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
    headers: Headers
    body: bytes

    @property
    def wants_events(self) -> bool:
        """Whether the answer may come piece by piece."""
        return any(name == b"accept" and value.startswith(_EVENT_STREAM)
                   for name, value in self.headers)  # fmt: skip


@dataclass(frozen=True)
class Reply:
    """What a variant answers.

    Attributes:
        status: The status code.
        headers: Without those of the connection.
        body: All of it; empty where it comes piece by piece.
        pieces: The pieces; None where the body is here.
        is_ours: Whether the router says it, as no variant has answered.
    """

    status: int
    headers: Headers
    body: bytes
    pieces: AsyncGenerator[bytes, None] | None = None
    is_ours: bool = False


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


def passed_on(headers: Any) -> Headers:
    """Return the headers of an answer that do not belong to its connection."""
    return tuple((name, value) for name, value in headers if name not in NOT_PASSED_ON)

"""Variants that are reached by HTTP, such as the Services of a Kubernetes namespace."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import aiohttp
from yarl import URL

from mlflow_exec.scoring.variants import Asked, Reply, UnreachableVariantError, passed_on

_CONNECT_S = 5.0
# One that has waited longer may be closed by the server at the moment it is used again.
_KEEP_ALIVE_S = 2.0


class HttpVariants:
    """The ways to the variants of an endpoint, over connections that are kept.

    Args:
        address: Of a variant, with ``{name}`` in the place of its name.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self._session: aiohttp.ClientSession | None = None

    def __call__(self, name: str) -> HttpVariant:
        """Return the way to a variant."""
        return HttpVariant(self._address.replace("{name}", name), self)

    @property
    def session(self) -> aiohttp.ClientSession:
        """The connections; made in the event loop, to which they belong."""
        if self._session is None:
            # Many connections, so that the replicas of a Service share the load: one is spread
            # over them by connections, not by requests.
            connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEP_ALIVE_S)
            self._session = aiohttp.ClientSession(
                connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar(),
                skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept", "Content-Type"),
            )  # fmt: skip
        return self._session

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()


class HttpVariant:
    """The way to one variant."""

    def __init__(self, address: str, ways: HttpVariants) -> None:
        self._address = address
        self._ways = ways

    async def ask(self, asked: Asked, timeout_s: float) -> Reply:
        """See `mlflow_exec.scoring.variants.Variant`."""
        timeout = aiohttp.ClientTimeout(total=None, connect=_CONNECT_S, sock_read=timeout_s)
        headers = [(name.decode("latin-1"), value.decode("latin-1"))
                   for name, value in asked.headers]  # fmt: skip
        try:
            # The limits of aiohttp begin when all of the body is sent.
            response = await asyncio.wait_for(self._ways.session.request(
                asked.method, URL(self._address + asked.path, encoded=True), headers=headers,
                data=asked.body or None, timeout=timeout, allow_redirects=False,
            ), timeout_s)  # fmt: skip
            replied = passed_on((n.lower(), value) for n, value in response.raw_headers)
            if asked.wants_events:
                return Reply(response.status, replied, b"", _pieces(response))
            async with response:
                return Reply(response.status, replied, await response.read())
        except aiohttp.ServerTimeoutError as error:
            if isinstance(error, aiohttp.ConnectionTimeoutError):
                raise UnreachableVariantError(f"{self._address}: no connection in time") from error
            raise asyncio.TimeoutError from error
        except (aiohttp.ClientError, OSError) as error:
            raise UnreachableVariantError(f"{self._address}: {error}") from error


async def _pieces(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes, None]:
    async with response:
        async for piece in response.content.iter_any():
            yield piece

"""TLS in front of a server that speaks none, as a proxy of a cluster does it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from dataclasses import dataclass
from pathlib import Path

from tests.clusters.kubernetes import certificates


@dataclass(frozen=True)
class Authority:
    """An authority of a test's own, and a server's certificate of it.

    Attributes:
        folder: Where its files are: ``ca.crt``, ``server.crt``, ``server.key``.
    """

    folder: Path

    @classmethod
    def make(cls, folder: Path, *addresses: str) -> Authority:
        """Make them in a new folder, the certificate for these IP addresses."""
        names = [f"IP:{address}" for address in addresses]
        certificates.make(folder, [certificates.Identity("server", "/CN=a server", names)])
        return cls(folder)

    @property
    def ca_cert(self) -> str:
        """The file with the authority."""
        return str(self.folder / "ca.crt")

    def serving(self) -> ssl.SSLContext:
        """Return what a server with the certificate needs."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.crt", self.folder / "server.key")
        return context


class TlsRelay:
    """Forwards a port of this machine, which speaks TLS, to a server that does not.

    Attributes:
        port: The port, at the address that it was made for.
    """

    def __init__(
        self, host: str, port: int, authority: Authority, at: str = "127.0.0.1"
    ) -> None:
        self._target = (host, port)
        self._serving = authority.serving()
        self._at = at
        self._writers: list[asyncio.StreamWriter] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        assert self._ready.wait(timeout=60), "the relay did not start"

    def close(self) -> None:
        """Break every connection and answer no more."""
        self._loop.call_soon_threadsafe(self._closed.set)
        self._thread.join(timeout=10)

    async def _run(self) -> None:
        self._loop, self._closed = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, self._at, 0, ssl=self._serving)
        self.port: int = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._closed.wait()
        server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.wait([asyncio.create_task(_gone(writer)) for writer in self._writers] or
                           [asyncio.create_task(asyncio.sleep(0))], timeout=5)  # fmt: skip

    async def _serve(self, near: asyncio.StreamReader, to_near: asyncio.StreamWriter) -> None:
        self._writers.append(to_near)
        with contextlib.closing(to_near), contextlib.suppress(OSError):
            far, to_far = await asyncio.open_connection(*self._target)
            with contextlib.closing(to_far):
                await asyncio.gather(_pump(near, to_far), _pump(far, to_near))


async def _gone(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # ssl.SSLError is one
        while data := await source.read(65536):
            sink.write(data)
            await sink.drain()
    sink.close()

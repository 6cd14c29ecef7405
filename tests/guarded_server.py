"""A server that wants a credential: by itself, or before MLflow's."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import ssl
import threading
import urllib.parse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Seen:
    """One request as it came in."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def authorization(self) -> str | None:
        """The header, as it was sent."""
        return self.headers.get("authorization")


@dataclass
class Guard:
    """What the server accepts, and what it has seen.

    Attributes:
        url: Its root.
        accepts: Whether an ``Authorization`` is good; asked for each request.
        target: The server behind it; None where there is none.
        redirects: Where a path leads.
        challenge: The ``WWW-Authenticate`` of its 401.
        seen: The requests, the first one first.
    """

    url: str
    accepts: Callable[[str | None], bool]
    target: str | None = None
    redirects: dict[str, str] = field(default_factory=dict)
    challenge: str = "Bearer"
    seen: list[Seen] = field(default_factory=list)

    @property
    def sent(self) -> list[str | None]:
        """The ``Authorization`` of each request."""
        return [item.authorization for item in self.seen]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(urllib.parse.urlsplit(self.url).port or 0)


def takes(*tokens: str) -> Callable[[str | None], bool]:
    """Return what accepts these bearer tokens."""
    return lambda given: given in [f"Bearer {token}" for token in tokens]


class _Handler(http.server.BaseHTTPRequestHandler):
    guard: Guard
    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        guard = self.guard
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, self.path, headers, self._body())
        guard.seen.append(seen)
        if self.path in guard.redirects:
            self._reply(307, {"Location": guard.redirects[self.path]}, b"")
        elif not guard.accepts(seen.authorization):
            self._reply(401, {"WWW-Authenticate": guard.challenge}, b"who are you?")
        elif guard.target is None:
            self._reply(200, {"Content-Type": "application/json"}, b"{}")
        else:
            self._pass_on(guard.target, seen)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _pass_on(self, target: str, seen: Seen) -> None:
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(target).netloc)
        left_out = ("host", "connection", "authorization", "transfer-encoding")
        headers = {k: v for k, v in seen.headers.items() if k not in left_out}
        with contextlib.closing(connection):
            connection.request(seen.method, seen.path, seen.body, headers)
            got = connection.getresponse()
            kept = {k: v for k, v in got.getheaders() if k in ("Content-Type", "Location")}
            self._reply(got.status, kept, got.read())

    def _reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def guarded(
    accepts: Callable[[str | None], bool],
    target: str | None = None,
    *,
    host: str = "127.0.0.1",
    visible_as: str = "127.0.0.1",
    certificate: tuple[Path, Path] | None = None,
) -> Iterator[Guard]:
    """Run the server; without one behind it, it answers ``{}``.

    Args:
        accepts: Whether an ``Authorization`` is good.
        target: The URL of the server behind it.
        host: The address to listen on.
        visible_as: The host in its URL.
        certificate: With its key, for https.
    """

    guard = Guard("", accepts, target)
    handler = type("Handler", (_Handler,), {"guard": guard})
    with http.server.ThreadingHTTPServer((host, 0), handler) as server:
        server.daemon_threads = True
        scheme = "http"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
            scheme = "https"
        guard.url = f"{scheme}://{visible_as}:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield guard
        server.shutdown()
    thread.join(5)

"""A server whose answers a test gives; over https where a certificate is given."""

from __future__ import annotations

import contextlib
import http.server
import json
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True)
class Asked:
    """One request.

    Attributes:
        method: In upper case.
        target: The path with its query, as it was sent.
        headers: By their names in lower case.
        body: As it was sent.
    """

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        """Without the query."""
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        """The query's fields."""
        return {key: values[0] for key, values in parse_qs(urlsplit(self.target).query).items()}

    @property
    def form(self) -> dict[str, str]:
        """The body's fields."""
        return {key: values[0] for key, values in parse_qs(self.body.decode()).items()}


@dataclass(frozen=True)
class Answer:
    """What is answered; a body that is no text is sent as JSON."""

    body: Any
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


class _Handler(http.server.BaseHTTPRequestHandler):
    answer: Callable[[Asked], Answer]

    def reply(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length") or 0))
        found = type(self).answer(Asked(self.command, self.path, headers, body))
        text = found.body if isinstance(found.body, str) else json.dumps(found.body)
        kind = "text/plain" if isinstance(found.body, str) else "application/json"
        self.send_response(found.status)
        for name, value in (
            ("Content-Type", kind), ("Content-Length", str(len(text.encode()))), *found.headers,
        ):  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(text.encode())

    do_GET = do_POST = do_PUT = do_DELETE = reply

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def answering(
    answer: Callable[[Asked], Answer], certificate: tuple[Path, Path] | None = None
) -> Iterator[str]:
    """Run the server on loopback; yields its URL, by name where it has a certificate."""
    handler = type("Handler", (_Handler,), {"answer": staticmethod(answer)})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        url = f"http://127.0.0.1:{server.server_port}"
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*certificate)
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
            url = f"https://localhost:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield url
        server.shutdown()
    thread.join(5)


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for `localhost`, its own authority, and its key."""
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
         "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out",
         str(certificate)], check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key

"""What the stand-ins for cloud services have in common: HTTP, content, and faults to order.

They follow the published APIs as far as our stores use them; no cloud is behind them.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

CUT = -1
"""A fault: the connection breaks in the middle of the body."""
CHANGED = -2
"""A fault: a byte of the body is another one, as it came or as it is sent."""
WHOLE = -4
"""A fault: all of a content is sent where a range is asked for, and the connection breaks a little
after that."""
LOST = -3
"""A fault: it is done what is asked, and the connection breaks before the answer."""
_MORE_BYTES = 2 * 1024 * 1024  # since clients read ahead


@dataclass
class Fault:
    """What goes wrong with some requests.

    Attributes:
        method: Of those that it is for.
        target: A pattern that is found in path and query of those, with the range that they send
            behind, as their header has it.
        kind: `CUT`, `CHANGED`, `LOST`, `WHOLE`, or the code of an answer.
        times: So often; then things go right.
    """

    method: str
    target: str
    kind: int
    times: int = 1


@dataclass(frozen=True)
class Content:
    """The content of an object, in the parts that it came in."""

    parts: tuple[bytes, ...]

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.parts))

    def range(self, start: int, end: int) -> bytes:
        """Return the bytes from one to before another."""
        starts = [0]
        for part in self.parts:
            starts.append(starts[-1] + len(part))
        found = []
        for i in range(max(bisect_right(starts, start) - 1, 0), len(self.parts)):
            if starts[i] >= end:
                break
            found.append(self.parts[i][max(start - starts[i], 0) : end - starts[i]])
        return found[0] if len(found) == 1 else b"".join(found)

    def told(self, start: int, end: int) -> dict[str, str]:
        """Return the header that goes with a range."""
        return {"Content-Range": f"bytes {start}-{end - 1}/{self.size_bytes}"}

    def hash(self, name: str) -> hashlib._Hash:
        """Return the hash of hashlib's of that name."""
        found = hashlib.new(name, usedforsecurity=False)
        for part in self.parts:
            found.update(part)
        return found


@dataclass
class Request:
    """What was asked.

    Attributes:
        target: Path and query, not decoded.
        path: Not decoded.
        query: Decoded.
    """

    method: str
    target: str
    path: str
    query: dict[str, str]
    headers: Message
    body: bytes = b""

    @property
    def names(self) -> list[str]:
        """The path, decoded, without the slash before it."""
        return [unquote(name) for name in self.path[1:].split("/")]

    def byte_range(self, size_bytes: int) -> tuple[int, int] | None:
        """Return what of a body is asked for, as RFC 9110 has it; None if all of it."""
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if match is None:
            return None
        return int(match[1]), min(int(match[2] or size_bytes) + 1, size_bytes)


@dataclass
class Answer:
    """What is answered."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class CloudServer(ThreadingHTTPServer):
    """A service; `answer` is what it does.

    Attributes:
        faults: What goes wrong next.
        asked: Method and target of each request so far.
        lock: Held while what is kept is changed.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.faults: list[Fault] = []
        self.asked: list[str] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """As clients reach it."""
        return f"http://127.0.0.1:{self.server_port}"

    def answer(self, request: Request) -> Answer:
        """Return what is answered."""
        raise NotImplementedError

    def failure(self, status: int) -> Answer:
        """Return the answer for a fault that is a code."""
        return Answer(status)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is none of ours to tell of."""

    def fault_of(self, method: str, target: str, sent_range: str) -> int:
        """Return the kind of what goes wrong with a request; 0 for nothing."""
        text = f"{target} {sent_range}" if sent_range else target
        with self.lock:
            self.asked.append(f"{method} {target}")
            for fault in self.faults:
                if fault.times and fault.method == method and re.search(fault.target, text):
                    fault.times -= 1
                    return fault.kind
        return 0


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536
    server: CloudServer

    def log_message(self, *args: Any) -> None:
        pass

    def handle_expect_100(self) -> bool:
        going_on = super().handle_expect_100()
        self.wfile.flush()  # else the client waits for it
        return going_on

    def _handle(self) -> None:
        sent_range = self.headers.get("Content-Range", "")
        fault = self.server.fault_of(self.command, self.path, sent_range)
        size_bytes = int(self.headers.get("Content-Length") or 0)
        if fault == CUT and size_bytes:
            self.rfile.read(size_bytes // 2)
            self.close_connection = True
            return
        body = self._chunks() if self.headers.get("Transfer-Encoding") else b""
        body = body or self.rfile.read(size_bytes)
        if fault == CHANGED and body:
            body = _changed(body)
            fault = 0
        end = None
        if fault == WHOLE:
            end = int(self.headers["Range"].rpartition("-")[2]) + _MORE_BYTES
            del self.headers["Range"]
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        request = Request(self.command, self.path, parts.path, query, self.headers, body)
        told = self.server.failure(fault) if fault > 0 else self.server.answer(request)
        if fault == LOST:
            self.close_connection = True
        else:
            self._send(told, fault, end)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = do_PATCH = _handle

    def _chunks(self) -> bytes:
        found = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            found.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(found)

    def _send(self, told: Answer, fault: int, end: int | None) -> None:
        body = _changed(told.body) if fault == CHANGED and told.body else told.body
        self.send_response(told.status)
        for name, value in told.headers.items():
            self.send_header(name, value)
        if "Content-Length" not in told.headers:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == CUT:
            body = body[: len(body) // 2]
            self.close_connection = True
        if end is not None and end < len(body):
            body = body[:end]
            self.close_connection = True
        self.wfile.write(body)


def _changed(body: bytes) -> bytes:
    middle = len(body) // 2
    return body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]


def page_of(
    keys: Sequence[str], prefix: str, delimiter: str, after: str, size: int
) -> tuple[list[str], list[str], str]:
    """Return keys and common prefixes of one page of a listing, and what comes after it.

    Args:
        keys: All of them.
        prefix: What they begin with.
        delimiter: Up to which they are taken together; "" for none.
        after: The last key or prefix of the page before.
        size: So many of both are on a page.
    """
    found: list[str] = []
    folders: list[str] = []
    for key in sorted(keys):
        if not key.startswith(prefix):
            continue
        end = key.find(delimiter, len(prefix)) if delimiter else -1
        shown = key[: end + 1] if end >= 0 else key
        if shown <= after or (folders and shown == folders[-1] and end >= 0):
            continue
        if len(found) + len(folders) == size:
            return found, folders, max([*found[-1:], *folders[-1:]])
        (folders if end >= 0 else found).append(shown)
    return found, folders, ""


@contextlib.contextmanager
def serving(server: CloudServer) -> Iterator[None]:
    """Serve in a thread."""
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

"""A proxy in front of a real API server that answers wrongly, late or not at all, as told."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import random
import select
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client

from mlflow_exec.testing.collecting import until

# What becomes of a request: an answer of the proxy's own, which the server never sees the request
# of; the same without any answer; and a request that is carried out, but whose answer is lost.
# "broken" and "answer broken" are the last two where nobody has to wait: the connection breaks.
FAULTS = ("429", "429 with Retry-After", "500", "silent", "answer lost")
RETRY_AFTER_S = 1
_PASSED_ON = ("Content-Type", "Date", "Audit-Id", "Retry-After")
_SO_ATTACH_FILTER = 26  # linux/asm-generic/socket.h; Python has no name for it


@dataclass(frozen=True)
class Asked:
    """A request, and what became of it.

    Attributes:
        at_s: When it came, by the monotonic clock.
        method: Its method.
        target: Its path and query.
        content: A name for its body, so that two can be told from one that came twice.
        fault: One of the faults; empty where it was passed on.
    """

    at_s: float
    method: str
    target: str
    content: int
    fault: str = ""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def is_watch(self) -> bool:
        return "watch=true" in self.target


Choose = Callable[[Asked], str]


def by_chance(seed: int, share: float) -> Choose:
    """Return a choice of faults for this share of the requests, the same for the same seed."""
    chance = random.Random(seed)
    return lambda _: chance.choice(FAULTS) if chance.random() < share else ""


def each_once(fault: str) -> Choose:
    """Return a choice that lets each request fail once before it works."""
    seen: set[tuple[str, str, int]] = set()

    def choose(asked: Asked) -> str:
        key = (asked.method, asked.path, asked.content)
        first = key not in seen
        seen.add(key)
        return fault if first else ""

    return choose


@dataclass
class FaultyApi:
    """A running proxy, which anybody may use as its administrator.

    Attributes:
        url: Its address, plain HTTP.
        choose: What becomes of the next requests; None leaves them alone.
        skew_s: How far the proxy's own clock is from the cluster's.
        asked: Every request so far.
    """

    url: str = ""
    choose: Choose | None = None
    skew_s: float = 0.0
    asked: list[Asked] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    closed: threading.Event = field(default_factory=threading.Event)
    watches: set[socket.socket] = field(default_factory=set)
    dead: set[socket.socket] = field(default_factory=set)

    def kubeconfig(self, file: Path, context: str) -> Path:
        """Write a kubeconfig whose only context goes through the proxy."""
        cluster = {"server": self.url}
        entry = {"cluster": "faulty", "user": "anybody"}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": context,
            "clusters": [{"name": "faulty", "cluster": cluster}],
            "users": [{"name": "anybody", "user": {}}],
            "contexts": [{"name": context, "context": entry}],
        }  # fmt: skip
        file.write_text(json.dumps(config))
        return file

    def black_hole(self) -> int:
        """Let every open watch die without a word, as a network does that drops its packets.

        Nothing that the client sends is acknowledged any more, and nothing comes from here.
        Returns how many there were.
        """
        with self.lock:
            found = self.watches - self.dead
            for connection in found:
                _drop_all(connection)
            self.dead |= found
        return len(found)

    def swallow(self) -> int:
        """Let every open watch fall silent while its connection stays; returns how many."""
        with self.lock:
            found = self.watches - self.dead
            self.dead |= found
        return len(found)

    def cut(self, *, dead: bool = False) -> int:
        """Close every open watch, those that have fallen silent if ``dead``; returns how many."""
        with self.lock:
            found = self.watches if dead else self.watches - self.dead
            for connection in found:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
        return len(found)

    def note(self, method: str, target: str, body: bytes) -> Asked:
        """Note a request and decide what becomes of it."""
        asked = Asked(time.monotonic(), method, target, hash(body))
        with self.lock:
            fault = self.choose(asked) if self.choose is not None else ""
            asked = Asked(asked.at_s, method, target, asked.content, fault)
            self.asked.append(asked)
        return asked


def _drop_all(connection: socket.socket) -> None:
    """Have the kernel drop whatever comes for a connection, before TCP sees it.

    What was sent is acknowledged before: else it is sent again and again, and the other side hears
    from a network that is to be dead.
    """
    until(lambda: _unacknowledged_bytes(connection) == 0, "all that was sent has arrived", 10)
    program = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF: keep 0 bytes
    filter_ = struct.pack("HL", 1, ctypes.addressof(program))
    connection.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, filter_)


def _unacknowledged_bytes(connection: socket.socket) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)))
    return int(count)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    api: FaultyApi
    upstream: urllib3.PoolManager
    host: str
    headers_: dict[str, str]

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        asked = self.api.note(self.command, self.path, body)
        fault = asked.fault
        if fault in ("429", "429 with Retry-After", "500"):
            self._say(int(fault[:3]), asks="Retry-After" in fault)
        elif fault == "silent":
            self._say_nothing()
        elif fault == "broken":
            self._break()
        else:
            self._pass_on(body, fault)

    do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _serve

    def _pass_on(self, body: bytes, fault: str) -> None:
        kept = {k: v for k, v in self.headers.items() if k in ("Content-Type", "Accept")}
        try:
            answer = self.upstream.request(
                self.command, self.host + self.path, body=body or None,
                headers={**kept, **self.headers_}, preload_content=False, retries=False,
                timeout=urllib3.Timeout(connect=5, read=None),
            )  # fmt: skip
        except (urllib3.exceptions.HTTPError, OSError):
            self._say(502)
            return
        with contextlib.closing(answer):
            if fault == "answer lost":
                answer.read()
                self._say_nothing()
            elif fault == "answer broken":
                answer.read()
                self._break()
            else:
                self._forward(answer)

    def _forward(self, answer: Any) -> None:
        self.send_response_only(answer.status)
        for name in _PASSED_ON:
            if name in answer.headers:
                self.send_header(name, answer.headers[name])
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        is_watch = "watch=true" in self.path
        if is_watch:
            with self.api.lock:
                self.api.watches.add(self.connection)
        try:
            while piece := answer.read1(65536):
                if self.connection in self.api.dead:
                    break
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            if self.connection in self.api.dead:
                self._say_nothing()
            else:
                self.wfile.write(b"0\r\n\r\n")
        except (urllib3.exceptions.HTTPError, OSError):
            if self.connection in self.api.dead:
                self._say_nothing()
            else:
                self._break()
        finally:
            if is_watch:
                with self.api.lock:
                    self.api.watches.discard(self.connection)
                    self.api.dead.discard(self.connection)

    def _say(self, status: int, *, asks: bool = False) -> None:
        text = b'{"kind": "Status", "message": "a fault of the test"}'
        self.send_response_only(status)
        self.send_header("Date", formatdate(time.time() + self.api.skew_s, usegmt=True))
        self.send_header("Content-Length", str(len(text)))
        if asks:
            self.send_header("Retry-After", str(RETRY_AFTER_S))
        self.end_headers()
        self.wfile.write(text)

    def _say_nothing(self) -> None:
        """Wait until the client has gone."""
        while not self.api.closed.is_set():
            if select.select([self.connection], [], [], 0.2)[0]:
                break
        self.close_connection = True

    def _break(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def faulty_api(api_client: client.ApiClient) -> Iterator[FaultyApi]:
    """Run a proxy in front of the API server that the client reaches, with its credentials."""
    configuration = api_client.configuration
    credentials = {s["key"]: s["value"] for s in configuration.auth_settings().values()}
    api = FaultyApi()
    attributes = {
        "api": api, "upstream": api_client.rest_client.pool_manager, "host": configuration.host,
        "headers_": credentials,
    }  # fmt: skip
    handler = type("Handler", (_Handler,), attributes)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads, server.block_on_close = True, False
    api.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield api
    finally:
        api.closed.set()
        server.shutdown()
        server.server_close()
        thread.join(10)

"""A process of its own that is killed in the middle of an upload, once a file of it is kept.

Run as a program it is that process: the store's class and URI are its arguments, and its credential
is what it reads.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any

from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.storage.base import Store
from mlflow_exec.uris import Location

PATH = "d/a"
BEFORE = b"kept before"
"""What the process has kept there, and was told so, before it began to replace it."""
_SIZE_BYTES = 12 * 1024 * 1024  # more than a bucket takes in one part
_SENT_BYTES = 1024 * 1024
_BY_SOCKETS, _BY_CONTENT = "by sockets", "by content"


def upload_and_be_killed(store: Store, *, by_sockets: bool) -> None:
    """Have a process keep `BEFORE` at `PATH` of a store, begin to replace it, and be killed.

    Args:
        store: Where.
        by_sockets: Whether it dies when much of the content has passed its sockets; else when all
            of that was read.
    """
    kind = type(store)
    argv = [sys.executable, "-W", "ignore", "-m", __name__, f"{kind.__module__}:{kind.__name__}"]
    argv += [str(store.location), _BY_SOCKETS if by_sockets else _BY_CONTENT]
    fields = {name: store.credential.get(name) for name in store.credential.fields}
    ended = subprocess.run(
        argv, input=json.dumps(fields), capture_output=True, text=True, check=False, timeout=120
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr[-2000:]


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class _Dies(io.BytesIO):
    """A content at whose end the process is killed."""

    def read(self, size: int | None = -1) -> bytes:
        piece = super().read(size)
        if not piece:
            _die()
        return piece


def _die_once_sent() -> None:
    """Count what passes the sockets from now on."""
    lock, left = threading.Lock(), _SENT_BYTES

    def counted(send: Callable[..., Any]) -> Callable[..., Any]:
        def sends(self: socket.socket, data: Any, *rest: Any) -> Any:
            nonlocal left
            count = send(self, data, *rest)
            with lock:
                left -= len(data) if count is None else count  # sendall tells none
                if left < 0:
                    _die()
            return count

        return sends

    for name in ("send", "sendall", "sendmsg"):
        setattr(socket.socket, name, counted(getattr(socket.socket, name)))


def _main(kind: str, uri: str, dies: str) -> None:
    fields = {name: Secret.of(value, "the test") for name, value in json.load(sys.stdin).items()}
    module, _, name = kind.partition(":")
    made = getattr(import_module(module), name)
    store: Store = made(Location.parse(uri), Credential("the test", fields))
    store.put(PATH, io.BytesIO(BEFORE))
    content = random.randbytes(_SIZE_BYTES)
    if dies == _BY_SOCKETS:
        _die_once_sent()
    store.put(PATH, io.BytesIO(content) if dies == _BY_SOCKETS else _Dies(content))


if __name__ == "__main__":
    _main(*sys.argv[1:])

"""A store whose connection breaks in the middle of a large file."""

from __future__ import annotations

import io
import random
import threading

from mlflow_exec.storage.base import Entry, Store
from tests.unit.tcp_link import TcpLink

SIZE_BYTES = 40_000_000
_AWAY_S = 0.5


def assert_survives_cuts(store: Store, link: TcpLink) -> None:
    """Cut the connection once on the way there, and once on the way back, at random bytes."""
    text = random.randbytes(SIZE_BYTES)
    points = [random.randrange(3_000_000, SIZE_BYTES - 20_000_000) for _ in range(2)]
    cuts = 0

    def cut() -> None:
        nonlocal cuts
        cuts += 1
        link.cut()
        threading.Timer(_AWAY_S, link.mend).start()

    class Cuts(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if cuts == 0 and self.tell() > points[0]:
                cut()
            return super().read(size)

    store.put("d/large", Cuts(text))
    assert cuts == 1
    assert store.entries("d") == [Entry("d/large", False, SIZE_BYTES)]
    read = b""
    for piece in store.read("d/large"):
        if cuts == 1 and len(read) > points[1]:
            cut()
        read += piece
    assert cuts == 2
    assert read == text

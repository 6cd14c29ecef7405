"""What comes by an event loop, read by a thread as if it were a file."""

from __future__ import annotations

import asyncio
import io
import queue
from collections.abc import AsyncIterable, Callable
from typing import BinaryIO, cast

_PIECES = 4


async def in_a_thread(put: Callable[[BinaryIO], None], chunks: AsyncIterable[bytes]) -> None:
    """Have a thread read all of the chunks; few are held at a time.

    Raises:
        Exception: What ``put`` raises; or what ``chunks`` raise, which ``put`` then sees, too.
    """
    pieces: queue.Queue[bytes | BaseException] = queue.Queue(_PIECES)
    reading = asyncio.ensure_future(asyncio.to_thread(put, _file(pieces)))

    async def give(piece: bytes | BaseException) -> None:
        while not reading.done():
            try:
                pieces.put_nowait(piece)
                return
            except queue.Full:
                await asyncio.wait({reading}, timeout=0.005)

    try:
        async for chunk in chunks:
            if chunk:
                await give(chunk)
            if reading.done():
                break
        await give(b"")
    except BaseException as error:
        await give(error)
        await asyncio.wait({reading})
        if not reading.cancelled():
            reading.exception()  # told by the one that is raised
        raise
    await reading


def _file(pieces: queue.Queue[bytes | BaseException]) -> BinaryIO:
    return cast(BinaryIO, io.BufferedReader(_Pieces(pieces), 1024 * 1024))


class _Pieces(io.RawIOBase):
    """Reads what is put into a queue; an empty piece is the end, an exception is raised."""

    def __init__(self, pieces: queue.Queue[bytes | BaseException]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")
        self._end: BaseException | bool = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self._rest and not self._end:
            found = self._pieces.get()
            if isinstance(found, BaseException):
                self._end = found
            else:
                self._rest, self._end = memoryview(found), not found
        if isinstance(self._end, BaseException):
            raise OSError(f"what was sent broke off: {self._end!r}") from self._end
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

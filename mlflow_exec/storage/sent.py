"""What is sent to a store: read once, counted and hashed, and once more if it can be."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterable, Iterator
from typing import BinaryIO, cast

from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage.base import READ_BACK, Digest, is_on, pieces_of


class ContentError(Exception):
    """Reading the content failed; no error that a system's client could take for its own."""


class Sent(io.RawIOBase):
    """Content as it is read by what sends it.

    Attributes:
        size_bytes: So much was read.
        length_bytes: So much there is; None where only the end will tell.
    """

    def __init__(self, content: BinaryIO) -> None:
        self._content = content
        self._digest = Digest() if is_on(READ_BACK) else None
        self.size_bytes = 0
        self._failure: BaseException | None = None
        self._start: int | None = None
        self.length_bytes: int | None = None
        if getattr(content, "seekable", lambda: False)():
            self._start = content.tell()
            self.length_bytes = content.seek(0, os.SEEK_END) - self._start
            content.seek(self._start)

    @property
    def len(self) -> int:
        """What requests asks a body for; 0 where it is not known."""
        return self.length_bytes or 0

    def tell(self) -> int:
        """How much was read; requests asks for it to know how much is left."""
        return self.size_bytes

    @property
    def is_read_back(self) -> bool:
        """Whether what is kept is to be read again, and compared."""
        return self._digest is not None

    def compare(self, kept: Iterable[bytes], where: str) -> None:
        """Fail where something else is kept than was read.

        Raises:
            ArtifactError: It differs; its text begins with ``where``.
        """
        assert self._digest is not None, "asked only where it is to be read back"
        digest = Digest()
        for piece in kept:
            digest.add(piece)
        if digest.sha256() != self._digest.sha256():
            raise ArtifactError(f"{where}: what is there is not what was sent")

    def pieces(self) -> Iterator[bytes]:
        """Yield all of it, see `pieces_of`."""
        return pieces_of(cast(BinaryIO, self))

    def take(self, size_bytes: int) -> bytes:
        """Return the next part of a size; less only at the end."""
        parts = []
        while size_bytes and (piece := self.read(size_bytes)):
            parts.append(piece)
            size_bytes -= len(piece)
        return b"".join(parts)

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def read(self, size: int = -1) -> bytes:
        """See `io.RawIOBase`; only less than what is asked for where that is the end."""
        return self._passing(lambda: self._content.read(size))

    def readall(self) -> bytes:
        """See `io.RawIOBase`."""
        return self.read()

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """See `io.RawIOBase`."""
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)

    def rewind(self) -> bool:
        """Begin anew; False where the content can be read only once."""
        if self._start is None:
            return self.size_bytes == 0
        self._content.seek(self._start)
        self.size_bytes = 0
        self._digest = self._digest and Digest()
        return True

    def raise_failure(self) -> None:
        """Raise what reading the content has raised, whatever the sender made of it."""
        if self._failure is not None:
            raise self._failure

    def _passing(self, read: Callable[[], bytes]) -> bytes:
        try:
            piece = read()
        except BaseException as error:
            self._failure = error
            raise ContentError from error
        self.size_bytes += len(piece)
        if self._digest is not None:
            self._digest.add(piece)
        return piece

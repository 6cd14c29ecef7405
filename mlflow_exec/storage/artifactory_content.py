"""A content on its way to a server: hashed before it is sent, where it can be read twice."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage.base import Digest

# A stream of at most so many bytes is held, and can be sent again.
_HELD_BYTES = 8 * 1024 * 1024
_READ_BYTES = 256 * 1024


class Content:
    """What is sent.

    Attributes:
        size_bytes: None of a large stream: only its end will tell.
        can_be_sent: Whether all of it can still be read.
        failure: What reading it has raised while it was sent, which requests would hide.
    """

    def __init__(self, file: BinaryIO, head: bytes = b"", known: Digest | None = None) -> None:
        self._file = file
        self._head = head
        self._digest = known or Digest()
        self._start = file.tell() if known else 0
        self.size_bytes = known.size_bytes if known else None
        self.can_be_sent = True
        self.failure: Exception | None = None

    @classmethod
    def of(cls, content: BinaryIO) -> Content:
        """Return what is sent of a file from where it stands, or of a stream."""
        if not (hasattr(content, "seekable") and content.seekable()):
            head = bytearray()
            while len(head) <= _HELD_BYTES:
                piece = content.read(_READ_BYTES)
                if not piece:
                    break
                head += piece
            else:
                return cls(content, bytes(head))
            content = io.BytesIO(bytes(head))
        start, digest = content.tell(), Digest()
        while piece := content.read(_READ_BYTES):
            digest.add(piece)
        content.seek(start)
        return cls(content, known=digest)

    @property
    def sha256(self) -> str:
        """Its hash in hex; of a large stream that of what has passed."""
        return self._digest.sha256()

    def body(self) -> bytes | Iterable[bytes]:
        """Return all of it, as requests takes it."""
        if self.size_bytes is None:
            return self._once()
        if not self.size_bytes:
            return b""
        self._file.seek(self._start)
        return _Sized(self._again(self.size_bytes), self.size_bytes)

    def _once(self) -> Iterator[bytes]:
        self.can_be_sent = False
        piece, self._head = self._head, b""
        while piece:
            self._digest.add(piece)
            yield piece
            piece = self._read(_READ_BYTES)

    def _again(self, left_bytes: int) -> Iterator[bytes]:
        while left_bytes:
            piece = self._read(min(_READ_BYTES, left_bytes))
            if not piece:
                self.failure = ArtifactError("the file has become shorter while it was sent")
                raise self.failure
            left_bytes -= len(piece)
            yield piece

    def _read(self, size_bytes: int) -> bytes:
        try:
            return self._file.read(size_bytes)
        except Exception as error:
            self.failure = error
            raise


class _Sized:
    """Pieces whose sum is known; so they are sent with a ``Content-Length``."""

    def __init__(self, pieces: Iterator[bytes], size_bytes: int) -> None:
        self._pieces = pieces
        self._size_bytes = size_bytes

    def __len__(self) -> int:
        return self._size_bytes

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

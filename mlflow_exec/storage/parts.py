"""Large objects are sent and read in parts, some at a time, each again where it is lost."""

from __future__ import annotations

import logging
import re
import time
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from mlflow_exec.clients.pauses import Pauses
from mlflow_exec.errors import ConflictError, NotFoundError, RejectedError, UnreachableError
from mlflow_exec.storage.base import PIECE_BYTES
from mlflow_exec.storage.budget import Budget, Share
from mlflow_exec.storage.kept import Object
from mlflow_exec.storage.sent import Sent

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
PART_BYTES = 8 * 1024 * 1024
"""So much is sent at a time."""
_READ_BYTES = 2 * 1024 * 1024
FREE_BYTES = PIECE_BYTES
"""So much of each file is in no budget: small ones do not wait, and reading always goes on."""
# Apart, so that what reads one bucket and sends it to another does not wait for itself.
SENDING = Budget(8 * PART_BYTES)
READING = Budget(4 * PART_BYTES)
_IN_FLIGHT = 4
_READ_AT_ONCE = 8
_TRIES = 5
_FAILING_S = 60.0


class Parts:
    """The memory of parts that are sent, used again: freed, it would stay with each thread."""

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def fill(self, sent: Sent, begin: bytes = b"") -> bytes:
        """Return the next part, of `PART_BYTES` but for the last.

        Args:
            sent: Where it is read from.
            begin: What was read of it already.
        """
        try:
            part = self._free.pop()
        except IndexError:
            part = bytearray(PART_BYTES)
        at, piece = 0, begin or sent.take(PIECE_BYTES)
        while piece:
            part[at : at + len(piece)] = piece
            at += len(piece)
            piece = sent.take(min(PIECE_BYTES, PART_BYTES - at))
        if at == PART_BYTES:
            return cast(bytes, part)  # which reads as they do; a copy would be another part
        self._free.append(part)
        return bytes(memoryview(part)[:at])

    def give_back_after(self, sent: Future[None] | None, part: bytes, share: Share) -> None:
        """Let others have a part and its share once it has arrived."""

        def give_back(_: Any = None) -> None:
            if isinstance(part, bytearray):
                self._free.append(part)
            share.give_back()
            if SENDING.is_free():
                self._free.clear()

        if sent is None:
            give_back()
        else:
            sent.add_done_callback(give_back)


PARTS = Parts()


class Upload(ABC):
    """An object that is being sent in parts; nobody sees it before `commit`."""

    @abstractmethod
    def write(self, part: bytes) -> Future[None] | None:
        """Send the next part, of `PART_BYTES` but for the last.

        Returns:
            What is done once it has arrived; None if it has.
        """

    @abstractmethod
    def commit(self) -> str | None:
        """Make the object of all parts, once they have arrived.

        Returns:
            Its version, see `Object`, where the system tells it.
        """

    @abstractmethod
    def abort(self) -> None:
        """Remove the parts."""


class PartsUpload(Upload):
    """An upload whose parts are sent by threads, each again where no answer comes."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(_IN_FLIGHT, "mlflow-exec-send")
        self._pending: deque[Future[None]] = deque()
        self._sent: dict[int, Any] = {}
        self._number = 0

    @abstractmethod
    def send(self, number: int, part: bytes) -> Any:
        """Send a part, counted from 1, and return what `finish` needs of it."""

    @abstractmethod
    def finish(self, sent: Sequence[Any]) -> str | None:
        """Make the object of what `send` has returned, in order; return what `commit` does."""

    @abstractmethod
    def remove(self) -> None:
        """Remove the parts."""

    def write(self, part: bytes) -> Future[None]:
        """See `Upload`."""
        if len(self._pending) == _IN_FLIGHT:
            self._pending.popleft().result()
        self._number += 1
        self._pending.append(self._pool.submit(self._send, self._number, part))
        return self._pending[-1]

    def commit(self) -> str | None:
        """See `Upload`."""
        for sent in self._pending:
            sent.result()
        self._pool.shutdown()
        parts = [self._sent[number] for number in sorted(self._sent)]
        return again(lambda: self.finish(parts))

    def abort(self) -> None:
        """See `Upload`."""
        self._pool.shutdown(cancel_futures=True)
        self.remove()

    def _send(self, number: int, part: bytes) -> None:
        self._sent[number] = again(lambda: self.send(number, part))


MARK = "mlflow-exec-upload"
"""What the metadata of an object calls the mark of the upload that it is of."""


def new_mark() -> str:
    """Return what marks one upload; see `Begun`."""
    return uuid.uuid4().hex


def mark_in(metadata: Mapping[str, Any] | None) -> str:
    """Return the mark in the metadata of an object, whose names come in upper case, too."""
    return next((str(v) for name, v in (metadata or {}).items() if name.lower() == MARK), "")


@dataclass(frozen=True)
class Begun:
    """An upload in parts that a system has begun; as a text, both are told apart again.

    Attributes:
        id: What the system calls it, as long as it is neither ended nor removed.
        mark: What stands in the metadata of its object from the beginning, so that it is known
            whose that is when the system knows no more of the upload.
    """

    id: str
    mark: str = ""

    @classmethod
    def parse(cls, text: str) -> Begun:
        """Return what was made a text; one that was not has no mark."""
        found = re.fullmatch(r"([0-9a-f]{32})\.(.+)", text)
        return cls(found[2], found[1]) if found else cls(text)

    def __str__(self) -> str:
        return f"{self.mark}.{self.id}"


def ended(begun: Begun, end: Callable[[], str], find: Callable[[], Object | None]) -> str:
    """Make the object of an upload, or see that it is made: an answer that said so may be lost.

    Args:
        begun: The upload.
        end: Asks for it, and returns the version of the object.
        find: Returns what is kept under its key.
    """
    try:
        return end()
    except (ConflictError, NotFoundError, RejectedError):
        found = find() if begun.mark else None
        if found is None or found.mark != begun.mark:
            raise
        return found.version


def read_in_parts(
    read: Callable[[int, int], bytes], start: int, size_bytes: int
) -> Iterator[bytes]:
    """Yield an object from a byte on, in small pieces.

    Args:
        read: Returns a part by its first byte and its size; called in threads.
        start: The first byte.
        size_bytes: Of the whole object.
    """
    pending = deque[tuple[Future[bytes], Share]]()
    with ThreadPoolExecutor(_READ_AT_ONCE, "mlflow-exec-read") as pool:
        try:
            while pending or start < size_bytes:
                next_bytes = min(_READ_BYTES, size_bytes - start)
                share = None
                if next_bytes and len(pending) < _READ_AT_ONCE:
                    share = READING.take_now(next_bytes)
                if share is not None:
                    pending.append((pool.submit(read, start, next_bytes), share))
                    start += next_bytes
                elif pending:
                    yield from _pieces(*pending.popleft())
                else:  # others hold all memory that there is, or who reads this does
                    next_bytes = min(FREE_BYTES, next_bytes)
                    yield read(start, next_bytes)
                    start += next_bytes
        finally:
            for left, share in pending:
                left.cancel()
                left.add_done_callback(share.give_back)


def _pieces(part: Future[bytes], share: Share) -> Iterator[bytes]:
    """Yield a part in pieces: who has one does not hold the part, which is given back then."""
    with share:
        content = part.result()
        del part
        for start in range(0, len(content), PIECE_BYTES):
            yield content[start : start + PIECE_BYTES]
        del content


def again(action: Callable[[], T]) -> T:
    """Do what is safe to repeat, some times where no answer comes, but not for long."""
    pauses, end_s = Pauses(), 0.0
    for left in reversed(range(_TRIES)):
        try:
            return action()
        except UnreachableError as error:
            end_s = end_s or time.monotonic() + _FAILING_S
            if not left or time.monotonic() > end_s:
                raise
            _LOG.info("%s; trying again", error)
        time.sleep(pauses.next_s())
    raise AssertionError("not reached")

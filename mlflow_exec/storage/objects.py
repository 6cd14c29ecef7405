"""Artifacts in a bucket of objects, which are there as a whole or not at all.

A bucket has no folders: what looks like one are the names of what is in it, so a file and a folder
of one name do not exclude each other there.
"""

from __future__ import annotations

import hashlib
import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, Protocol, TypeVar

from mlflow_exec.clients.pauses import Pauses, repeated
from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    ClusterError,
    LocationError,
    UnreachableError,
)
from mlflow_exec.storage.base import READ_BACK, Entry, Store, explained, is_on, valid_names
from mlflow_exec.storage.sent import Sent
from mlflow_exec.uris import Location, artifact_names

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
PART_BYTES = 8 * 1024 * 1024
"""So much is sent, or asked for, at a time."""
_IN_FLIGHT = 4
_TRIES = 5


class Hasher(Protocol):
    """Of hashlib's kind."""

    def update(self, piece: bytes, /) -> None:
        """Take a piece."""

    def hexdigest(self) -> str:
        """Return the hash of all pieces."""


@dataclass(frozen=True)
class Object:
    """What is kept under a key.

    Attributes:
        size_bytes: Its size.
        version: Differs once it is replaced.
        checksum: What `hasher` makes of its content; empty where the system tells none.
        hasher: Makes what hashes as the system does.
    """

    size_bytes: int
    version: str = ""
    checksum: str = ""
    hasher: Callable[[], Hasher] = field(default=hashlib.sha256, compare=False)

    def is_content(self, content: bytes) -> bool:
        """Whether that is what is kept, as far as the system tells."""
        if not self.checksum:
            return True
        hasher = self.hasher()
        hasher.update(content)
        return hasher.hexdigest() == self.checksum


class Upload(ABC):
    """An object that is being sent in parts; nobody sees it before `commit`."""

    @abstractmethod
    def write(self, part: bytes) -> None:
        """Send the next part, of `PART_BYTES` but for the last; it may still be on its way."""

    @abstractmethod
    def commit(self) -> None:
        """Make the object of all parts, once they have arrived."""

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
    def finish(self, sent: Sequence[Any]) -> None:
        """Make the object of what `send` has returned, in order."""

    @abstractmethod
    def remove(self) -> None:
        """Remove the parts."""

    def write(self, part: bytes) -> None:
        """See `Upload`."""
        if len(self._pending) == _IN_FLIGHT:
            self._pending.popleft().result()
        self._number += 1
        self._pending.append(self._pool.submit(self._send, self._number, part))

    def commit(self) -> None:
        """See `Upload`."""
        for sent in self._pending:
            sent.result()
        self._pool.shutdown()
        self.finish([self._sent[number] for number in sorted(self._sent)])

    def abort(self) -> None:
        """See `Upload`."""
        self._pool.shutdown(cancel_futures=True)
        self.remove()

    def _send(self, number: int, part: bytes) -> None:
        self._sent[number] = again(lambda: self.send(number, part))


class Objects(ABC):
    """One bucket. Thread-safe; keys are names joined by ``/``, not encoded.

    Raises:
        UnreachableError: From every method: no answer came; trying again can help.
        ClusterError: The system refuses it, for another reason that the message tells.
    """

    @abstractmethod
    def put(self, key: str, content: bytes) -> None:
        """Keep a small object, in place of another one; the system compares a checksum."""

    @abstractmethod
    def upload(self, key: str) -> Upload:
        """Begin a large one."""

    @abstractmethod
    def read(self, key: str, start: int, end: int) -> bytes:
        """Return a range of an object; less than that only at its end.

        Raises:
            NotFoundError: There is none.
        """

    @abstractmethod
    def find(self, key: str) -> Object | None:
        """Return what is kept under a key; None where there is nothing."""

    @abstractmethod
    def list(self, prefix: str) -> Iterator[tuple[str, int | None]]:
        """Yield names directly below a prefix, with their sizes; None for those of folders.

        Args:
            prefix: Empty, or ends with ``/``.
        """

    @abstractmethod
    def keys(self, prefix: str) -> Iterator[str]:
        """Yield all keys that begin with a prefix."""

    @abstractmethod
    def remove(self, keys: Iterable[str]) -> None:
        """Remove objects; those that are not there are fine."""

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Give back connections."""


class ObjectStore(Store):
    """Files as objects, whose keys are their paths."""

    def __init__(self, location: Location, credential: Credential, objects: Objects) -> None:
        """See `Store`; asks nothing."""
        super().__init__(location, credential)
        self._objects = objects
        self._root = location.split()[1]

    def put(self, path: str, content: BinaryIO) -> None:
        """See `Store`."""
        key = self._key(path)
        if not path:
            raise LocationError(f"{self.location}: a name is needed for a file")
        sent = Sent(content)
        with explained(self.location):
            try:
                first = sent.take(PART_BYTES)
                if len(first) < PART_BYTES:
                    repeated(lambda: self._objects.put(key, first))
                else:
                    self._upload(key, first, sent)
            finally:
                sent.raise_failure()
            if is_on(READ_BACK):
                self._read_back(key, path, sent)

    def read(self, path: str) -> Iterator[bytes]:
        """See `Store`."""
        key = self._key(path)
        with explained(self.location):
            for _ in range(_TRIES):
                found = repeated(lambda: self._objects.find(key)) if path else None
                if found is None:
                    raise ArtifactNotFoundError(f"{self.location}: there is no file {path!r}")
                if found.size_bytes > PART_BYTES:
                    yield from self._in_parts(key, path, found)
                    return
                if not found.size_bytes:
                    return
                # One byte more than there is, to notice what has been replaced in between.
                end = found.size_bytes + 1
                content = repeated(partial(self._objects.read, key, 0, end))
                if len(content) == found.size_bytes and found.is_content(content):
                    yield content
                    return
        raise ArtifactError(
            f"{self.location}: {path!r} is replaced again and again, or comes as what it is not"
        )

    def entries(self, path: str) -> list[Entry]:
        """See `Store`."""
        prefix = self._prefix(path)
        with explained(self.location):
            found = repeated(lambda: list(self._objects.list(prefix)))
        files = {name: size for name, size in found if size is not None and name}
        folders = {name for name, size in found if size is None}
        below = f"{path}/" if path else ""
        return sorted(
            [
                *(Entry(below + n, False, files[n]) for n in valid_names(self.location, files)),
                *(Entry(below + n, True) for n in valid_names(self.location, folders)),
            ],
            key=lambda entry: (entry.path, entry.is_folder),
        )

    def delete(self, path: str) -> None:
        """See `Store`."""
        key, prefix = self._key(path), self._prefix(path)
        with explained(self.location):
            keys = repeated(lambda: list(self._objects.keys(prefix)))
            repeated(lambda: self._objects.remove([*([key] if path else []), *keys]))

    def close(self) -> None:
        """See `Store`."""
        self._objects.close()

    # -- parts --------------------------------------------------------------------------------

    def _key(self, path: str) -> str:
        return "/".join((*self._root, *artifact_names(path)))

    def _prefix(self, path: str) -> str:
        key = self._key(path)
        return f"{key}/" if key else ""

    def _upload(self, key: str, first: bytes, sent: Sent) -> None:
        upload = repeated(lambda: self._objects.upload(key))
        try:
            part = first
            while part:
                upload.write(part)
                part = sent.take(PART_BYTES)
            upload.commit()
        except BaseException:
            with suppress(ClusterError):
                upload.abort()
            raise
        found = repeated(lambda: self._objects.find(key))
        if found is not None and found.size_bytes != sent.size_bytes:
            raise ArtifactError(
                f"{self.location}: {found.size_bytes} of {sent.size_bytes} bytes are there, of "
                f"this or of another upload"
            )

    def _read_back(self, key: str, path: str, sent: Sent) -> None:
        digest = hashlib.sha256()
        for piece in self.read(path):
            digest.update(piece)
        if digest.hexdigest() != sent.sha256():
            raise ArtifactError(f"{self.location}: {path!r}: what is there is not what was sent")

    def _in_parts(self, key: str, path: str, found: Object) -> Iterator[bytes]:
        """Yield a large object, some parts at a time; each is asked for again where it is lost."""
        hasher = found.hasher() if found.checksum else None
        with ThreadPoolExecutor(_IN_FLIGHT, "mlflow-exec-read") as pool:
            pending: deque[Future[bytes]] = deque()
            starts = iter(range(0, found.size_bytes, PART_BYTES))
            try:
                while True:
                    for start in starts:
                        end = min(start + PART_BYTES, found.size_bytes)
                        pending.append(pool.submit(self._part, key, start, end))
                        if len(pending) == _IN_FLIGHT:
                            break
                    if not pending:
                        break
                    piece = pending.popleft().result()
                    if hasher is not None:
                        hasher.update(piece)
                    yield piece
            finally:
                for left in pending:
                    left.cancel()
        if repeated(lambda: self._objects.find(key)) != found:
            raise ArtifactError(f"{self.location}: {path!r} was replaced while it was read")
        if hasher is not None and hasher.hexdigest() != found.checksum:
            raise ArtifactError(f"{self.location}: {path!r}: what came is not what is kept")

    def _part(self, key: str, start: int, end: int) -> bytes:
        return again(lambda: self._whole(key, start, end))

    def _whole(self, key: str, start: int, end: int) -> bytes:
        part = self._objects.read(key, start, end)
        if len(part) != end - start:
            raise UnreachableError(f"{key}: {len(part)} of {end - start} bytes came")
        return part


def again(action: Callable[[], T]) -> T:
    """Do what is safe to repeat, some times where no answer comes."""
    pauses = Pauses()
    for left in reversed(range(_TRIES)):
        try:
            return action()
        except UnreachableError as error:
            if not left:
                raise
            _LOG.info("%s; trying again", error)
        time.sleep(pauses.next_s())
    raise AssertionError("not reached")

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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, BinaryIO, TypeVar

from mlflow_exec.clients.pauses import Pauses, repeated
from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    ClusterError,
    LocationError,
    NotFoundError,
    UnreachableError,
)
from mlflow_exec.storage.base import Entry, Store, explained, valid_names
from mlflow_exec.storage.budget import Budget
from mlflow_exec.storage.kept import Object
from mlflow_exec.storage.sent import Sent
from mlflow_exec.uris import Location, artifact_names

T = TypeVar("T")
_LOG = logging.getLogger(__name__)
PART_BYTES = 8 * 1024 * 1024
"""So much is sent, or asked for, at a time."""
_IN_FLIGHT = 4
_TRIES = 5
_CHANGED = "what came is not what is kept"
_BUDGET = Budget(8 * PART_BYTES)


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
        _BUDGET.take(len(part))
        sent = self._pool.submit(self._send, self._number, part)
        sent.add_done_callback(lambda _: _BUDGET.give_back(len(part)))
        self._pending.append(sent)

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
    def read(self, key: str, start: int, end: int) -> tuple[bytes, Object]:
        """Return a range of an object, less only at its end, and what that object is as a whole.

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


class SignedUrls(ABC):
    """A bucket that lets others read and write single objects by URLs, which need no credential.

    Raises:
        ClusterError: As with `Objects`.
    """

    @abstractmethod
    def get_url(self, key: str, life_s: int) -> str:
        """Return where an object can be read for so long."""

    @abstractmethod
    def put_url(self, key: str, life_s: int) -> str:
        """Return where an object can be put for so long."""

    @abstractmethod
    def begin_parts(self, key: str) -> str:
        """Begin an upload in parts, and return its name."""

    @abstractmethod
    def part_url(self, key: str, upload: str, number: int, life_s: int) -> str:
        """Return where a part, counted from 1, can be put for so long."""

    @abstractmethod
    def finish_parts(self, key: str, upload: str, etags: Mapping[int, str]) -> None:
        """Make the object of parts, by their numbers and what the bucket has called them."""

    @abstractmethod
    def abort_parts(self, key: str, upload: str) -> None:
        """Remove the parts."""


class ObjectStore(Store):
    """Files as objects, whose keys are their paths.

    Attributes:
        urls: What signs URLs of the same bucket; None where it cannot.
    """

    def __init__(self, location: Location, credential: Credential, objects: Objects) -> None:
        """See `Store`; asks nothing."""
        super().__init__(location, credential)
        self._objects = objects
        self._root = location.split()[1]
        self.urls = objects if isinstance(objects, SignedUrls) else None

    def put(self, path: str, content: BinaryIO) -> None:
        """See `Store`."""
        key = self.file_key(path)
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
            if sent.sha256 is not None:
                self._read_back(key, path, sent)

    def read(self, path: str) -> Iterator[bytes]:
        """See `Store`."""
        key, first = self.key(path), None
        with explained(self.location):
            if path:
                with suppress(NotFoundError):
                    first = again(lambda: self._first(key))
            if first is None:
                raise ArtifactNotFoundError(f"{self.location}: there is no file {path!r}")
            content, found = first
            if len(content) != min(PART_BYTES, found.size_bytes):
                raise ArtifactError(f"{self.location}: {len(content)} bytes of {path!r} came")
            yield content
            if found.size_bytes > PART_BYTES:
                further = self._further(key, path, found)
                yield from self._compared(path, found, content, further)

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
        key, prefix = self.key(path), self._prefix(path)
        with explained(self.location):
            keys = repeated(lambda: list(self._objects.keys(prefix)))
            repeated(lambda: self._objects.remove([*([key] if path else []), *keys]))

    def close(self) -> None:
        """See `Store`."""
        self._objects.close()

    def size_bytes(self, path: str) -> int:
        """Return the size of a file.

        Raises:
            ArtifactNotFoundError: There is no such file.
        """
        key = self.key(path)
        with explained(self.location):
            found = repeated(lambda: self._objects.find(key)) if path else None
        if found is None:
            raise ArtifactNotFoundError(f"{self.location}: there is no file {path!r}")
        return found.size_bytes

    def file_key(self, path: str) -> str:
        """Return the key of a file.

        Raises:
            LocationError: It is none of this store, or has no name.
        """
        if not path:
            raise LocationError(f"{self.location}: a name is needed for a file")
        return self.key(path)

    def key(self, path: str) -> str:
        """Return the key of a path."""
        return "/".join((*self._root, *artifact_names(path)))

    # -- parts --------------------------------------------------------------------------------

    def _prefix(self, path: str) -> str:
        key = self.key(path)
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
        if digest.hexdigest() != sent.sha256:
            raise ArtifactError(f"{self.location}: {path!r}: what is there is not what was sent")

    def _first(self, key: str) -> tuple[bytes, Object]:
        content, found = self._objects.read(key, 0, PART_BYTES)
        if len(content) == found.size_bytes and not found.is_content(content):
            raise UnreachableError(f"{key}: {_CHANGED}")
        return content, found

    def _compared(
        self, path: str, found: Object, first: bytes, further: Iterator[bytes]
    ) -> Iterator[bytes]:
        """Yield what follows the first part, and fail at its end if it is not what is kept."""
        if not found.checksum:
            yield from further
            return
        hasher = found.hasher()
        hasher.update(first)
        for piece in further:
            hasher.update(piece)
            yield piece
        if hasher.hexdigest() != found.checksum:
            raise ArtifactError(f"{self.location}: {path!r}: {_CHANGED}")

    def _further(self, key: str, path: str, found: Object) -> Iterator[bytes]:
        """Yield what follows the first part, some parts at a time, each again where it is lost."""

        def part(start: int) -> bytes:
            end = min(start + PART_BYTES, found.size_bytes)
            content, now = again(lambda: self._objects.read(key, start, end))
            if now != found or len(content) != end - start:
                raise ArtifactError(f"{self.location}: {path!r} was replaced while it was read")
            return content

        with ThreadPoolExecutor(_IN_FLIGHT, "mlflow-exec-read") as pool:
            pending: deque[Future[bytes]] = deque()
            try:
                for start in range(PART_BYTES, found.size_bytes, PART_BYTES):
                    while pending and (
                        len(pending) == _IN_FLIGHT or not _BUDGET.take_now(PART_BYTES)
                    ):
                        yield _given_back(pending)
                    if not pending:
                        _BUDGET.take(PART_BYTES)
                    pending.append(pool.submit(part, start))
                while pending:
                    yield _given_back(pending)
            finally:
                for left in pending:
                    left.cancel()
                    _BUDGET.give_back(PART_BYTES)


def _given_back(pending: deque[Future[bytes]]) -> bytes:
    try:
        return pending[0].result()
    finally:
        pending.popleft()
        _BUDGET.give_back(PART_BYTES)


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

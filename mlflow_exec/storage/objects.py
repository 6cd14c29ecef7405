"""Artifacts in a bucket of objects, which are there as a whole or not at all.

A bucket has no folders: what looks like one are the names of what is in it, so a file and a folder
of one name do not exclude each other there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from typing import Any, BinaryIO

from mlflow_exec.clients.pauses import repeated
from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    ClusterError,
    LocationError,
    NotFoundError,
    UnreachableError,
)
from mlflow_exec.storage.base import PIECE_BYTES, Entry, Store, explained, valid_names
from mlflow_exec.storage.budget import Share
from mlflow_exec.storage.kept import Object
from mlflow_exec.storage.parts import (
    FREE_BYTES,
    PART_BYTES,
    PARTS,
    READING,
    SENDING,
    Upload,
    again,
    read_in_parts,
)
from mlflow_exec.storage.sent import Sent
from mlflow_exec.storage.shared import OfProcess
from mlflow_exec.storage.signed_urls import SignedUrls
from mlflow_exec.uris import Location, artifact_names

_CHANGED = "what came is not what is kept"
_REMOVED_AT_ONCE = 16


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
        """Remove objects; those that are not there are fine. See `remove_each`."""

    @property
    def urls(self) -> SignedUrls | None:
        """What signs URLs of what is in it; None where nothing can."""
        return self if isinstance(self, SignedUrls) else None

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Give back connections."""


def remove_each(remove: Callable[[str], None], keys: Iterable[str]) -> None:
    """Remove objects of a system that takes one at a time.

    Args:
        remove: Removes one; an object that is not there is fine.
        keys: All of them.
    """
    with ThreadPoolExecutor(_REMOVED_AT_ONCE, "mlflow-exec-remove") as pool:
        for removed in [pool.submit(remove, key) for key in keys]:
            removed.result()


class ObjectStore(Store):
    """Files as objects, whose keys are their paths."""

    def __init__(
        self, location: Location, credential: Credential, objects: Callable[[], Objects]
    ) -> None:
        """See `Store`; asks nothing.

        Args:
            location: Of its root.
            credential: What the bucket is reached with.
            objects: Returns the bucket; called again after a fork, as connections do not survive
                one.

        Raises:
            LocationError: There is a user in the URI; a bucket has none.
        """
        if location.user or location.password is not None:
            raise LocationError(
                f"{location}: what stands before '@' is not used for a bucket; write "
                f"{location.scheme.example}"
            )
        super().__init__(location, credential)
        self._root = location.split()[1]
        self._of_process = OfProcess(objects)

    @property
    def _objects(self) -> Objects:
        return self._of_process.get()

    @property
    def urls(self) -> SignedUrls | None:
        """What signs URLs of the same bucket; None where nothing can."""
        return self._objects.urls

    def put(self, path: str, content: BinaryIO) -> None:
        """See `Store`."""
        key = self.file_key(path)
        sent = Sent(content)
        with explained(self.location):
            try:
                first = sent.take(FREE_BYTES)
                if len(first) < FREE_BYTES:
                    repeated(lambda: self._objects.put(key, first))
                else:
                    self._send(key, [first], sent)
            finally:
                sent.raise_failure()
            if sent.is_read_back:
                sent.compare(self.read(path), f"{self.location}: {path!r}")

    def read(self, path: str) -> Iterator[bytes]:
        """See `Store`."""
        key, first = self.key(path), None
        with explained(self.location):
            if path:
                with suppress(NotFoundError):
                    first = self._begin(key, path)
            if first is None:
                raise ArtifactNotFoundError(f"{self.location}: there is no file {path!r}")
            content, found, share = first
            del first
            compared = None
            if found.checksum and len(content) < found.size_bytes:  # else it is compared already
                compared = found.hasher()
                compared.update(content)
            with share or nullcontext():
                for start in range(0, len(content), PIECE_BYTES):
                    yield content[start : start + PIECE_BYTES]
            start = len(content)
            del content
            if start < found.size_bytes:
                further = self._further(key, path, found, start)
                yield from self._compared(path, found, compared, further)

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

    def _send(self, key: str, first: list[bytes], sent: Sent) -> None:
        """Send what is large, each part of it once there is memory for it."""
        share, upload = SENDING.take(_next_bytes(sent)), None
        try:
            part = PARTS.fill(sent, first.pop())
            if len(part) < PART_BYTES:
                repeated(lambda: self._objects.put(key, part))
                return
            upload = repeated(lambda: self._objects.upload(key))
            while part:
                PARTS.give_back_after(upload.write(part), part, share)
                share = SENDING.take(_next_bytes(sent))
                part = PARTS.fill(sent)
            share.give_back()
            version = upload.commit()
        except BaseException:
            if upload is not None:
                with suppress(ClusterError):
                    upload.abort()
            raise
        finally:
            share.give_back()
        found = repeated(lambda: self._objects.find(key)) if version else None
        # One of another version is of another upload.
        if found and found.version == version and found.size_bytes != sent.size_bytes:
            raise ArtifactError(
                f"{self.location}: {found.size_bytes} of {sent.size_bytes} bytes are there"
            )

    def _first(self, key: str, end: int) -> tuple[bytes, Object]:
        content, found = self._objects.read(key, 0, end)
        if len(content) == found.size_bytes and not found.is_content(content):
            raise UnreachableError(f"{key}: {_CHANGED}")
        return content, found

    def _compared(
        self, path: str, found: Object, hasher: Any, further: Iterator[bytes]
    ) -> Iterator[bytes]:
        """Yield what follows the beginning, and fail at its end if it is not what is kept."""
        for piece in further:
            if hasher is not None:
                hasher.update(piece)
            yield piece
        if hasher is not None and hasher.hexdigest() != found.checksum:
            raise ArtifactError(f"{self.location}: {path!r}: {_CHANGED}")

    def _begin(self, key: str, path: str) -> tuple[bytes, Object, Share | None]:
        """Return the beginning of a file: all of it up to one part, so that it is of one version.

        Its share of the memory is taken where there is one; nobody waits for it, who may hold
        what is missing.
        """
        share, asked_bytes = None, FREE_BYTES
        content, found = again(lambda: self._first(key, FREE_BYTES))
        if len(content) < found.size_bytes <= PART_BYTES:
            share, asked_bytes = READING.take_now(found.size_bytes), PART_BYTES
            try:
                content, found = again(lambda: self._first(key, PART_BYTES))
            except BaseException:
                if share is not None:
                    share.give_back()
                raise
        if len(content) != min(asked_bytes, found.size_bytes):
            raise ArtifactError(f"{self.location}: {len(content)} bytes of {path!r} came")
        return content, found, share

    def _further(self, key: str, path: str, found: Object, start: int) -> Iterator[bytes]:
        def part(start: int, size_bytes: int) -> bytes:
            end = start + size_bytes
            content, now = again(lambda: self._objects.read(key, start, end))
            if now != found or len(content) != size_bytes:
                raise ArtifactError(f"{self.location}: {path!r} was replaced while it was read")
            return content

        return read_in_parts(part, start, found.size_bytes)


def _next_bytes(sent: Sent) -> int:
    """Return how large the next part is at most."""
    if sent.length_bytes is None:
        return PART_BYTES
    return min(PART_BYTES, max(0, sent.length_bytes - sent.size_bytes))

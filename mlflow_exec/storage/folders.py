"""Artifacts in the folders of a file system that is far away.

A file is written under a name of its own at the store's root and renamed once it is whole, so
nobody sees half of it. Who is killed leaves such a part, which is not listed, and which the next
large upload to that root removes a day later, by the clock of that system.
"""

from __future__ import annotations

import itertools
import logging
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from mlflow_exec.clients import pauses as pauses_
from mlflow_exec.clients.pauses import Pauses, repeated
from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    ClusterError,
    ConflictError,
    LocationError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.storage.base import Entry, Store, explained, valid_names
from mlflow_exec.storage.sent import Sent
from mlflow_exec.storage.shared import OfProcess
from mlflow_exec.uris import Location, artifact_names

_LOG = logging.getLogger(__name__)
PART = ".mlflow-exec-part-"
"""What the names begin with of files that are not whole yet."""
_TRIES = 5
_ABANDONED_S = 24 * 3600.0
_LARGE_BYTES = 8 * 1024 * 1024
_COMPARED_BYTES = 64 * 1024


@dataclass(frozen=True)
class Status:
    """What stands at a path.

    Attributes:
        is_folder: Whether it is a folder.
        size_bytes: The size of a file.
        modified_s: When it was changed last, in seconds, by that system's clock.
        version: Differs once it is replaced; empty where the system tells no more than the time.
    """

    is_folder: bool
    size_bytes: int = 0
    modified_s: float = 0.0
    version: str = ""


def is_folder(status: Status | None, where: str) -> bool:
    """Whether a folder stands there; else nothing does.

    Raises:
        ConflictError: It is a file.
    """
    if status is not None and not status.is_folder:
        raise ConflictError(f"{where}: there is a file of that name")
    return status is not None


class Folders(ABC):
    """A file system that is far away. Thread-safe; paths are absolute.

    Raises:
        NotFoundError: From every method: there is no such file or folder.
        UnreachableError: No answer came: trying again can help.
        ClusterError: The system refuses it, for another reason that the message tells.
    """

    @abstractmethod
    def write(self, path: str, content: Sent) -> int:
        """Write a file of a new name into a folder that is there.

        Returns its size, as the system says it then. Nothing of the content is read before the
        system has taken the name.
        """

    @abstractmethod
    def read(self, path: str, start: int) -> tuple[Status, Iterator[bytes]]:
        """Open a file; return what it is, and what yields its content from a byte on, in pieces.

        Raises:
            NotFoundError: There is no file; a folder is none.
        """

    @abstractmethod
    def status(self, path: str) -> Status | None:
        """Return what stands there; None for nothing."""

    @abstractmethod
    def list(self, path: str) -> dict[str, Status]:
        """Return what stands in a folder, by its names; nothing of a file."""

    @abstractmethod
    def make_folder(self, path: str) -> None:
        """Make a folder, and those above it; one that is there is fine."""

    @abstractmethod
    def replace(self, old: str, new: str) -> None:
        """Rename a file, in place of another one, in one step; never in place of a folder."""

    @abstractmethod
    def remove_file(self, path: str) -> None:
        """Remove a file."""

    @abstractmethod
    def remove_folder(self, path: str) -> None:
        """Remove a folder with all that is in it."""

    def is_link(self, path: str) -> bool:
        """Whether it only names what stands elsewhere."""
        return False


class FolderStore(Store):
    """Files in folders, as their names say.

    Connections are those of all stores of the process, so closing one gives none back.
    """

    def __init__(
        self, location: Location, credential: Credential, folders: Callable[[], Folders]
    ) -> None:
        """See `Store`; asks nothing.

        Args:
            location: The root.
            credential: To sign in with.
            folders: Returns the file system, that of this process.
        """
        super().__init__(location, credential)
        self._of_process = OfProcess(folders)
        self._root = "".join(f"/{name}" for name in location.names)
        self._made: set[str] = set()

    @property
    def _folders(self) -> Folders:
        return self._of_process.get()

    def put(self, path: str, content: BinaryIO) -> None:
        """See `Store`."""
        target, part = self._at(path), f"{self._root}/{PART}{uuid.uuid4().hex}"
        if target == self._root:
            raise LocationError(f"{self.location}: a name is needed for a file")
        sent = Sent(content)
        try:
            with explained(self.location):
                self._send(part, sent)
                if sent.is_read_back:
                    opened = repeated(lambda: self._folders.read(part, 0))
                    again = self._read_on(part, path, *opened)
                    sent.compare(again, f"{self.location}: {path!r}")
                self._show(part, target)
        except BaseException:
            with suppress(ClusterError):
                self._folders.remove_file(part)
            sent.raise_failure()
            raise
        if sent.size_bytes >= _LARGE_BYTES:
            self._sweep(target)

    def read(self, path: str) -> Iterator[bytes]:
        """See `Store`."""
        file = self._at(path)
        with explained(self.location):
            try:
                opened = repeated(lambda: self._folders.read(file, 0))
            except NotFoundError as error:
                text = f"{self.location}: there is no file {path!r}"
                raise ArtifactNotFoundError(text) from error
            yield from self._read_on(file, path, *opened)

    def entries(self, path: str) -> list[Entry]:
        """See `Store`."""
        folder = self._at(path)
        try:
            with explained(self.location):
                found = repeated(lambda: self._folders.list(folder))
        except ArtifactNotFoundError:
            return []
        entries = []
        for name in valid_names(self.location, found):
            if name.startswith(PART):
                continue
            status = found[name]
            size_bytes = None if status.is_folder else status.size_bytes
            entries.append(Entry(f"{path}/{name}" if path else name, status.is_folder, size_bytes))
        return entries

    def delete(self, path: str) -> None:
        """See `Store`."""
        what = self._at(path)

        def remove() -> None:
            with suppress(NotFoundError):
                status = self._folders.status(what)
                if self._folders.is_link(what):
                    self._folders.remove_file(what)
                elif status is not None and status.is_folder:
                    self._folders.remove_folder(what)
                elif status is not None:
                    self._folders.remove_file(what)

        self._made.clear()
        with explained(self.location):
            repeated(remove)

    # -- parts --------------------------------------------------------------------------------

    def _at(self, path: str) -> str:
        return self._root + "".join(f"/{name}" for name in artifact_names(path))

    def _send(self, part: str, sent: Sent) -> None:
        """Write a part, from its beginning again where an answer is lost and that can be read."""

        def write() -> None:
            if not sent.rewind():
                raise RejectedError("a part of it was read, which cannot be read once more")
            found = self._folders.write(part, sent)
            sent.raise_failure()
            if found != sent.size_bytes:
                raise UnreachableError(f"{found} of {sent.size_bytes} bytes are there")

        pauses, end_s = Pauses(), None
        while True:
            try:
                self._in_its_folder(part, write)
                return
            except UnreachableError as error:
                sent.raise_failure()
                end_s = end_s or time.monotonic() + pauses_.PATIENCE_S
                if time.monotonic() > end_s or not sent.rewind():
                    raise
                _LOG.info("%s; trying again", error)
            time.sleep(pauses.next_s())

    def _in_its_folder(self, path: str, action: Callable[[], None]) -> None:
        """Do something in a folder, which is made where it is not there."""
        folder = path.rpartition("/")[0]
        for _ in range(_TRIES):
            if folder not in self._made:
                self._folders.make_folder(folder)
                self._made.add(folder)
            try:
                action()
                return
            except NotFoundError:
                if self._folders.status(folder) is not None:
                    raise
                self._made.discard(folder)  # somebody has removed it

    def _show(self, part: str, target: str) -> None:
        lost = False

        def replace() -> None:
            nonlocal lost
            try:
                self._folders.replace(part, target)
            except UnreachableError:
                lost = True
                raise
            except NotFoundError:
                if not lost or self._folders.status(part) is not None:
                    raise  # else a try whose answer was lost has done it

        repeated(lambda: self._in_its_folder(target, replace))

    def _read_on(
        self, file: str, path: str, status: Status, pieces: Iterator[bytes]
    ) -> Iterator[bytes]:
        """Yield a file's content; where the connection breaks, go on a little before that.

        What comes twice is compared: most systems tell of a file that was replaced no more than
        its size and the second of its change.
        """
        pauses, seen, left, last = Pauses(), 0, _TRIES, b""
        while True:
            try:
                for piece in pieces:
                    seen, left = seen + len(piece), _TRIES
                    if seen > status.size_bytes:
                        break
                    # Of both only what may be needed: a piece may be large.
                    last = (last + piece[-_COMPARED_BYTES:])[-_COMPARED_BYTES:]
                    yield piece
                if seen >= status.size_bytes:
                    break
                raise UnreachableError(f"{seen} of {status.size_bytes} bytes of {path!r} came")
            except UnreachableError as error:
                left -= 1
                if not left:
                    raise
                _LOG.info("%s; going on from there", error)
            time.sleep(pauses.next_s())
            now, pieces = repeated(partial(self._folders.read, file, seen - len(last)))
            rest = _after(last, pieces) if now == status else None
            if rest is None:
                raise ArtifactError(f"{self.location}: {path!r} was replaced while it was read")
            pieces = rest
        if seen != status.size_bytes:
            raise ArtifactError(f"{self.location}: {path!r} was changed while it was read")

    def _sweep(self, shown: str) -> None:
        """Remove the parts of who was killed a day ago, or earlier."""
        try:
            now = self._folders.status(shown)
            for name, status in self._folders.list(self._root).items():
                old = now is not None and now.modified_s - status.modified_s > _ABANDONED_S
                if name.startswith(PART) and old:
                    self._folders.remove_file(f"{self._root}/{name}")
        except ClusterError as error:
            _LOG.warning("%s: parts that are not whole were not removed: %s", self.location, error)


def _after(known: bytes, pieces: Iterator[bytes]) -> Iterator[bytes] | None:
    """Return what follows what is known; None where it begins with something else."""
    begun = b""
    while len(begun) < len(known):
        piece = next(pieces, b"")
        if not piece:
            raise UnreachableError(f"{len(begun)} of {len(known)} bytes came")
        begun += piece
    if not begun.startswith(known):
        return None
    return itertools.chain((begun[len(known) :],), pieces)

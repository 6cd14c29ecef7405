"""Artifacts in any file system of fsspec that renames: one row of `mlflow_exec.schemes` each.

Most of them have one connection, or say nothing of threads, so each action has one to itself.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from ftplib import Error, error_perm
from functools import partial
from queue import Empty, Queue
from typing import Any

import fsspec

from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConflictError,
    LocationError,
    MissingExtraError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.storage.base import PIECE_BYTES
from mlflow_exec.storage.folders import Folders, FolderStore, Status, is_folder
from mlflow_exec.storage.ftp_facts import (
    check_that_it_is_empty,
    facts_of,
    listed,
    prepared,
)
from mlflow_exec.storage.refusals import told_by
from mlflow_exec.storage.sent import Sent
from mlflow_exec.storage.shared import Connections
from mlflow_exec.uris import Location

_KEPT = 16
_TRIES = 10
_AHEAD = 2
_SENT_BYTES = 2 * 1024 * 1024
_MODIFIED = ("mtime", "modify", "LastModified", "last_modified", "modified", "updated_at")
_VERSION = ("ETag", "etag", "checksum", "content_hash", "unique")
_NOT_SIGNED_IN = ("530", "532")


class _GoneError(Exception):
    """Nobody reads any more what is fetched."""


_KINDS: tuple[tuple[type[BaseException], type[ClusterError]], ...] = (
    (FileNotFoundError, NotFoundError), (PermissionError, AccessDeniedError),
    (FileExistsError, ConflictError), (IsADirectoryError, ConflictError),
    (NotADirectoryError, ConflictError), (error_perm, RejectedError), (OSError, UnreachableError),
    (Error, UnreachableError), (EOFError, UnreachableError), (_GoneError, UnreachableError),
)  # fmt: skip


class FsspecFolders(Folders):
    """The files of one host, as one user."""

    def __init__(self, location: Location, credential: Credential) -> None:
        """Keep what is needed to sign in; asks nothing.

        Raises:
            MissingExtraError: What fsspec needs for this protocol is not installed.
            LocationError: It moves files by copying them, and others would see half of one.
        """
        protocol = location.scheme.name.partition("+")[2]
        try:
            self._kind: Any = fsspec.get_filesystem_class(protocol)
        except ImportError as error:
            raise MissingExtraError(
                f"{location.scheme.extra}: {error}; install it with: pip install "
                f"'mlflow-exec[{location.scheme.extra}]'"
            ) from error
        if self._kind.mv is fsspec.AbstractFileSystem.mv:
            raise LocationError(
                f"{location}: fsspec's {self._kind.__name__} moves a file by copying it, so others "
                f"would see half of it; use a file system that renames"
            )
        self._where = f"{location.scheme.title} {location.host}:{location.reached_port}"
        self._location = location
        self._credential = credential.of_user(location.user)
        self._lock = threading.Lock()
        self._free: list[Any] = []

    def write(self, path: str, content: Sent) -> int:
        """See `Folders`."""
        with self._into(path) as files:
            if content.length_bytes is None:  # it can be read once: is there a folder for it?
                files.open(path, "wb").close()
            file = files.open(path, "wb", block_size=_SENT_BYTES)
            try:
                for piece in content.pieces():
                    file.write(piece)
            except BaseException:
                with suppress(Exception):
                    file.close()
                raise
            file.close()
        status = self.status(path)
        if status is None:
            raise RejectedError(
                f"{self._where}{path}: it was written and is not listed; does the server hide what "
                f"begins with a dot? (vsftpd shows it with force_dot_files=YES)"
            )
        return status.size_bytes

    def read(self, path: str, start: int) -> tuple[Status, Iterator[bytes]]:
        """See `Folders`."""
        for _ in range(_TRIES):
            status = self.status(path)
            if status is None or status.is_folder:
                raise NotFoundError(f"{self._where}{path}: there is no such file")
            pieces = _flowing(partial(self._fetch, path), start)
            try:
                first = next(pieces, b"")
                if self.status(path) == status:  # so it is of what was opened
                    return status, itertools.chain((first,), pieces)
            except RejectedError:
                if self.status(path) is not None:  # else it was removed after that was asked
                    raise
            pieces.close()
        raise ConflictError(f"{self._where}{path}: it is replaced all the time")

    def _fetch(self, path: str, sink: _Sink) -> None:
        with self._files(path) as files:
            files.get_file(path, sink)

    def status(self, path: str) -> Status | None:
        """See `Folders`."""
        with suppress(NotFoundError), self._files(path) as files:
            at = path or "/"
            return _status(facts_of(files.ftp, at) if files.knows_facts else files.info(at))
        return None

    def list(self, path: str) -> dict[str, Status]:
        """See `Folders`."""
        status = self.status(path)  # of a file, too, something is listed
        if status is None:
            raise NotFoundError(f"{self._where}{path}: there is no such folder")
        if not status.is_folder:
            return {}
        with self._files(path) as files:
            if files.knows_facts:
                found = listed(files.ftp, path or "/")
            else:
                entries = files.ls(path or "/", detail=True)
                if not entries:
                    check_that_it_is_empty(files, path or "/")
                found = {e["name"].rstrip("/").rpartition("/")[2]: e for e in entries}
        return {name: _status(entry) for name, entry in found.items()}

    def make_folder(self, path: str) -> None:
        """See `Folders`."""
        try:
            self._make(path)
        except UnreachableError:
            raise
        except ClusterError:  # it is there, or one above it is not: from the root on, one is asked
            at = ""
            for name in path.split("/")[1:]:
                at += f"/{name}"
                if not self._is_folder(at):
                    self._make_now(at)

    def _make(self, path: str) -> None:
        if path:
            with self._files(path) as files:
                files.mkdir(path, create_parents=False)

    def _make_now(self, path: str) -> None:
        try:
            self._make(path)
        except ClusterError:
            if not self._is_folder(path):  # else others have made it at the same moment
                raise

    def _is_folder(self, path: str) -> bool:
        return is_folder(self.status(path), f"{self._where}{path}")

    def replace(self, old: str, new: str) -> None:
        """See `Folders`."""
        status = self.status(new)
        if status is not None and status.is_folder:
            raise ConflictError(f"{self._where}{new}: there is a folder of that name")
        try:
            with self._into(new) as files:
                files.mv(old, new)
        except RejectedError as error:
            if self.status(old) is None:
                raise NotFoundError(str(error)) from error
            raise

    def remove_file(self, path: str) -> None:
        """See `Folders`."""
        self._remove(path, "rm_file")

    def remove_folder(self, path: str) -> None:
        """See `Folders`: not by fsspec, which takes what looks like a pattern for one."""
        for name, status in self.list(path).items():
            remove = self.remove_folder if status.is_folder else self.remove_file
            with suppress(NotFoundError):
                remove(f"{path}/{name}")
        self._remove(path, "rmdir")

    def _remove(self, path: str, method: str) -> None:
        try:
            with self._files(path) as files:
                getattr(files, method)(path)
        except RejectedError as error:
            if self.status(path) is None:
                raise NotFoundError(str(error)) from error
            raise

    @contextmanager
    def _into(self, path: str) -> Iterator[Any]:
        """Do what needs the folder of a path; FTP has one code for all that it refuses."""
        try:
            with self._files(path) as files:
                yield files
        except RejectedError as error:
            if self.status(path.rpartition("/")[0]) is None:
                raise NotFoundError(str(error)) from error
            raise

    # -- connections ------------------------------------------------------------------------

    @contextmanager
    def _files(self, path: str) -> Iterator[Any]:
        """Lend one of fsspec's file systems; one that gave no answer is not used again."""
        with told_by(self._told, path):
            with self._lock:
                files = self._free.pop() if self._free else None
            files = files or self._open()
            try:
                yield files
            except Exception as error:
                if self._kind_of(error) is not UnreachableError:
                    self._give_back(files)
                else:
                    with self._lock:
                        self._free.clear()  # they were left alone for as long
                raise
            self._give_back(files)

    def _open(self) -> Any:
        files = self._kind(**self._arguments(), skip_instance_cache=True, use_listings_cache=False)
        files.knows_facts = prepared(files)
        return files

    def _arguments(self) -> Mapping[str, Any]:
        """Return all of them: what is left out, fsspec takes from settings, for whatever host."""
        given = {
            "host": self._location.host.strip("[]"), "port": self._location.reached_port,
        }  # fmt: skip
        return {
            argument: given.get(name) or self._credential.get(name)
            for name, argument in self._location.scheme.arguments
        }

    def _give_back(self, files: Any) -> None:
        with self._lock:
            if len(self._free) < _KEPT:
                self._free.append(files)

    def _kind_of(self, error: BaseException) -> type[ClusterError]:
        return next((kind for known, kind in _KINDS if isinstance(error, known)), RejectedError)

    def _told(self, path: str, error: Exception) -> ClusterError:
        said = " ".join(str(error).split()) or type(error).__name__
        kind, text = self._kind_of(error), f"{self._where}{path}: {said}"
        if isinstance(error, error_perm) and said.startswith(_NOT_SIGNED_IN):
            kind = AccessDeniedError
        if kind is AccessDeniedError:
            text += f"; asked with the credential from {self._credential.source}"
        return kind(text)


class FsspecStore(FolderStore):
    """Files in a file system of fsspec."""

    def __init__(self, location: Location, credential: Credential) -> None:
        super().__init__(location, credential, lambda: _SHARED.of(location, credential))


_SHARED = Connections(FsspecFolders)


class _Sink:
    """What a file system writes a file into; at its other end it is read."""

    def __init__(self) -> None:
        self.pieces = Queue[bytes | BaseException | None](_AHEAD)
        self.is_gone = False
        self._held = bytearray()

    def write(self, piece: bytes) -> int:
        if self.is_gone:
            raise _GoneError("it is not read any more")
        self._held += piece
        if len(self._held) >= PIECE_BYTES:
            self.flush()
        return len(piece)

    def flush(self) -> None:
        """Pass on what is held, as all has come."""
        if self._held:
            self.pieces.put(bytes(self._held))
            self._held = bytearray()

    def read(self) -> bytes:
        """By which fsspec knows that this is a file."""
        raise NotImplementedError

    close = tell = read


def _flowing(fetch: Callable[[_Sink], None], start: int) -> Generator[bytes, None, None]:
    """Yield from a byte on what is written into a sink, by one action that begins at the first."""
    sink = _Sink()

    def run() -> None:
        ended: BaseException | None = None
        try:
            fetch(sink)
            sink.flush()
        except BaseException as error:
            ended = error
        sink.pieces.put(ended)

    thread = threading.Thread(target=run, name="mlflow-exec-fetch", daemon=True)
    thread.start()
    try:
        while isinstance(piece := sink.pieces.get(), bytes):
            skipped = min(start, len(piece))
            start -= skipped
            if skipped < len(piece):
                yield piece[skipped:]
        if piece is not None:
            raise piece
    finally:
        sink.is_gone = True
        while thread.is_alive():
            with suppress(Empty):
                sink.pieces.get(timeout=0.01)
        thread.join()


def _status(found: Mapping[str, Any]) -> Status:
    is_folder = found["type"] == "directory"
    size_bytes = 0 if is_folder else int(found.get("size") or 0)
    modified = next((found[name] for name in _MODIFIED if found.get(name)), None)
    version = next((str(found[name]) for name in _VERSION if found.get(name)), "")
    return Status(is_folder, size_bytes, _seconds(modified), version or str(modified or ""))


def _seconds(modified: Any) -> float:
    """Return a time, as one of the many forms that it has."""
    with suppress(ValueError):
        if isinstance(modified, str):  # of FTP: RFC 3659
            modified = datetime.strptime(modified[:14], "%Y%m%d%H%M%S").replace(tzinfo=timezone.utc)
        if isinstance(modified, datetime):
            return modified.timestamp()
        return float(modified or 0)
    return 0.0

"""Artifacts on a machine that is reached by SSH: its SFTP, by asyncssh.

Its host key must be known: of the credential, else of ``~/.ssh/known_hosts``.
"""

from __future__ import annotations

import asyncio
import getpass
import itertools
import os
import posixpath
import stat
import threading
from collections import deque
from collections.abc import Coroutine, Iterable, Iterator
from concurrent import futures
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any

import asyncssh
from asyncssh import sftp as codes

from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConflictError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.storage.base import PIECE_BYTES
from mlflow_exec.storage.event_loop import ANSWER_S, EventLoop
from mlflow_exec.storage.folders import Folders, FolderStore, Status
from mlflow_exec.storage.sent import Sent
from mlflow_exec.storage.shared import Connections, FailedBefore
from mlflow_exec.uris import Location

_CONNECT_S = 15
# Pieces of a file that are on their way at the same time.
_IN_FLIGHT = 4
# First those that processors compute by themselves.
_CIPHERS = "^aes128-gcm@openssh.com,aes256-gcm@openssh.com"
_REMOVED_AT_ONCE = 64
_KEPT = "surrogateescape"  # names that are not UTF-8 are seen by who lists them, and refused there
_BROKEN = (codes.SFTPConnectionLost, codes.SFTPNoConnection)
_KNOWN = (
    asyncssh.Error, asyncssh.KeyImportError, EOFError, OSError, TimeoutError, ValueError,
    futures.TimeoutError, futures.CancelledError,
)  # fmt: skip
_LOOP = EventLoop("mlflow-exec-sftp")
_Session = tuple[asyncssh.SSHClientConnection, asyncssh.SFTPClient]


class Sftp(Folders):
    """The files of one machine, as one user; one connection, which is made anew once it broke."""

    def __init__(self, location: Location, credential: Credential) -> None:
        self._location = location
        self._credential = credential.of_user(location.user)
        self._where = f"SFTP {location.host}:{location.reached_port}"
        self._lock = threading.Lock()
        self._session: _Session | None = None
        self._failed_before = FailedBefore()

    def write(self, path: str, content: Sent) -> int:
        """See `Folders`."""
        try:
            with self._client(path) as client:
                # Without asyncssh's division of what is written: see `_writes`.
                file = _LOOP.wait(client.open(path, "wb", block_size=0))
                most_bytes, pieces = client.limits.max_write_len, content.pieces()
                first, second = next(pieces, b""), next(pieces, None)
                if second is None:
                    size_bytes = _LOOP.wait(_write_small(file, first, most_bytes))
                    if size_bytes == len(first):
                        return size_bytes
                    # Some servers write with many threads, and all has arrived once it is closed.
                    return _LOOP.wait(client.stat(path)).size or 0
                try:
                    _write(file, itertools.chain((first, second), pieces), most_bytes)
                except BaseException:
                    _close(file)
                    raise
                return _LOOP.wait(_finish(file))
        except ConflictError as error:
            if self._is_full(path):
                raise RejectedError(f"{self._where}: {path}: no space left on its disk") from error
            raise

    def _is_full(self, path: str) -> bool:
        """Whether the server tells of its disk that there is no room for a piece."""
        with suppress(ClusterError), self._client(path) as client:
            disk = _LOOP.wait(client.statvfs(path))
            return bool(disk.bavail * disk.frsize < PIECE_BYTES)
        return False

    def read(self, path: str, start: int) -> tuple[Status, Iterator[bytes]]:
        """See `Folders`."""
        try:
            with self._client(path) as client:
                file = _LOOP.wait(client.open(path, "rb"))
                status = _status(_LOOP.wait(file.stat()))
        except ConflictError as error:  # a file stands where a folder would have to be
            raise NotFoundError(str(error)) from error
        if status.is_folder:
            _close(file)
            raise NotFoundError(f"{self._where}: {path}: it is a folder")

        def pieces() -> Iterator[bytes]:
            try:
                with self._client(path):
                    yield from _read(file, start, status.size_bytes)
            finally:
                _close(file)

        return status, pieces()

    def status(self, path: str) -> Status | None:
        """See `Folders`."""
        try:
            with self._client(path) as client:
                return _status(_LOOP.wait(client.stat(path)))
        except NotFoundError:
            return None

    def list(self, path: str) -> dict[str, Status]:
        """See `Folders`."""
        try:
            with self._client(path) as client:
                found = _LOOP.wait(client.readdir(path))
        except (ConflictError, NotFoundError):
            status = self.status(path)
            if status is not None and not status.is_folder:
                return {}
            raise
        told = {str(name.filename): name.attrs for name in found}
        links = [name for name, attrs in told.items() if _is_link(attrs)]
        # Of links the server tells what they are themselves.
        with self._client(path) as client:
            for name in links:
                with suppress(codes.SFTPNoSuchFile):  # it leads nowhere
                    told[name] = _LOOP.wait(client.stat(posixpath.join(path, name)))
        return {name: _status(told[name]) for name in told if name not in (".", "..")}

    def is_link(self, path: str) -> bool:
        """See `Folders`."""
        try:
            with self._client(path) as client:
                return _is_link(_LOOP.wait(client.lstat(path)))
        except NotFoundError:
            return False

    def make_folder(self, path: str) -> None:
        """See `Folders`."""
        status = self.status(path)
        if status is not None and status.is_folder:
            return
        if status is None and path.rpartition("/")[0]:
            self.make_folder(path.rpartition("/")[0])
        try:
            with self._client(path) as client:
                _LOOP.wait(client.mkdir(path))
        except ConflictError:
            status = self.status(path)
            if status is None or not status.is_folder:
                raise

    def replace(self, old: str, new: str) -> None:
        """See `Folders`."""
        with self._client(new) as client:
            _LOOP.wait(client.posix_rename(old, new))

    def remove_file(self, path: str) -> None:
        """See `Folders`."""
        with self._client(path) as client:
            _LOOP.wait(client.remove(path))

    def remove_folder(self, path: str) -> None:
        """See `Folders`."""
        with self._client(path) as client:
            _LOOP.start(_remove(client, path, asyncio.Semaphore(_REMOVED_AT_ONCE))).result()

    # -- the connection -----------------------------------------------------------------------

    @contextmanager
    def _client(self, what: str) -> Iterator[asyncssh.SFTPClient]:
        """Return what is asked, and turn what it says into errors of ours."""
        session = None
        try:
            with self._lock:
                if self._session is None or self._session[0].is_closed():
                    self._session = None
                    self._failed_before.check()
                    try:
                        self._session = _LOOP.wait(self._connect())
                    except _KNOWN as error:
                        self._failed_before.note(error)
                        raise
                session = self._session
            yield session[1]
        except _KNOWN as error:
            told = self._told(what, error)
            if isinstance(told, UnreachableError):
                self._drop(session)
            raise told from error

    def _drop(self, session: _Session | None) -> None:
        """Close a connection that is no good, unless another one is there already."""
        with self._lock:
            if session is None or session is not self._session:
                return
            self._session = None
        _LOOP.call(session[0].close)

    async def _connect(self) -> _Session:
        given: dict[str, Any] = {}
        user = self._credential.get("user")
        if user:
            given["username"] = user
            _name_this_user(user)
        if password := self._credential.get("password"):
            given["password"] = password
        if key := self._credential.get("private_key"):
            given["client_keys"] = [asyncssh.import_private_key(key)]
        if host_key := self._credential.get("host_key"):
            given["known_hosts"] = ([asyncssh.import_public_key(host_key)], [], [])
        connection = await asyncssh.connect(
            self._location.host.strip("[]"), self._location.reached_port or (),
            connect_timeout=_CONNECT_S, login_timeout=_CONNECT_S, keepalive_interval=_CONNECT_S,
            encryption_algs=_CIPHERS,
            config=None,  # else a ProxyCommand there could lead a credential anywhere
            **given,
        )  # fmt: skip
        try:
            return connection, await connection.start_sftp_client(path_errors=_KEPT)
        except BaseException:
            connection.close()
            raise

    def _told(self, what: str, error: BaseException) -> ClusterError:
        where = f"{self._where}: {what}"
        said = getattr(error, "reason", "") or " ".join(str(error).split())
        said = said or type(error).__name__
        if isinstance(error, codes.SFTPNoSuchFile):
            return NotFoundError(f"{where}: {said}")
        if isinstance(error, (codes.SFTPPermissionDenied, asyncssh.PermissionDenied)):
            user = self._credential.get("user") or "this user"
            return AccessDeniedError(
                f"{where}: {said}; asked as {user!r} with the credential from "
                f"{self._credential.source}"
            )
        if isinstance(error, asyncssh.HostKeyNotVerifiable):
            return AccessDeniedError(
                f"{self._where}: {said}; once you have made sure that it is the machine's own "
                f"key, write it into known_hosts, or as 'host_key' into the credential"
            )
        if isinstance(error, asyncssh.KeyImportError):
            return AccessDeniedError(
                f"{self._where}: a key from {self._credential.source} cannot be read: {said}"
            )
        if isinstance(error, ValueError):  # such as a known_hosts that cannot be read
            return RejectedError(f"{where}: {said}")
        if isinstance(error, codes.SFTPOpUnsupported):
            return RejectedError(f"{where}: {said}; the server cannot do that")
        if isinstance(error, codes.SFTPError) and not isinstance(error, _BROKEN):
            # Most servers say no more than "Failure" of all the rest.
            return ConflictError(
                f"{where}: {said}; is something of that name in the way, or the disk full?"
            )
        return UnreachableError(f"{where}: {said}")


class SftpStore(FolderStore):
    """Files on a machine with an SFTP server."""

    def __init__(self, location: Location, credential: Credential) -> None:
        super().__init__(location, credential, lambda: _SHARED.of(location, credential))


_SHARED = Connections(Sftp)


def _is_link(attributes: asyncssh.SFTPAttrs) -> bool:
    return stat.S_ISLNK(attributes.permissions or 0)


def _status(attributes: asyncssh.SFTPAttrs) -> Status:
    mode = attributes.permissions or 0
    return Status(stat.S_ISDIR(mode), attributes.size or 0, float(attributes.mtime or 0))


def _name_this_user(user: str) -> None:
    """Let asyncssh start where the user of this process has no name, as in OpenShift's pods."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = user


async def _write_small(
    file: asyncssh.SFTPClientFile, content: bytes, most_bytes: int
) -> int:
    """Write a file that is one piece, and return its size, without waiting between the requests.

    They are sent in this order, and a server takes in order what it is asked about one file.
    """
    told: list[Any] = await asyncio.gather(
        *_writes(file, content, 0, most_bytes), file.stat(), file.close(), return_exceptions=True
    )
    for answer in told:
        if isinstance(answer, BaseException):
            raise answer
    return int(told[-2].size or 0)


async def _write_piece(
    file: asyncssh.SFTPClientFile, piece: bytes, at: int, most_bytes: int
) -> None:
    await asyncio.gather(*_writes(file, piece, at, most_bytes))


def _writes(
    file: asyncssh.SFTPClientFile, piece: bytes, at: int, most_bytes: int
) -> list[Coroutine[Any, Any, int]]:
    """Return what writes a piece at its place, in requests that are not too large."""
    starts = range(0, len(piece), most_bytes)
    return [file.write(piece[start : start + most_bytes], at + start) for start in starts]


async def _finish(file: asyncssh.SFTPClientFile) -> int:
    """Close a file and return its size, as the server has it."""
    try:
        return (await file.stat()).size or 0
    finally:
        await file.close()


def _write(
    file: asyncssh.SFTPClientFile, pieces: Iterable[bytes], most_bytes: int
) -> None:
    """Write all pieces, some at a time."""
    at, pending = 0, deque[Future[Any]]()
    try:
        for piece in pieces:
            if len(pending) == _IN_FLIGHT:
                pending.popleft().result(ANSWER_S)
            pending.append(_LOOP.start(_write_piece(file, piece, at, most_bytes)))
            at += len(piece)
    finally:
        futures.wait(pending, ANSWER_S)  # they use the file, which is closed next
    for written in pending:
        written.result()


def _close(file: asyncssh.SFTPClientFile) -> None:
    with suppress(*_KNOWN):
        _LOOP.wait(file.close())


def _read(file: asyncssh.SFTPClientFile, start: int, end: int) -> Iterator[bytes]:
    at, pending = start, deque[Future[Any]]()
    try:
        while at < end or pending:
            while at < end and len(pending) < _IN_FLIGHT:
                pending.append(_LOOP.start(file.read(min(PIECE_BYTES, end - at), at)))
                at += PIECE_BYTES
            piece = bytes(pending.popleft().result(ANSWER_S))
            if not piece:
                return
            yield piece
    finally:
        futures.wait(pending, ANSWER_S)  # they use the file, which is closed next


async def _remove(client: asyncssh.SFTPClient, folder: str, turn: asyncio.Semaphore) -> None:
    """Remove a folder with all that is in it, many files at a time."""

    async def remove(path: str) -> None:
        async with turn:
            with suppress(codes.SFTPNoSuchFile):
                await client.remove(path)

    found = [name for name in await client.readdir(folder) if name.filename not in (".", "..")]
    files = []
    for name in found:
        path = posixpath.join(folder, str(name.filename))
        if stat.S_ISDIR(name.attrs.permissions or 0):
            await _remove(client, path, turn)
        else:
            files.append(remove(path))
    await asyncio.gather(*files)
    await client.rmdir(folder)

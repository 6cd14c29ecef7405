"""Artifacts on a share of Windows or Samba, SMB 2 and 3, by smbprotocol.

Names that Windows does not allow are written as Linux' cifs and macOS do, by characters of
Unicode's private area, so they are seen as they are where the share is mounted there.
"""

from __future__ import annotations

import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, cast

import smbclient
from smbclient.shutil import rmtree
from smbprotocol.exceptions import (
    AccessDenied,
    LogonFailure,
    SharingViolation,
    SMBAuthenticationError,
    SMBException,
    SMBOSError,
    SMBResponseException,
    WrongPassword,
)
from smbprotocol.header import NtStatus

from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConflictError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.storage.folders import Folders, FolderStore, Status
from mlflow_exec.storage.sent import Sent
from mlflow_exec.storage.shared import Connections, FailedBefore
from mlflow_exec.uris import Location

_CONNECT_S = 15
_USED = "used by others"
_NO_CREDITS = "credits are available"
_WRITERS = 8
_PIECE_BYTES = 1024 * 1024
_FOR_ALL = "rwd"  # others may read, write and replace it meanwhile
# https://docs.kernel.org/filesystems/smb/cifsroot.html, mapposix: as Microsoft's Services for Mac.
_MAPPED = {ord(c): 0xF020 + i for i, c in enumerate('"*:<>?')} | {ord("|"): 0xF027}
_UNMAPPED = {there: here for here, there in _MAPPED.items()}
_LAST = {" ": "\uf028", ".": "\uf029"}
_ABSENT = (
    NtStatus.STATUS_OBJECT_NAME_NOT_FOUND, NtStatus.STATUS_OBJECT_PATH_NOT_FOUND,
    NtStatus.STATUS_NOT_FOUND, NtStatus.STATUS_NO_SUCH_FILE,
)  # fmt: skip
_IN_THE_WAY = (
    NtStatus.STATUS_OBJECT_NAME_COLLISION, NtStatus.STATUS_FILE_IS_A_DIRECTORY,
    NtStatus.STATUS_NOT_A_DIRECTORY, NtStatus.STATUS_DIRECTORY_NOT_EMPTY,
)  # fmt: skip
_DENIED = (AccessDenied, LogonFailure, SMBAuthenticationError, WrongPassword)


class Smb(Folders):
    """The shares of one server, as one user; one connection, made anew once it broke."""

    def __init__(self, location: Location, credential: Credential) -> None:
        self._host = location.host.strip("[]")
        self._port = location.reached_port or 445
        self._credential = credential.of_user(location.user)
        self._where = f"SMB {location.host}:{self._port}"
        self._lock = threading.Lock()
        self._cache: dict[str, Any] = {}
        self._failed_before = FailedBefore()
        # A connection has so many credits; each writer takes one for 64 KiB of its piece.
        self._writers = threading.BoundedSemaphore(_WRITERS)
        # What a server names as another place would get the sign-in, too.
        smbclient.ClientConfig(skip_dfs=True)

    def write(self, path: str, content: Sent) -> int:
        """See `Folders`."""
        with self._writers, self._asked(path) as given:
            file = smbclient.open_file(
                self._unc(path), "wb", buffering=_PIECE_BYTES, share_access=_FOR_ALL, **given
            )
            with file:
                for piece in content.pieces():
                    file.write(piece)
            return int(smbclient.stat(self._unc(path), **given).st_size)

    def read(self, path: str, start: int) -> tuple[Status, Iterator[bytes]]:
        """See `Folders`."""
        try:
            with self._asked(path) as given:
                file: BinaryIO = smbclient.open_file(
                    self._unc(path), "rb", buffering=0, share_access=_FOR_ALL, **given
                )
        except ConflictError as error:  # a folder, or below a file
            raise NotFoundError(str(error)) from error
        opened = cast(Any, file).fd
        status = Status(False, opened.end_of_file, opened.last_write_time.timestamp())

        def pieces() -> Iterator[bytes]:
            try:
                with self._asked(path):
                    file.seek(start)
                    while piece := file.read(_PIECE_BYTES):
                        yield piece
            finally:
                with suppress(SMBException, OSError):
                    file.close()

        return status, pieces()

    def status(self, path: str) -> Status | None:
        """See `Folders`."""
        try:
            with self._asked(path) as given:
                return _status(smbclient.stat(self._unc(path), **given))
        except NotFoundError:
            return None
        except ConflictError:  # below a file
            return None

    def list(self, path: str) -> dict[str, Status]:
        """See `Folders`."""
        found = {}
        try:
            with self._asked(path) as given:
                for entry in smbclient.scandir(self._unc(path), **given):
                    info = entry.smb_info
                    found[_shown(entry.name)] = Status(
                        entry.is_dir(), info.end_of_file, info.last_write_time.timestamp()
                    )
        except ConflictError:  # a file
            return {}
        return found

    def make_folder(self, path: str) -> None:
        """See `Folders`."""
        self._do(path, lambda given: smbclient.makedirs(self._unc(path), exist_ok=True, **given))

    def replace(self, old: str, new: str) -> None:
        """See `Folders`."""
        try:
            self._do(new, lambda given: smbclient.replace(self._unc(old), self._unc(new), **given))
        except AccessDeniedError as error:
            # The server says so, too, while others have it open; we may, as we could write there.
            status = self.status(new)
            if status is not None and status.is_folder:
                raise ConflictError(f"{error}; a folder of that name is there") from error
            raise UnreachableError(str(error), reason=_USED) from error

    def remove_file(self, path: str) -> None:
        """See `Folders`."""
        self._do(path, lambda given: smbclient.remove(self._unc(path), **given))

    def remove_folder(self, path: str) -> None:
        """See `Folders`."""
        self._do(path, lambda given: rmtree(self._unc(path), **given))

    def _drop(self) -> None:
        """Close a connection that is no good; the next call makes a new one."""
        with self._lock:
            cache, self._cache = self._cache, {}
        with suppress(SMBException, OSError):
            smbclient.reset_connection_cache(fail_on_error=False, connection_cache=cache)

    # -- the connection -----------------------------------------------------------------------

    def _do(self, path: str, action: Callable[[dict[str, Any]], object]) -> None:
        with self._asked(path) as given:
            action(given)

    @contextmanager
    def _asked(self, what: str) -> Iterator[dict[str, Any]]:
        """Yield what each call is given, and turn what it says into errors of ours."""
        try:
            yield self._signed_in()
        except (SMBException, OSError, ValueError) as error:
            told = self._told(what, error)
            if isinstance(told, UnreachableError) and told.reason != _USED:
                self._drop()
            raise told from error

    def _signed_in(self) -> dict[str, Any]:
        with self._lock:
            given = {
                "username": self._credential.get("user"),
                "password": self._credential.get("password"),
                "port": self._port,
                "connection_timeout": _CONNECT_S,
                "connection_cache": self._cache,
            }
            self._failed_before.check()
            try:
                smbclient.register_session(self._host, **given)  # once, by the first of many
            except (SMBException, OSError, ValueError) as error:
                self._failed_before.note(error)
                raise
            return given

    def _unc(self, path: str) -> str:
        names = path.strip("/").split("/")
        return "\\".join((f"\\\\{self._host}", *map(_mapped, names)))

    def _told(self, what: str, error: Exception) -> ClusterError:
        code = getattr(error, "ntstatus", None)
        if isinstance(error, SMBResponseException):
            code = error.status
        said = getattr(error, "strerror", None) or " ".join(str(error).split())
        text = f"{self._where}: {what}: {said}"
        if code in _ABSENT:
            return NotFoundError(text)
        if code in _IN_THE_WAY:
            return ConflictError(text)
        if isinstance(error, _DENIED) or code == NtStatus.STATUS_ACCESS_DENIED:
            user = self._credential.get("user") or "this user"
            return AccessDeniedError(
                f"{text}; asked as {user!r} with the credential from {self._credential.source}"
            )
        if isinstance(error, SharingViolation) or code == NtStatus.STATUS_SHARING_VIOLATION:
            return UnreachableError(text, reason=_USED)
        if code == NtStatus.STATUS_PATH_NOT_COVERED:
            return RejectedError(f"{text}; it is on another server (DFS): name that one")
        if isinstance(error, (SMBOSError, SMBResponseException)):
            return RejectedError(text)
        if _NO_CREDITS in said:
            return UnreachableError(text, reason=_USED)
        return UnreachableError(text)


class SmbStore(FolderStore):
    """Files on a share."""

    def __init__(self, location: Location, credential: Credential) -> None:
        super().__init__(location, credential, lambda: _SHARED.of(location, credential))


_SHARED = Connections(Smb)


def _mapped(name: str) -> str:
    name = name.translate(_MAPPED)
    return name[:-1] + _LAST.get(name[-1], name[-1])


def _shown(name: str) -> str:
    name = name.translate(_UNMAPPED)
    last = {there: here for here, there in _LAST.items()}
    return name[:-1] + last.get(name[-1], name[-1])


def _status(found: Any) -> Status:
    return Status(stat.S_ISDIR(found.st_mode), found.st_size, found.st_mtime)

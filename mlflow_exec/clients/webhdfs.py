"""Files in HDFS over its REST interface, without Java.

https://hadoop.apache.org/docs/stable/hadoop-project-dist/hadoop-hdfs/WebHDFS.html
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote, urlsplit

import requests
from requests.utils import super_len

from mlflow_exec.clients.hadoop_config import HadoopConfig
from mlflow_exec.clients.hadoop_errors import unanswered
from mlflow_exec.clients.hadoop_http import HadoopHttp, Json, Login
from mlflow_exec.clients.server_clock import ServerClock
from mlflow_exec.errors import ConflictError, NotFoundError, RejectedError, UnreachableError

# A DataNode that writes to two others may be busy for long.
_TRANSFER_TIMEOUT_S = 300.0
_PIECE_BYTES = 256 * 1024
_MOST_DATA_NODES = 3
_MOST_OPENED = 5
_ROOT = "/webhdfs/v1"


class WebHdfs:
    """One HDFS, as one user. Thread-safe.

    Paths are absolute, without the file system in front. Every failure is one of
    `mlflow_exec.errors`.
    """

    def __init__(
        self,
        config: HadoopConfig,
        login: Login,
        filesystem: str = "",
        *,
        verify: bool | str = True,
    ) -> None:
        """Keep what is needed to ask; nothing is asked yet.

        Args:
            config: The cluster's configuration.
            login: Who asks.
            filesystem: ``hdfs://…``; by default the configuration's own.
            verify: Whether certificates are checked, or the file with their authority.

        Raises:
            ConfigError: The file system is no HDFS, or its address is not configured.
        """
        self.filesystem = (filesystem or config.default_filesystem).rstrip("/")
        self._http = HadoopHttp("HDFS", config.namenodes(filesystem), login, verify=verify)

    @property
    def url(self) -> str:
        """The NameNode that answered last."""
        return self._http.url

    @property
    def clock(self) -> ServerClock:
        """The daemons' clock."""
        return self._http.clock

    # -- folders and names ------------------------------------------------------------------

    def home(self) -> str:
        """Return the user's home folder; it need not exist."""
        return str(self._json("GET", "/", "GETHOMEDIRECTORY")["Path"])

    def status(self, path: str) -> Json | None:
        """Return a path's ``FileStatus``; None if it does not exist."""
        try:
            return dict(self._json("GET", path, "GETFILESTATUS")["FileStatus"])
        except NotFoundError:
            return None

    def list(self, path: str) -> builtins.list[Json]:
        """Return the ``FileStatus`` of what is in a folder; ``pathSuffix`` is its name.

        Raises:
            NotFoundError: There is no such folder.
        """
        return [
            dict(entry)
            for entry in self._json("GET", path, "LISTSTATUS")["FileStatuses"]["FileStatus"]
        ]

    def make_folder(self, path: str, permission: str = "700") -> None:
        """Make a folder and those above it; one that is there stays as it is.

        Args:
            path: The folder.
            permission: In octal digits, for the folder and for each that is made above it.

        Raises:
            ConflictError: There is a file of that name.
        """
        if not self._json("PUT", path, "MKDIRS", permission=permission)["boolean"]:
            raise RejectedError(f"HDFS {self.url}: the folder {path!r} could not be made")

    def rename(self, src: str, dst: str, *, overwrite: bool = False) -> bool:
        """Rename in one step; False if there is something of the new name already.

        Args:
            src: The old name.
            dst: The new one.
            overwrite: Whether a file may be replaced by a file; False is returned for folders only.

        Raises:
            NotFoundError: There is nothing of the old name.
        """
        # Without an option the old call is made, which moves *into* a folder of that name.
        options = "OVERWRITE" if overwrite else "NONE"
        try:
            self._ask("PUT", src, "RENAME", destination=dst, renameoptions=options).close()
        except ConflictError:
            return False
        return True

    def delete(self, path: str, recursive: bool = True) -> bool:
        """Delete a file or folder; False if there is none."""
        word = "true" if recursive else "false"
        return bool(self._json("DELETE", path, "DELETE", recursive=word)["boolean"])

    def set_permission(self, path: str, permission: str) -> None:
        """Set a path's permission, in octal digits."""
        self._ask("PUT", path, "SETPERMISSION", permission=permission).close()

    def touch(self, path: str) -> None:
        """Set a file's modification time to now, by the cluster's clock."""
        now = self._http.clock.now() or datetime.now(timezone.utc)
        self.set_times(path, int(now.timestamp() * 1000))

    def set_times(self, path: str, modified_ms: int) -> None:
        """Set a file's modification time, in milliseconds since the epoch."""
        self._ask("PUT", path, "SETTIMES", modificationtime=modified_ms, accesstime=-1).close()

    # -- contents ---------------------------------------------------------------------------

    def write(
        self,
        path: str,
        content: bytes | Path | BinaryIO,
        *,
        permission: str = "600",
        overwrite: bool = True,
    ) -> int:
        """Write a file; what is there afterwards is as long as what was given.

        Returns how long it is, in bytes, which is compared here only where the length of what was
        given is known before.

        Where a DataNode is away it is sent to another, from its beginning; what cannot be read
        twice is sent once.

        Args:
            path: Where; folders above it are made.
            content: Bytes, a local file, or an open one from where it stands on.
            permission: In octal digits.
            overwrite: Whether it may replace a file.

        Raises:
            ConflictError: There is a file, and it may not be replaced.
            RejectedError: It could not be kept whole, such as for a quota.
        """
        length_bytes = _length_bytes(content)
        bodies = _bodies(content, length_bytes)

        def send(target: str) -> requests.Response:
            with bodies() as body:
                return self._http.send(
                    "PUT",
                    target,
                    data=body if isinstance(body, bytes) else _Pieces(body),
                    headers={"Content-Type": "application/octet-stream"},
                    timeout_s=_TRANSFER_TIMEOUT_S,
                )

        params = {"op": "CREATE", "permission": permission, "overwrite": str(overwrite).lower()}
        tries = 1 if length_bytes is None else _MOST_DATA_NODES
        answer = self._by_data_node("PUT", path, params, send, tries=tries)
        answer.close()
        if answer.status_code != 201:
            raise RejectedError(
                f"HDFS {_host(answer.url)}: {path}: {answer.status_code} instead of 201; this is "
                f"no DataNode",
                status=answer.status_code,
            )
        return self._check_written(path, length_bytes)

    def _check_written(self, path: str, length_bytes: int | None) -> int:
        written = self.status(path)
        found = None if written is None else int(written["length"])
        if found is None or (length_bytes is not None and found != length_bytes):
            raise UnreachableError(
                f"HDFS {self.url}: {path}: {found} bytes are there after {length_bytes} were "
                f"written; write it again"
            )
        return found

    def read(self, path: str) -> Iterator[bytes]:
        """Return the pieces of a file's content; it is opened before the first is asked for.

        Raises:
            NotFoundError: There is no such file.
            UnreachableError: Also while reading: the connection broke, or it ended too early.
        """
        return self.open(path)[1]

    def open(self, path: str, start: int = 0) -> tuple[Json, Iterator[bytes]]:
        """Return a file's ``FileStatus``, and what yields it from a byte on; see `read`."""

        def open_(target: str) -> requests.Response:
            return self._http.send("GET", target, stream=True, timeout_s=_TRANSFER_TIMEOUT_S)

        params = {"op": "OPEN", **({"offset": str(start)} if start else {})}
        left = _MOST_OPENED
        while True:
            left -= 1
            status = self.status(path)
            if status is None or status["type"] != "FILE":
                raise NotFoundError(f"HDFS {self.url}: {path}: there is no such file", status=404)
            answer = self._by_data_node("GET", path, params, open_, tries=_MOST_DATA_NODES)
            length_bytes = int(status["length"]) - start
            told = answer.headers.get("Content-Length", "")
            if not left or not told.isdigit() or int(told) == length_bytes:
                return status, _pieces(f"HDFS {_host(answer.url)}: {path}", answer, length_bytes)
            answer.close()  # it was replaced in between

    # -- requests ---------------------------------------------------------------------------

    def _json(self, method: str, path: str, operation: str, **params: Any) -> Any:
        return self._http.json(method, _quoted(path), params={"op": operation, **params})

    def _ask(self, method: str, path: str, operation: str, **params: Any) -> requests.Response:
        return self._http.ask(method, _quoted(path), params={"op": operation, **params})

    def _by_data_node(
        self,
        method: str,
        path: str,
        params: Mapping[str, str],
        send: Callable[[str], requests.Response],
        *,
        tries: int,
    ) -> requests.Response:
        """Ask a NameNode where to, and send it there; elsewhere if that DataNode is away.

        A NameNode names one that is dead for ten minutes, but another than those it is told of.
        """
        away: list[str] = []
        failure: UnreachableError | None = None
        for _ in range(tries):
            asked = {**params, "excludedatanodes": ",".join(away)} if away else params
            try:
                response = self._http.ask(method, _quoted(path), params=asked)
            except (RejectedError, UnreachableError) as error:
                raise failure or error from error  # there is no other
            target = self._target(path, response)
            try:
                return send(target)
            except UnreachableError as error:
                if error.status is not None:
                    raise
                failure = UnreachableError(f"{error}; HDFS needs a way to its DataNodes, too")
                away.append(urlsplit(target).hostname or "")
        assert failure is not None
        raise failure

    def _target(self, path: str, response: requests.Response) -> str:
        """Return where a NameNode sends the second step; it may hold a token."""
        response.close()
        target = response.headers.get("Location", "")
        if response.status_code not in (302, 307) or not target:
            raise RejectedError(
                f"HDFS {self.url}: {path}: {response.status_code} instead of a redirection to a "
                f"DataNode, so this is no WebHDFS; check the address in the configuration",
                status=response.status_code,
            )
        return target


def _quoted(path: str) -> str:
    return _ROOT + quote("/" + path.lstrip("/"), safe="/")


def _host(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def _length_bytes(content: bytes | Path | BinaryIO) -> int | None:
    """Return how much there is to send; None where only the end will tell."""
    if isinstance(content, Path):
        return content.stat().st_size
    if isinstance(content, bytes):
        return len(content)
    with suppress(OSError, AttributeError, ValueError):
        at = content.tell()
        end = content.seek(0, os.SEEK_END)
        content.seek(at)
        return end - at
    return None


def _bodies(
    content: bytes | Path | BinaryIO, length_bytes: int | None
) -> Callable[[], AbstractContextManager[bytes | BinaryIO]]:
    """Return what opens the content, each time from where it stands now."""
    start = 0 if isinstance(content, (bytes, Path)) or length_bytes is None else content.tell()

    def open_() -> AbstractContextManager[bytes | BinaryIO]:
        if isinstance(content, Path):
            return content.open("rb")
        if not isinstance(content, bytes) and length_bytes is not None:
            content.seek(start)
        return nullcontext(content)

    return open_


class _Pieces:
    """A file as it is sent: by itself, requests would make it small pieces of 16 KiB.

    Attributes:
        len: What requests asks for; 0 where the length is not known.
    """

    def __init__(self, content: BinaryIO) -> None:
        self.len: int = super_len(content)  # type: ignore[no-untyped-call]
        self._content = content

    def __iter__(self) -> Iterator[bytes]:
        while piece := self._content.read(_PIECE_BYTES):
            yield piece


def _pieces(where: str, answer: requests.Response, length_bytes: int) -> Iterator[bytes]:
    seen = 0
    with answer:
        try:
            for piece in answer.iter_content(_PIECE_BYTES):
                seen += len(piece)
                yield piece
        except (requests.RequestException, OSError) as error:
            raise unanswered(where, error) from error
    if seen < length_bytes:
        raise UnreachableError(f"{where}: it ended after {seen} of {length_bytes} bytes")

"""Artifacts on a WebDAV server, RFC 4918."""

from __future__ import annotations

from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, unquote, urlsplit
from xml.etree import ElementTree

import requests

from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import (
    ClusterError,
    ConflictError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.storage.folders import Folders, FolderStore, Status, is_folder
from mlflow_exec.storage.http import Http
from mlflow_exec.storage.sent import Sent
from mlflow_exec.storage.shared import Connections
from mlflow_exec.uris import Location

_PIECE_BYTES = 256 * 1024
_MOVED = (301, 302, 307, 308)
# Some servers, WsgiDAV 4 among them, take what follows in a destination for a query.
_MISTAKEN = frozenset("?;")
_ASKED = (
    b'<?xml version="1.0"?><propfind xmlns="DAV:"><prop><resourcetype/><getcontentlength/>'
    b"<getlastmodified/></prop></propfind>"
)


class Webdav(Folders):
    """The files of one server, as one user."""

    def __init__(self, location: Location, credential: Credential) -> None:
        scheme = "https" if location.scheme.name == "webdavs" else "http"
        port = "" if location.port is None else f":{location.port}"
        base = f"{scheme}://{location.host}{port}"
        self._http = Http("WebDAV", base, credential.of_user(location.user))
        self._as_seen = base  # by the server itself

    def write(self, path: str, content: Sent) -> int:
        """See `Folders`."""
        body: Any = content if content.length_bytes != 0 else b""
        try:
            self._http.ask("PUT", quote(path), data=body)
        except ConflictError as error:  # its folder is not there
            raise NotFoundError(str(error), status=error.status) from error
        return _length(path, self._http.ask("HEAD", quote(path)), content.size_bytes)

    def read(self, path: str, start: int) -> tuple[Status, Iterator[bytes]]:
        """See `Folders`."""
        status = self.status(path)
        if status is None or status.is_folder:
            raise NotFoundError(f"WebDAV {path}: there is no such file", status=404)
        headers = {"Range": f"bytes={start}-"} if start else {}
        answer = self._http.ask("GET", quote(path), headers=headers, stream=True)
        if start and answer.status_code != 206:
            answer.close()
            raise RejectedError(f"WebDAV {path}: the server cannot go on in the middle of a file")
        if answer.headers.get("Content-Encoding", "identity") != "identity":
            answer.close()
            raise RejectedError(f"WebDAV {path}: the server sends it compressed, unasked")
        size_bytes = _length(path, answer, status.size_bytes - start) + start
        changed = answer.headers.get("Last-Modified")
        # Apache calls it weak in the second of a change, and no more afterwards.
        version = answer.headers.get("ETag", "").removeprefix("W/")
        return Status(False, size_bytes, _seconds(changed), version), self._pieces(answer)

    def _pieces(self, answer: requests.Response) -> Iterator[bytes]:
        with answer:
            try:
                yield from answer.iter_content(_PIECE_BYTES)
            except (requests.RequestException, OSError) as error:
                raise self._http.unanswered(error) from error

    def status(self, path: str) -> Status | None:
        """See `Folders`."""
        try:
            return self._found(path, 0).get("")
        except NotFoundError:
            return None
        except RejectedError as error:  # Apache says so of a path below a file
            above = self.status(path.rpartition("/")[0]) if error.status == 400 else None
            if above is None or above.is_folder:
                raise
            return None

    def list(self, path: str) -> dict[str, Status]:
        """See `Folders`."""
        found = self._found(path, 1)
        found.pop("", None)
        return found

    def make_folder(self, path: str) -> None:
        """See `Folders`."""
        if self._is_folder(path):
            return
        if above := path.rpartition("/")[0]:
            self.make_folder(above)
        try:
            self._http.ask("MKCOL", f"{quote(path)}/")
        except ClusterError:
            if not self._is_folder(path):  # else others have made it at the same moment
                raise

    def _is_folder(self, path: str) -> bool:
        return is_folder(self.status(path), f"WebDAV {path}")

    def replace(self, old: str, new: str) -> None:
        """See `Folders`."""
        answer = self._move(old, new, "F")
        if answer.status_code == 412:
            status = self.status(new)
            if status is not None and status.is_folder:
                raise ConflictError(f"WebDAV {new}: there is a folder of that name", status=412)
            answer = self._move(old, new, "T")
        if answer.status_code == 409:
            raise NotFoundError(f"WebDAV {new}: its folder is not there", status=409)
        _check_whole(new, answer)
        if _MISTAKEN.intersection(new) and self.status(new) is None:
            raise RejectedError(
                f"WebDAV {new}: the server has moved it to another name: it mistakes '?' and ';' "
                f"in names; choose another name, or server"
            )

    def _move(self, old: str, new: str, overwrite: str) -> requests.Response:
        headers = {"Destination": self._as_seen + quote(new), "Overwrite": overwrite}
        accepted = (409, 412) if overwrite == "F" else (409,)
        try:
            return self._http.ask("MOVE", quote(old), headers=headers, accepted=accepted)
        except NotFoundError as error:
            if self.status(old) is None:
                raise
            # Apache, which removes the one before, where another client has just done so.
            raise UnreachableError(f"{error}; others replace it, too") from error
        except UnreachableError as error:
            if error.status != 502 or not self._as_seen.startswith("https:"):
                raise
        # Behind a proxy with TLS the server knows itself by another scheme than we do.
        self._as_seen = self._as_seen.replace("https:", "http:", 1)
        return self._move(old, new, overwrite)

    def remove_file(self, path: str) -> None:
        """See `Folders`."""
        _check_whole(path, self._http.ask("DELETE", quote(path)))

    def remove_folder(self, path: str) -> None:
        """See `Folders`."""
        _check_whole(path, self._http.ask("DELETE", f"{quote(path)}/"))

    def _found(self, path: str, depth: int) -> dict[str, Status]:
        """Return what stands at a path, under an empty name, and with depth 1 what is in it."""
        headers = {"Depth": str(depth), "Content-Type": "application/xml"}
        at = quote(path)
        answer = self._http.ask("PROPFIND", at, accepted=_MOVED, headers=headers, data=_ASKED)
        if answer.status_code in _MOVED:  # Apache, to the same with a slash behind
            to = urlsplit(answer.headers.get("Location", "")).path
            if unquote(to) != f"{path}/":
                raise RejectedError(
                    f"WebDAV {path}: it redirects to {to!r}; give that address",
                    status=answer.status_code,
                )
            answer = self._http.ask("PROPFIND", f"{at}/", headers=headers, data=_ASKED)
        try:
            tree = ElementTree.fromstring(answer.content)
        except ElementTree.ParseError:
            tree = ElementTree.Element("none")
        if answer.status_code != 207 or tree.tag != "{DAV:}multistatus":
            raise RejectedError(
                f"WebDAV {path}: the answer ({answer.status_code}) is no multistatus, so this is "
                f"no WebDAV; check the address"
            )
        found, here = {}, path.rstrip("/")
        try:
            for response in tree.iterfind("{DAV:}response"):
                href = unquote(urlsplit(response.findtext("{DAV:}href") or "").path).rstrip("/")
                folder, _, name = href.rpartition("/")
                if here in (href, folder):
                    found["" if href == here else name] = _status(response)
        except ValueError as error:
            raise RejectedError(f"WebDAV {path}: the answer cannot be read: {error}") from error
        return found


class WebdavStore(FolderStore):
    """Files on a WebDAV server."""

    def __init__(self, location: Location, credential: Credential) -> None:
        super().__init__(location, credential, lambda: _SHARED.of(location, credential))


_SHARED = Connections(Webdav)


def _status(response: ElementTree.Element) -> Status:
    size_bytes = response.findtext(".//{DAV:}getcontentlength") or "0"
    changed = response.findtext(".//{DAV:}getlastmodified")
    is_folder = response.find(".//{DAV:}resourcetype/{DAV:}collection") is not None
    return Status(is_folder, 0 if is_folder else int(size_bytes), _seconds(changed))


def _length(path: str, answer: requests.Response, unsaid: int) -> int:
    """Return the length that an answer tells; what it would be where it tells none."""
    told = answer.headers.get("Content-Length")
    if told is None:
        return unsaid
    if not told.isdigit():
        answer.close()
        raise RejectedError(f"WebDAV {path}: the answer has a length that is none: {told[:20]!r}")
    return int(told)


def _seconds(date: str | None) -> float:
    try:
        return parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError):
        return 0.0


def _check_whole(path: str, answer: requests.Response) -> None:
    """Refuse an answer that says of some part that it could not be done."""
    if answer.status_code == 207:
        raise RejectedError(f"WebDAV {path}: not all of it could be done: {answer.text[:300]}")

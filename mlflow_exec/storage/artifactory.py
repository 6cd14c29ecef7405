"""Artifacts in a repository of JFrog Artifactory.

The server keeps a file when all of it has come, and compares it with the hash that was sent along.
So nobody sees half of one; and what it says that it has kept is compared once more.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO
from urllib.parse import quote

import requests

from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import (
    AccessDeniedError,
    ArtifactError,
    ArtifactNotFoundError,
    ClusterError,
    ConflictError,
    LocationError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.storage.artifactory_content import Content
from mlflow_exec.storage.artifactory_http import ArtifactoryHttp, Tries, show_requests
from mlflow_exec.storage.base import Entry, Store, valid_names
from mlflow_exec.storage.shared import Connections
from mlflow_exec.uris import Location, artifact_names

_LOG = logging.getLogger(__name__)
# A large file may be on its way to a store of objects before the server answers.
_PUT_TIMEOUT_S = 600.0
# As JFrog's own command line has it: smaller files are sent before it is asked whether they are
# there.
_LEAST_DEPLOYED_BYTES = 10 * 1024
_SIZES_AT_ONCE = 8
# What has come of a piece is lost with the connection.
_READ_BYTES = 64 * 1024
_NO_MORE = 416
_CONTEXT = "artifactory"
_NO_REPOSITORIES = ("api", "ui", "webapp")
# Artifactory keeps no such names. They are kept as %3A; a name in which that stands, as %253A.
_REFUSED = re.compile(r'[:|?*"<>]|%(?=22|25|2A|3A|3C|3E|3F|7C)')
_ESCAPED = re.compile("%(22|25|2A|3A|3C|3E|3F|7C)")
_FILE_LIST = "list&deep=0&listFolders=1"


@dataclass(frozen=True)
class _Kept:
    """What the server says of a file.

    Attributes:
        algorithm: Of the hash; ``sha1`` for files that have come before Artifactory 5.5.
        hash: In hex.
    """

    algorithm: str
    hash: str


class ArtifactoryStore(Store):
    """Files in a repository, or below a folder in it."""

    def __init__(self, location: Location, credential: Credential) -> None:
        """See `Store`; asks nothing.

        Raises:
            LocationError: The path names no repository.
        """
        super().__init__(location, credential)
        context, self._repository = location.names[:2]
        if context != _CONTEXT or self._repository in _NO_REPOSITORIES:
            raise LocationError(
                f"{location}: the path has to begin with /{_CONTEXT}/ and the name of a "
                f"repository: {location.scheme.example}"
            )
        self._folder = location.names[2:]
        if _is_on("ARTIFACTORY_DEBUG"):
            show_requests()
        shared = _PLAIN if _is_on("ARTIFACTORY_NO_SSL") else _TLS
        self._http = shared.of(location, credential)
        self._has_file_list = True

    def put(self, path: str, content: BinaryIO) -> None:
        """See `Store`; what cannot be read again is sent once, if it is large."""
        place = self._place(path)
        if not path:
            raise ArtifactError(f"{self.location}: is a folder, and no file")
        sent, tries = Content.of(content), Tries()
        with self._explained(path):
            reply = None
            while reply is None:
                try:
                    reply = self._deploy(place, sent) or self._send(place, sent)
                except UnreachableError as error:
                    if not sent.can_be_sent:
                        raise
                    tries.wait(error)
            kept = _sha256_of(reply)
            if not kept:
                raise RejectedError(
                    "the server does not say the SHA-256 of what it has kept, so it is not known "
                    "whether it has; Artifactory 5.5 or newer is needed"
                )
            if kept != sent.sha256:
                with suppress(NotFoundError):
                    self._http.ask("DELETE", place).close()
                raise ArtifactError(
                    f"{self.location}: {path!r} did not arrive as it was sent (SHA-256 {kept} in "
                    f"place of {sent.sha256}); it was removed there"
                )

    def read(self, path: str) -> Iterator[bytes]:
        """See `Store`; goes on where the connection was lost."""
        place = self._place(path)
        kept: _Kept | None = None
        hashed, seen, tries = hashlib.sha256(), 0, Tries()
        with self._explained(path, reads=True):
            while True:
                try:
                    answer, now = self._opened(path, place, seen)
                    with answer:
                        if kept is None:
                            kept, hashed = now, hashlib.new(now.algorithm)
                        elif kept != now:
                            raise ArtifactError(
                                f"{self.location}: {path!r} was replaced while it was read"
                            )
                        for piece in self._pieces(answer, seen):
                            hashed.update(piece)
                            seen += len(piece)
                            tries = Tries()
                            yield piece
                    break
                except UnreachableError as error:
                    tries.wait(error)
                except RejectedError as error:
                    if not seen or error.status != _NO_MORE:
                        raise
                    break  # the connection broke behind the last byte
        if kept is None or hashed.hexdigest() != kept.hash:
            raise ArtifactError(f"{self.location}: {path!r} is not what was kept: its hash differs")

    def entries(self, path: str) -> list[Entry]:
        """See `Store`."""
        place = self._place(path, "api", "storage")
        with self._explained(path):
            try:
                found = self._listed(place)
                if found is None:
                    found = self._told(place)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise RejectedError(f"this is no listing of Artifactory's: {error!r}") from error
        above = f"{path}/" if path else ""
        whole = [replace(entry, path=above + entry.path) for entry in found]
        return sorted(whole, key=lambda entry: entry.path)

    def delete(self, path: str) -> None:
        """See `Store`; does nothing where ``ARTIFACTORY_ARTIFACTS_DELETE_SKIP`` is set."""
        place = self._place(path)
        if _is_on("ARTIFACTORY_ARTIFACTS_DELETE_SKIP"):
            _LOG.info("%s: %r stays: ARTIFACTORY_ARTIFACTS_DELETE_SKIP is set", self.location, path)
            return
        if not path and not self._folder:  # the repository itself stays
            for entry in self.entries(""):
                self.delete(entry.path)
            return
        tries = Tries()
        with self._explained(path):
            while True:
                try:
                    with suppress(NotFoundError):
                        self._http.ask("DELETE", place).close()
                    return
                except UnreachableError as error:
                    tries.wait(error)

    def close(self) -> None:
        """See `Store`."""
        self._http.close()

    # -- parts --------------------------------------------------------------------------------

    def _place(self, path: str, *before: str) -> str:
        """Return the path of a URL."""
        names = [_CONTEXT, *before, self._repository]
        below = map(_escaped, (*self._folder, *artifact_names(path)))
        return "".join(f"/{quote(name, safe='')}" for name in (*names, *below))

    def _deploy(self, place: str, sent: Content) -> dict[str, Any] | None:
        """Make a file of a content that the server has; None where it has it not."""
        if sent.size_bytes is None or sent.size_bytes < _LEAST_DEPLOYED_BYTES:
            return None
        headers = {"X-Checksum-Deploy": "true", "X-Checksum-Sha256": sent.sha256}
        try:
            answer = self._http.ask("PUT", place, headers=headers, data=b"", stream=True)
            reply = self._http.read_json(answer)
        except (NotFoundError, ConflictError, RejectedError):  # or there is no such call
            return None
        # Where a proxy drops the header, an empty file was kept; the content replaces it.
        return reply if _sha256_of(reply) == sent.sha256 else None

    def _send(self, place: str, sent: Content) -> dict[str, Any]:
        headers = {"Content-Type": "application/octet-stream"}
        if sent.size_bytes is not None:
            headers["X-Checksum-Sha256"] = sent.sha256
        try:
            answer = self._http.ask(
                "PUT", place, headers=headers, data=sent.body(), stream=True,
                timeout_s=_PUT_TIMEOUT_S,
            )  # fmt: skip
        except ClusterError:
            if sent.failure is not None:  # it was not the connection that broke
                raise sent.failure from None
            raise
        return self._http.read_json(answer)

    def _opened(self, path: str, place: str, start: int) -> tuple[requests.Response, _Kept]:
        """Return the content of a file from a byte on, and what the whole of it has to be."""
        answer = self._http.download(place, start)
        if found := answer.headers.get("X-Checksum-Sha256"):
            return answer, _Kept("sha256", found.lower())
        answer.close()
        before = self._kept(path)
        answer = self._http.download(place, start)
        if self._kept(path) == before:
            return answer, before
        answer.close()
        raise UnreachableError("it is replaced just now")

    def _kept(self, path: str) -> _Kept:
        """Return what a file has to be; of a folder there is a page that lists it."""
        told = self._http.json("GET", self._place(path, "api", "storage"))
        if "children" in told:
            raise NotFoundError("it is a folder")
        for algorithm in ("sha256", "sha1"):
            if found := (told.get("checksums") or {}).get(algorithm):
                return _Kept(algorithm, str(found).lower())
        raise RejectedError("the server says no hash of it")

    def _listed(self, place: str) -> list[Entry] | None:
        """Return what is in a folder, by one call, where the server allows that."""
        if not self._has_file_list:
            return None
        try:
            told = self._http.json("GET", f"{place}?{_FILE_LIST}")
        except NotFoundError:
            return []
        except (AccessDeniedError, RejectedError):  # it is Artifactory Pro's; or this is a file
            return None
        found = told.get("files")
        return [
            Entry(name, is_folder, None if is_folder else int(item["size"]))
            for name, is_folder, item in _named(self.location, found)
        ]

    def _told(self, place: str) -> list[Entry]:
        """Return what is in a folder, by one call for it and one for each file."""
        try:
            told = self._http.json("GET", place)
        except NotFoundError:
            return []
        if "children" not in told:
            return []
        self._has_file_list = False
        children = list(_named(self.location, told["children"]))

        def entry(child: tuple[str, bool, Any]) -> Entry | None:
            name, is_folder, _ = child
            if is_folder:
                return Entry(name, True)
            with suppress(NotFoundError):  # it has been removed meanwhile
                file = f"{place}/{quote(_escaped(name), safe='')}"
                return Entry(name, False, int(self._http.json("GET", file)["size"]))
            return None

        with ThreadPoolExecutor(_SIZES_AT_ONCE) as pool:
            return [found for found in pool.map(entry, children) if found is not None]

    def _pieces(self, answer: requests.Response, start: int) -> Iterator[bytes]:
        """Yield the content of an answer from there on, also where it has all of it."""
        start = 0 if answer.status_code == 206 else start
        try:
            for piece in answer.iter_content(_READ_BYTES):
                if start < len(piece):
                    yield piece[start:]
                start = max(0, start - len(piece))
        except (requests.RequestException, OSError) as error:
            raise self._http.unanswered(error) from None

    @contextmanager
    def _explained(self, path: str, *, reads: bool = False) -> Iterator[None]:
        """Turn what the client says into errors of a store."""
        try:
            yield
        except ClusterError as error:
            if reads and isinstance(error, NotFoundError):
                text = f"{self.location}: there is no file {path!r}; {error}"
                raise ArtifactNotFoundError(text) from error
            raise ArtifactError(f"{self.location}: {path!r}: {error}") from error


def _connect(scheme: str, location: Location, credential: Credential) -> ArtifactoryHttp:
    port = "" if location.port is None else f":{location.port}"
    base = f"{scheme}://{location.host}{port}"
    return ArtifactoryHttp(base, credential.of_user(location.user))


_PLAIN: Connections[ArtifactoryHttp] = Connections(partial(_connect, "http"))
_TLS: Connections[ArtifactoryHttp] = Connections(partial(_connect, "https"))


def _sha256_of(told: Mapping[str, Any]) -> str:
    return str((told.get("checksums") or {}).get("sha256") or "").lower()


def _named(location: Location, items: Any) -> Iterator[tuple[str, bool, Any]]:
    """Yield name, whether it is a folder, and the rest of what stands in a folder."""
    by_name = {_plain(str(item["uri"]).lstrip("/")): item for item in items or ()}
    for name in valid_names(location, by_name):
        yield name, str(by_name[name]["folder"]).lower() == "true", by_name[name]


def _plain(name: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 16)), name)


def _escaped(name: str) -> str:
    return _REFUSED.sub(lambda match: f"%{ord(match[0]):02X}", name)


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "").strip().lower() not in ("", "0", "false", "no", "off")

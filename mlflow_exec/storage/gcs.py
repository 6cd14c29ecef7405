"""Buckets of Google Cloud Storage, by its JSON API; what is sent has its CRC32C with it.

Of Google's packages only what signs in is used: its client, and gcsfs, make the same requests.
https://docs.cloud.google.com/storage/docs/json_api/v1
"""

from __future__ import annotations

import hashlib
import json
import re
import uuid
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import requests
from crc32c import CRC32CHash, crc32c

from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import (
    AccessDeniedError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.storage.base import PIECE_BYTES
from mlflow_exec.storage.gcs_signing import identity, url_signer
from mlflow_exec.storage.gcs_urls import GcsUrls
from mlflow_exec.storage.http import Http
from mlflow_exec.storage.kept import Hasher, Object
from mlflow_exec.storage.objects import Objects, ObjectStore, remove_each
from mlflow_exec.storage.parts import PART_BYTES, Upload, again, mark_in
from mlflow_exec.storage.ranges import part_of
from mlflow_exec.storage.refusals import nothing_of
from mlflow_exec.storage.shared import Connections
from mlflow_exec.uris import Location

_PAGE = 1000
_GO_ON = 308
_ABORTED = 499
_DAMAGED = "doesn't match calculated"
_KIND = {"X-Upload-Content-Type": "application/octet-stream"}


class GcsObjects(Objects):
    """One bucket."""

    def __init__(self, location: Location, credential: Credential) -> None:
        """Keep what is asked by.

        Raises:
            CredentialError: The endpoint is none, or the key is.
        """
        self._bucket = location.host
        base, signed_by = identity(location, credential)
        self._http = Http(
            "Google Cloud Storage", base, signed_by,
            "the endpoint says whether it speaks TLS: http:// or https://",
        )  # fmt: skip
        self._base, self._signer = base, url_signer(location, credential)
        self._at = f"/storage/v1/b/{quote(self._bucket, safe='')}/o"

    def put(self, key: str, content: bytes) -> None:
        """See `Objects`."""
        boundary = uuid.uuid4().hex
        told = json.dumps({"name": key, "crc32c": _text(crc32c(content))})
        body = b"".join((
            f"--{boundary}\r\nContent-Type: application/json\r\n\r\n{told}\r\n"
            f"--{boundary}\r\nContent-Type: application/octet-stream\r\n\r\n".encode(),
            content, f"\r\n--{boundary}--\r\n".encode(),
        ))  # fmt: skip
        headers = {"Content-Type": f"multipart/related; boundary={boundary}"}
        with self._in_bucket():
            try:
                self._http.ask(
                    "POST", f"/upload{self._at}?uploadType=multipart", headers=headers, data=body
                )
            except RejectedError as error:
                if error.status != 400 or _DAMAGED not in str(error):
                    raise
                raise UnreachableError(str(error), status=error.status) from error

    def upload(self, key: str) -> Upload:
        """See `Objects`."""
        query = urlencode({"uploadType": "resumable", "name": key}, quote_via=quote)
        with self._in_bucket():
            told = self._http.ask("POST", f"/upload{self._at}?{query}", headers=_KIND)
        place = urlsplit(told.headers.get("Location", ""))
        if "upload_id" not in place.query:
            raise RejectedError(
                f"{key}: the answer has no place for an upload; is the endpoint one of Google "
                f"Cloud Storage?"
            )
        # Of the place only what follows the host: who asks says which one that is.
        return _GcsUpload(self, key, f"{place.path}?{place.query}")

    def read(self, key: str, start: int, end: int) -> tuple[bytes, Object]:
        """See `Objects`."""
        headers = {"Range": f"bytes={start}-{end - 1}"}
        try:
            answer = self._ask_of(key, "GET", {"alt": "media"}, headers=headers, stream=True)
        except NotFoundError:
            self._check_bucket()
            raise
        except RejectedError as error:
            return nothing_of(error, self.find(key))
        with answer:
            told = answer.headers
            if told.get("X-Goog-Stored-Content-Encoding", "identity") != "identity":
                raise RejectedError(
                    f"{key}: it is kept compressed, so no range of it can be read; keep it as it is"
                )
            try:
                content, size_bytes = part_of(
                    answer.iter_content(PIECE_BYTES), start, end, told.get("Content-Range"),
                    told.get("Content-Length"),
                )  # fmt: skip
            except (requests.RequestException, OSError) as error:
                raise self._http.unanswered(error) from error
        sums = dict(re.findall(r"(\w+)=([\w+/=]+)", told.get("X-Goog-Hash", "")))
        return content, _object(size_bytes, told.get("X-Goog-Generation", ""), sums)

    def find(self, key: str) -> Object | None:
        """See `Objects`."""
        try:
            told = self._json(
                self._ask_of(key, "GET", {"fields": "size,generation,crc32c,md5Hash,metadata"})
            )
        except NotFoundError:
            self._check_bucket()
            return None
        sums = {"crc32c": told.get("crc32c", ""), "md5": told.get("md5Hash", "")}
        version, mark = str(told.get("generation", "")), mark_in(told.get("metadata"))
        return replace(_object(int(told["size"]), version, sums), mark=mark)

    def list(self, prefix: str) -> Iterator[tuple[str, int | None]]:
        """See `Objects`."""
        fields = "items(name,size),prefixes,nextPageToken"
        for page in self._pages(prefix, delimiter="/", fields=fields):
            for found in page.get("items", ()):
                yield found["name"][len(prefix) :], int(found["size"])
            for folder in page.get("prefixes", ()):
                yield folder[len(prefix) :].rstrip("/"), None

    def keys(self, prefix: str) -> Iterator[str]:
        """See `Objects`."""
        for page in self._pages(prefix, fields="items(name),nextPageToken"):
            yield from (found["name"] for found in page.get("items", ()))

    def remove(self, keys: Iterable[str]) -> None:
        """See `Objects`."""
        remove_each(self.remove_one, keys)

    def remove_one(self, key: str, generation: str = "") -> None:
        """Remove an object, of which only one generation where that is given."""
        with suppress(NotFoundError):
            self._ask_of(key, "DELETE", {"generation": generation} if generation else {})

    @property
    def urls(self) -> GcsUrls | None:
        """See `Objects`; nothing but the key of a service account signs."""
        signer = self._signer
        return GcsUrls(self, self._bucket, self._base, signer) if signer is not None else None

    def ask(self, method: str, path: str, **given: Any) -> requests.Response:
        """Ask for something by a path of Google's XML API, which has uploads in parts."""
        return self._http.ask(method, path, **given)

    def send(
        self, place: str, what: str, content: memoryview, headers: Mapping[str, str]
    ) -> requests.Response:
        """Send a range of an upload; the answer is 308 as long as there is more to come.

        Args:
            place: Of the upload.
            what: The range, and the size of all where that is known.
            content: What is in it; nothing asks how much has come.
            headers: Further ones.
        """
        try:
            return self._http.ask(
                "PUT", place, data=content, headers={"Content-Range": what, **headers},
                accepted=(_GO_ON,),
            )  # fmt: skip
        except NotFoundError as error:
            raise RejectedError(f"{error}; that upload is over: begin it again") from error

    def abort(self, place: str) -> None:
        """Remove what has come of an upload."""
        self._http.ask("DELETE", place, accepted=(_ABORTED,))

    def _ask_of(
        self, key: str, method: str, query: Mapping[str, str], **given: Any
    ) -> requests.Response:
        asked = f"?{urlencode(query)}" if query else ""
        return self._http.ask(method, f"{self._at}/{quote(key, safe='')}{asked}", **given)

    def _pages(self, prefix: str, **asked: str) -> Iterator[Mapping[str, Any]]:
        query = {"prefix": prefix, "maxResults": str(_PAGE), **asked}
        while True:
            with self._in_bucket():
                told = self._http.ask("GET", f"{self._at}?{urlencode(query, quote_via=quote)}")
            page = self._json(told)
            yield page
            if not page.get("nextPageToken"):
                return
            query["pageToken"] = page["nextPageToken"]

    def _json(self, answer: requests.Response) -> Mapping[str, Any]:
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise RejectedError(
                f"{self._bucket}: the answer is no JSON; is the endpoint one of Google Cloud "
                f"Storage?"
            )
        return found

    @contextmanager
    def _in_bucket(self) -> Iterator[None]:
        """Do what is refused as not found only where there is no bucket."""
        try:
            yield
        except NotFoundError as error:
            raise RejectedError(
                f"the bucket {self._bucket!r} is not there: {error}", status=error.status
            ) from error

    def _check_bucket(self) -> None:
        """Raise an error where there is no bucket: what is asked of an object does not tell."""
        with self._in_bucket(), suppress(AccessDeniedError):
            self._http.ask("GET", f"{self._at}?maxResults=1&fields=nextPageToken")


class _GcsUpload(Upload):
    """A resumable upload: the parts of one come one after the other.

    What it does not get to its end is removed by Google after a week.
    https://docs.cloud.google.com/storage/docs/performing-resumable-uploads
    """

    def __init__(self, objects: GcsObjects, key: str, place: str) -> None:
        self._objects, self._key, self._place = objects, key, place
        self._crc32c = 0
        self._size_bytes = 0
        self._last = b""

    def write(self, part: bytes) -> None:
        """See `Upload`."""
        self._crc32c = crc32c(part, self._crc32c)
        if len(part) < PART_BYTES:  # the last one is sent with the size and the sum of all
            self._last = part
            return
        self._send(part, None)

    def commit(self) -> None:
        """See `Upload`."""
        answer = self._send(self._last, self._size_bytes + len(self._last))
        told, kept = self._objects._json(answer), _text(self._crc32c)
        size_bytes = int(told.get("size", self._size_bytes))
        if told.get("crc32c", kept) != kept or size_bytes != self._size_bytes:
            self._objects.remove_one(self._key, str(told.get("generation", "")))
            raise RejectedError(
                f"{self._key}: what came is not what was sent, and was removed; upload it again"
            )

    def abort(self) -> None:
        """See `Upload`."""
        self._objects.abort(self._place)

    def _send(self, part: bytes, total_bytes: int | None) -> requests.Response:
        """Send a part until all of it has come; return the last answer.

        Args:
            part: It.
            total_bytes: The size of all where this is the last one.
        """
        begin, end = self._size_bytes, self._size_bytes + len(part)
        came: int | None = begin
        is_last = total_bytes is not None
        headers = {"X-Goog-Hash": f"crc32c={_text(self._crc32c)}"} if is_last else {}

        def ask(rest: memoryview) -> tuple[requests.Response, bool]:
            nonlocal came
            came = None  # nobody knows until there is an answer
            what = f"bytes {end - len(rest)}-{end - 1}" if rest else "bytes *"
            what += f"/{total_bytes if is_last else '*'}"
            answer = self._objects.send(self._place, what, rest, headers)
            if answer.status_code == _GO_ON:
                came = self._came(answer, begin, end)
            return answer, came is None or (came == end and not is_last)

        def step() -> tuple[requests.Response, bool]:
            if came is None:  # there was no answer to what was sent
                answer, is_done = ask(memoryview(b""))
                if is_done:
                    return answer, True
            before = came or 0
            answer, is_done = ask(memoryview(part)[before - begin :])
            if came == before:
                raise UnreachableError(f"{self._key}: nothing of what was sent is there")
            return answer, is_done

        is_done = False
        while not is_done:
            answer, is_done = again(step)
        if answer.status_code != _GO_ON and not is_last:
            raise RejectedError(f"{self._key}: the upload was ended before all had come")
        self._size_bytes = end
        return answer

    def _came(self, answer: requests.Response, begin: int, end: int) -> int:
        """Return how many bytes are there, as the answer tells; those before a part have come."""
        told = answer.headers.get("Range", "").rpartition("-")[2]
        came = int(told) + 1 if told.isdigit() else 0
        if not begin <= came <= end:
            raise RejectedError(
                f"{self._key}: {came} bytes are there, of {begin} that had come; upload it again"
            )
        return came


def _object(size_bytes: int, version: str, sums: Mapping[str, str]) -> Object:
    if crc := sums.get("crc32c"):
        return Object(size_bytes, version, b64decode(crc).hex(), CRC32CHash)
    return Object(size_bytes, version, b64decode(sums.get("md5", "")).hex(), _md5)


def _text(crc: int) -> str:
    return b64encode(crc.to_bytes(4, "big")).decode()


def _md5() -> Hasher:
    return hashlib.md5(usedforsecurity=False)


class GcsStore(ObjectStore):
    """Files in a bucket of Google Cloud Storage."""

    def __init__(self, location: Location, credential: Credential) -> None:
        super().__init__(location, credential, lambda: _GCS.of(location, credential))


_GCS = Connections(GcsObjects)

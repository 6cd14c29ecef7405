"""Buckets of Oracle Cloud's Object Storage, by its SDK; what is sent has its CRC32C with it.

The SDK is large: this is imported when a location is opened.
"""

from __future__ import annotations

import hashlib
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

import crc32c
import oci
from oci._vendor import requests

from mlflow_exec.clients.tls import tls_refusal
from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import (
    ClusterError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.storage.base import PIECE_BYTES
from mlflow_exec.storage.kept import Hasher, Object
from mlflow_exec.storage.objects import Objects, ObjectStore
from mlflow_exec.storage.oci_signing import identity
from mlflow_exec.storage.parts import MARK, Begun, PartsUpload, Upload, ended, new_mark
from mlflow_exec.storage.ranges import part_of
from mlflow_exec.storage.refusals import nothing_of, refusal, told_by
from mlflow_exec.storage.shared import Connections
from mlflow_exec.uris import Location

_CONNECTIONS = 64
_TIMEOUT_S = (15.0, 120.0)
_PAGE = 1000
# Damaged on its way, or in the way of another one.
_AGAIN = ("UnmatchedContentMD5", "UnmatchedContentCRC32C", "BadDigest", "IncorrectState")
_ALGORITHM = {"opc_checksum_algorithm": "CRC32C"}
_MARK = f"opc-meta-{MARK}"


class OciObjects(Objects):
    """One bucket."""

    def __init__(self, location: Location, credential: Credential) -> None:
        """Keep what is asked by.

        Raises:
            CredentialError: There is no identity to ask with, or it is not complete.
        """
        bucket, _, namespace = location.host.partition("@")
        self._bucket = {"namespace_name": namespace, "bucket_name": bucket}
        self._where = f"bucket {bucket!r} of namespace {namespace!r}"
        self._credential = credential
        config, others = identity(location, credential)
        endpoint = credential.get("endpoint")
        if endpoint:
            others["service_endpoint"] = endpoint
        self._client = oci.object_storage.ObjectStorageClient(
            config, timeout=_TIMEOUT_S,
            retry_strategy=oci.retry.NoneRetryStrategy(),  # who calls this tries again
            circuit_breaker_strategy=oci.circuit_breaker.NoCircuitBreakerStrategy(), **others,
        )  # fmt: skip
        session = self._client.base_client.session
        for prefix in ("http://", "https://"):
            session.mount(prefix, type(session.get_adapter(prefix))(pool_maxsize=_CONNECTIONS))

    def put(self, key: str, content: bytes) -> None:
        """See `Objects`."""
        self.ask(
            "put_object", object_name=key, put_object_body=content,
            opc_content_crc32c=_sum(content), **_ALGORITHM,
        )  # fmt: skip

    def upload(self, key: str) -> Upload:
        """See `Objects`."""
        return _OciUpload(self, key)

    def read(self, key: str, start: int, end: int) -> tuple[bytes, Object]:
        """See `Objects`."""
        try:
            told = self.ask("get_object", object_name=key, range=f"bytes={start}-{end - 1}")
        except RejectedError as error:
            return nothing_of(error, self.find(key))
        with self._asked(key), told.data as body:
            content, size_bytes = part_of(
                body.iter_content(PIECE_BYTES), start, end, told.headers.get("content-range"),
                told.headers.get("content-length"),
            )  # fmt: skip
        return content, _object(told.headers, size_bytes)

    def find(self, key: str) -> Object | None:
        """See `Objects`."""
        try:
            headers = self.ask("head_object", object_name=key).headers
        except NotFoundError:
            return None
        return _object(headers, int(headers["content-length"]))

    def list(self, prefix: str) -> Iterator[tuple[str, int | None]]:
        """See `Objects`."""
        for page in self._pages(prefix, delimiter="/", fields="size"):
            for found in page.objects:
                yield found.name[len(prefix) :], found.size
            for folder in page.prefixes or []:
                yield folder[len(prefix) :].rstrip("/"), None

    def keys(self, prefix: str) -> Iterator[str]:
        """See `Objects`."""
        for page in self._pages(prefix):
            yield from (found.name for found in page.objects)

    def remove(self, keys: Iterable[str]) -> None:
        """See `Objects`."""
        models = oci.object_storage.models
        left = iter(keys)
        while some := list(islice(left, _PAGE)):
            objects = [models.BatchDeleteObjectIdentifier(object_name=key) for key in some]
            details = models.BatchDeleteObjectsDetails(objects=objects, is_skip_deleted_result=True)
            told = self.ask("batch_delete_objects", batch_delete_objects_details=details)
            for failed in told.data.failed or []:
                if failed.status_code != 404:
                    raise RejectedError(
                        f"{self._where}: {failed.object_name}: {failed.status_code}: "
                        f"{failed.error_message}"
                    )

    def close(self) -> None:
        """See `Objects`; other stores have the connections, too."""

    def ask(self, method: str, **arguments: Any) -> Any:
        """Return what the SDK's client answers."""
        with self._asked(str(arguments.get("object_name", ""))):
            return getattr(self._client, method)(**self._bucket, **arguments)

    def _pages(self, prefix: str, **arguments: Any) -> Iterator[Any]:
        begin: dict[str, str] = {}
        while True:
            page = self.ask("list_objects", prefix=prefix, limit=_PAGE, **begin, **arguments).data
            yield page
            if not page.next_start_with:
                return
            begin = {"start": page.next_start_with}

    def _asked(self, what: str) -> AbstractContextManager[None]:
        """Turn what the SDK says into errors of ours."""
        return told_by(self._told, what)

    def _told(self, what: str, error: Exception) -> ClusterError:
        where = f"{self._where}: {what}" if what else self._where
        if isinstance(error, oci.exceptions.ServiceError):
            code = error.code or ""
            text = " ".join(f"{where}: {error.status} {code}: {error.message}".split())
            text += f" (request {error.request_id})"
            if code in _AGAIN:
                return UnreachableError(text, status=error.status, reason=code)
            return refusal(text, error.status, self._credential, reason=code)
        inner: Any = error
        while isinstance(inner, Exception) and inner.args and isinstance(inner.args[0], Exception):
            inner = inner.args[0]
        said = " ".join(str(inner).split()) or type(inner).__name__
        if isinstance(error, (requests.RequestException, OSError)):
            refused = tls_refusal(
                where, error,
                way_to_trust="set REQUESTS_CA_BUNDLE to a file with its authority",
                way_to_plain="the endpoint says whether it speaks TLS: http:// or https://",
            )  # fmt: skip
            return refused or UnreachableError(f"{where}: no answer: {said}")
        return refusal(f"{where}: {said}", 400, self._credential)


class _OciUpload(PartsUpload):
    def __init__(self, objects: OciObjects, key: str) -> None:
        super().__init__()
        self._objects, self._key = objects, key
        mark = new_mark()
        details = oci.object_storage.models.CreateMultipartUploadDetails(
            object=key, metadata={_MARK: mark}
        )
        told = objects.ask(
            "create_multipart_upload", create_multipart_upload_details=details, **_ALGORITHM
        )
        self._begun = Begun(str(told.data.upload_id), mark)
        self._id = {"object_name": key, "upload_id": self._begun.id}

    def send(self, number: int, part: bytes) -> Any:
        part = bytes(part)  # which the SDK takes no other for
        told = self._objects.ask(
            "upload_part", upload_part_num=number, upload_part_body=part,
            opc_content_crc32c=_sum(part), **_ALGORITHM, **self._id,
        )  # fmt: skip
        return oci.object_storage.models.CommitMultipartUploadPartDetails(
            part_num=number, etag=told.headers["etag"]
        )

    def finish(self, sent: Sequence[Any]) -> str:
        details = oci.object_storage.models.CommitMultipartUploadDetails(parts_to_commit=list(sent))

        def end() -> str:
            told = self._objects.ask(
                "commit_multipart_upload", commit_multipart_upload_details=details, **self._id
            )
            return str(told.headers.get("etag", ""))

        return ended(self._begun, end, lambda: self._objects.find(self._key))

    def remove(self) -> None:
        self._objects.ask("abort_multipart_upload", **self._id)


def _object(headers: Any, size_bytes: int) -> Object:
    version, mark = headers.get("etag", ""), headers.get(_MARK, "")
    if crc := headers.get("opc-content-crc32c"):
        return Object(size_bytes, version, b64decode(crc).hex(), crc32c.CRC32CHash, mark)
    md5 = headers.get("content-md5")
    return Object(size_bytes, version, b64decode(md5).hex() if md5 else "", _md5, mark)


def _sum(content: bytes) -> str:
    return b64encode(crc32c.crc32c(content).to_bytes(4, "big")).decode()


def _md5() -> Hasher:
    return hashlib.md5(usedforsecurity=False)


class OciStore(ObjectStore):
    """Files in a bucket of Oracle's Object Storage."""

    def __init__(self, location: Location, credential: Credential) -> None:
        super().__init__(location, credential, lambda: _OCI.of(location, credential))


_OCI = Connections(OciObjects)

"""Buckets of Alibaba Cloud OSS, by its SDK; what is sent has its MD5 with it."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import cached_property
from itertools import islice
from typing import Any

import alibabacloud_oss_v2 as oss
import requests
from alibabacloud_oss_v2.crc import Crc64
from alibabacloud_oss_v2.retry import NopRetryer
from alibabacloud_oss_v2.transport import RequestsHttpClient
from requests.adapters import HTTPAdapter

from mlflow_exec.clients.tls import tls_refusal
from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    CredentialError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.storage.base import PIECE_BYTES
from mlflow_exec.storage.kept import Object
from mlflow_exec.storage.objects import Objects, ObjectStore
from mlflow_exec.storage.parts import MARK, Begun, PartsUpload, Upload, ended, mark_in, new_mark
from mlflow_exec.storage.ranges import part_of
from mlflow_exec.storage.refusals import nothing_of, refusal, told_by
from mlflow_exec.storage.shared import Connections
from mlflow_exec.storage.signed_urls import SignedUrl, SignedUrls
from mlflow_exec.uris import Location

_CONNECTIONS = 64
_TIMEOUT_S = (15.0, 120.0)
_PAGE = 1000
_CONTENT_TYPE = "application/octet-stream"
_OF_REGION = re.compile(r"oss-(?!accelerate)([a-z0-9-]+?)(-internal)?\.aliyuncs\.com")
# It did not come as it was sent.
_DAMAGED = ("InvalidDigest", "BadDigest", "RequestTimeout")


class OssObjects(Objects, SignedUrls):
    """One bucket."""

    def __init__(self, location: Location, credential: Credential) -> None:
        """Keep what is asked by.

        Raises:
            CredentialError: It is not said which endpoint or region the bucket is in.
        """
        self._bucket = location.host
        self._credential = credential
        endpoint, region = credential.get("endpoint") or "", credential.get("region") or ""
        found = _OF_REGION.search(endpoint)
        region = region or (found[1] if found else "")
        if not region:
            raise CredentialError(
                f"{location}: the region of the bucket is needed: OSS_REGION, 'region' in a named "
                f"credential, or an endpoint with it, such as oss-cn-hangzhou.aliyuncs.com"
            )
        self._where = f"oss://{self._bucket} at {endpoint or region}"
        self._session = _session()
        config = oss.config.load_default()
        config.region, config.endpoint = region, endpoint or None
        self._signs = "key_id" in credential.fields or not credential.is_whole
        config.credentials_provider = (
            oss.credentials.CredentialsProviderFunc(self._keys)
            if self._signs
            else oss.credentials.AnonymousCredentialsProvider()
        )
        config.http_client = RequestsHttpClient(
            session=self._session, connect_timeout=_TIMEOUT_S[0], readwrite_timeout=_TIMEOUT_S[1]
        )
        config.retryer = NopRetryer()  # who calls this tries again
        config.disable_upload_crc64_check = True  # MD5 it is, which is compared before it shows
        self._client = oss.Client(config)

    def put(self, key: str, content: bytes) -> None:
        """See `Objects`."""
        self.ask("put_object", oss.PutObjectRequest, key, body=content, content_md5=_md5(content))

    def upload(self, key: str) -> Upload:
        """See `Objects`."""
        return _OssUpload(self, key)

    def read(self, key: str, start: int, end: int) -> tuple[bytes, Object]:
        """See `Objects`."""
        # Without "standard" it sends all of an object that ends before the range does.
        asked = {"range_header": f"bytes={start}-{end - 1}", "range_behavior": "standard"}
        try:
            told = self.ask("get_object", oss.GetObjectRequest, key, **asked)
        except RejectedError as error:
            return nothing_of(error, self.find(key))
        with self._asked(key), told.body as body:
            content, size_bytes = part_of(
                body.iter_bytes(block_size=PIECE_BYTES), start, end, told.content_range,
                told.content_length,
            )  # fmt: skip
        return content, _object(told, size_bytes)

    def find(self, key: str) -> Object | None:
        """See `Objects`."""
        try:
            told = self.ask("head_object", oss.HeadObjectRequest, key)
        except NotFoundError as error:
            if error.reason == "NoSuchBucket":
                raise
            return None
        return _object(told, told.content_length, mark_in(told.metadata))

    def list(self, prefix: str) -> Iterator[tuple[str, int | None]]:
        """See `Objects`."""
        for page in self._pages(prefix, delimiter="/"):
            for found in page.contents or []:
                yield found.key[len(prefix) :], found.size
            for folder in page.common_prefixes or []:
                yield folder.prefix[len(prefix) :].rstrip("/"), None

    def keys(self, prefix: str) -> Iterator[str]:
        """See `Objects`."""
        for page in self._pages(prefix):
            yield from (found.key for found in page.contents or [])

    def remove(self, keys: Iterable[str]) -> None:
        """See `Objects`."""
        left = iter(keys)
        while some := list(islice(left, _PAGE)):
            objects = [oss.DeleteObject(key=key) for key in some]
            with self._asked(""):
                self._client.delete_multiple_objects(
                    oss.DeleteMultipleObjectsRequest(
                        bucket=self._bucket, objects=objects, quiet=True
                    )
                )

    # -- signed URLs ------------------------------------------------------------------------

    @property
    def urls(self) -> SignedUrls | None:
        """See `Objects`."""
        return self if self._signs else None

    def get_url(self, key: str, life_s: int) -> SignedUrl:
        """See `SignedUrls`."""
        return self._url(oss.GetObjectRequest, key, life_s)

    def put_url(self, key: str, life_s: int) -> SignedUrl:
        """See `SignedUrls`."""
        # A type that the client adds of itself would not be signed, and be refused.
        return self._url(oss.PutObjectRequest, key, life_s, content_type=_CONTENT_TYPE)

    def begin_parts(self, key: str) -> str:
        """See `SignedUrls`."""
        mark = new_mark()
        told = self.ask(
            "initiate_multipart_upload", oss.InitiateMultipartUploadRequest, key,
            metadata={MARK: mark},
        )  # fmt: skip
        return str(Begun(str(told.upload_id), mark))

    def part_url(self, key: str, upload: str, number: int, life_s: int) -> SignedUrl:
        """See `SignedUrls`."""
        id_ = Begun.parse(upload).id
        return self._url(oss.UploadPartRequest, key, life_s, upload_id=id_, part_number=number)

    def finish_parts(self, key: str, upload: str, etags: Mapping[int, str]) -> None:
        """See `SignedUrls`."""
        self.complete(key, Begun.parse(upload), etags)

    def abort_parts(self, key: str, upload: str) -> None:
        """See `SignedUrls`."""
        id_ = Begun.parse(upload).id
        self.ask("abort_multipart_upload", oss.AbortMultipartUploadRequest, key, upload_id=id_)

    def complete(self, key: str, begun: Begun, etags: Mapping[int, str]) -> str:
        """Make an object of parts, by what the bucket has called them; return its version."""
        named = [oss.UploadPart(part_number=n, etag=etags[n]) for n in sorted(etags)]
        parts = oss.CompleteMultipartUpload(parts=named)

        def end() -> str:
            told = self.ask(
                "complete_multipart_upload", oss.CompleteMultipartUploadRequest, key,
                upload_id=begun.id, complete_multipart_upload=parts,
            )  # fmt: skip
            return str(told.etag or "")

        return ended(begun, end, lambda: self.find(key))

    def _url(self, request: Any, key: str, life_s: int, **arguments: Any) -> SignedUrl:
        with self._asked(key):
            asked = request(bucket=self._bucket, key=key, **arguments)
            told = self._client.presign(asked, expires=timedelta(seconds=life_s))
        return SignedUrl(str(told.url), dict(told.signed_headers))

    # -- the client -------------------------------------------------------------------------

    def close(self) -> None:
        """See `Objects`; other stores have the connections, too."""

    def ask(self, method: str, request: Any, key: str, **arguments: Any) -> Any:
        """Return what the SDK's client answers to a request for an object."""
        with self._asked(key):
            asked = request(bucket=self._bucket, key=key, **arguments)
            return getattr(self._client, method)(asked)

    def _pages(self, prefix: str, **arguments: Any) -> Iterator[Any]:
        token = None
        while True:
            with self._asked(prefix):
                page = self._client.list_objects_v2(
                    oss.ListObjectsV2Request(
                        bucket=self._bucket, prefix=prefix or None, max_keys=_PAGE,
                        encoding_type="url", continuation_token=token, **arguments,
                    )
                )  # fmt: skip
            yield page
            if not page.is_truncated:
                return
            token = page.next_continuation_token

    def _keys(self) -> Any:
        key_id = self._credential.get("key_id")
        if not key_id:
            found = self._chain.get_credential()
            return oss.credentials.Credentials(
                found.access_key_id, found.access_key_secret, found.security_token or None
            )
        return oss.credentials.Credentials(
            key_id, self._credential.get("key_secret") or "", self._credential.get("session_token")
        )

    @cached_property
    def _chain(self) -> Any:
        """Alibaba's own: its variables, OIDC, its configuration file, the role of the machine."""
        from alibabacloud_credentials.client import Client

        return Client()

    def _asked(self, what: str) -> AbstractContextManager[None]:
        """Turn what the SDK says into errors of ours."""
        return told_by(self._told, what)

    def _told(self, what: str, error: Exception) -> ClusterError:
        where = f"{self._where}: {what}" if what else self._where
        while callable(below := getattr(error, "unwrap", None)) and isinstance(below(), Exception):
            error = below()
        if isinstance(error, oss.exceptions.ServiceError):
            text = f"{where}: {error.status_code} {error.code}: {error.message}"
            text += f" (request {error.request_id})"
            if error.code in _DAMAGED:
                return UnreachableError(text, status=error.status_code, reason=error.code)
            return refusal(text, error.status_code, self._credential, reason=error.code)
        said = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, oss.exceptions.CredentialsBaseError):
            inner = error.kwargs.get("error")
            if isinstance(inner, CredentialError):
                raise inner
            return AccessDeniedError(f"{where}: {said}; set MLFLOW_OSS_KEY_ID and …_KEY_SECRET")
        if isinstance(error, requests.RequestException):
            refused = tls_refusal(
                where, error,
                way_to_trust="set REQUESTS_CA_BUNDLE to a file with its authority",
                way_to_plain="the endpoint says whether it speaks TLS: http:// or https://",
            )  # fmt: skip
            return refused or UnreachableError(f"{where}: no answer: {said}")
        return refusal(f"{where}: {said}", 400, self._credential)


class _OssUpload(PartsUpload):
    def __init__(self, objects: OssObjects, key: str) -> None:
        super().__init__()
        self._objects, self._key = objects, key
        self._begun = Begun.parse(objects.begin_parts(key))

    def send(self, number: int, part: bytes) -> Any:
        part = bytes(part)  # which the SDK takes no other for
        told = self._objects.ask(
            "upload_part", oss.UploadPartRequest, self._key,
            part_number=number, body=part, content_md5=_md5(part), upload_id=self._begun.id,
        )  # fmt: skip
        return number, told.etag

    def finish(self, sent: Sequence[Any]) -> str:
        etags = {number: str(etag) for number, etag in sent}
        return self._objects.complete(self._key, self._begun, etags)

    def remove(self) -> None:
        self._objects.abort_parts(self._key, str(self._begun))


def _session() -> requests.Session:
    session = requests.Session()
    session.auth = lambda request: request  # else requests would look into ~/.netrc
    for prefix in ("http://", "https://"):
        session.mount(prefix, HTTPAdapter(pool_connections=_CONNECTIONS, pool_maxsize=_CONNECTIONS))
    return session


def _object(told: Any, size_bytes: int, mark: str = "") -> Object:
    checksum = f"{int(told.hash_crc64):016x}" if told.hash_crc64 else ""
    return Object(size_bytes, told.etag or "", checksum, _crc64, mark)


class _Crc64(Crc64):  # type: ignore[misc]
    def hexdigest(self) -> str:
        return f"{self.sum64():016x}"


def _crc64() -> _Crc64:
    return _Crc64(0)


def _md5(content: bytes) -> str:
    return b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


class OssStore(ObjectStore):
    """Files in a bucket of OSS."""

    def __init__(self, location: Location, credential: Credential) -> None:
        super().__init__(location, credential, lambda: _OSS.of(location, credential))


_OSS = Connections(OssObjects)

"""A bucket of S3, or of what speaks it, by boto3.

Not by s3fs, whose one thread computes all checksums and signatures, and which holds boto3 back at
the version that its own fork of botocore is made of.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    SSLError,
)
from botocore.session import Session
from urllib3.exceptions import HTTPError

from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import (
    AccessDeniedError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.storage.base import PIECE_BYTES
from mlflow_exec.storage.kept import Object
from mlflow_exec.storage.objects import Objects, ObjectStore
from mlflow_exec.storage.parts import MARK, Begun, PartsUpload, Upload, ended, mark_in, new_mark
from mlflow_exec.storage.ranges import part_of
from mlflow_exec.storage.refusals import kind_of
from mlflow_exec.storage.shared import Connections
from mlflow_exec.storage.signed_urls import SignedUrl, SignedUrls
from mlflow_exec.uris import Location

_CONNECTIONS = 64
_REMOVED_AT_ONCE = 1000
_NO_RANGE = 416
_NOT_OF_KEYS = ("NoSuchBucket", "NoSuchUpload")  # and yet 404


class S3Objects(Objects, SignedUrls):
    """One bucket."""

    def __init__(self, location: Location, credential: Credential) -> None:
        self._bucket = location.host
        self._credential = credential
        self._signs = "key_id" in credential.fields or not credential.is_whole
        self._lock = threading.Lock()
        self._made: Any = None

    def put(self, key: str, content: bytes) -> None:
        """See `Objects`."""
        self.call("put_object", key, Key=key, Body=content)

    def upload(self, key: str) -> Upload:
        """See `Objects`."""
        return _S3Upload(self, key)

    def read(self, key: str, start: int, end: int) -> tuple[bytes, Object]:
        """See `Objects`."""
        try:
            told = self.call("get_object", key, Key=key, Range=f"bytes={start}-{end - 1}")
        except RejectedError as error:
            found = self.find(key) if error.status == _NO_RANGE else None
            if found is None or found.size_bytes:
                raise
            return b"", found  # nothing is no range
        with self._asked(key), told["Body"] as body:
            content, size_bytes = part_of(
                body.stream(PIECE_BYTES), start, end, told.get("ContentRange"),
                told.get("ContentLength"),
            )  # fmt: skip
        return content, Object(size_bytes, str(told.get("ETag", "")))

    def find(self, key: str) -> Object | None:
        """See `Objects`."""
        try:
            told = self.call("head_object", key, Key=key)
        except NotFoundError:
            # This answer has no body, so it may be the bucket that is not there.
            with suppress(AccessDeniedError):
                self.call("list_objects_v2", "", Prefix=key, MaxKeys=1)
            return None
        size_bytes = int(self._told(told, "ContentLength", key))
        mark = mark_in(told.get("Metadata"))
        return Object(size_bytes, str(told.get("ETag", "")), mark=mark)

    def list(self, prefix: str) -> Iterator[tuple[str, int | None]]:
        """See `Objects`."""
        for page in self._pages(prefix, Delimiter="/"):
            for folder in page.get("CommonPrefixes", ()):
                yield folder["Prefix"][len(prefix) :].rstrip("/"), None
            for found in page.get("Contents", ()):
                name = found["Key"][len(prefix) :]
                # Some list the marker of a folder as an object in the one above.
                yield name.rstrip("/"), None if name.endswith("/") else int(found["Size"])

    def keys(self, prefix: str) -> Iterator[str]:
        """See `Objects`."""
        for page in self._pages(prefix):
            yield from (found["Key"] for found in page.get("Contents", ()))

    def remove(self, keys: Iterable[str]) -> None:
        """See `Objects`."""
        left = [{"Key": key} for key in keys]
        while left:
            some, left = left[:_REMOVED_AT_ONCE], left[_REMOVED_AT_ONCE:]
            told = self.call("delete_objects", "", Delete={"Objects": some, "Quiet": True})
            for error in told.get("Errors", ()):
                raise RejectedError(
                    f"{self._bucket}: {error.get('Key')}: {error.get('Code')}: "
                    f"{error.get('Message')}"
                )

    # -- signed URLs ------------------------------------------------------------------------

    @property
    def urls(self) -> SignedUrls | None:
        """See `Objects`."""
        return self if self._signs else None

    def get_url(self, key: str, life_s: int) -> SignedUrl:
        """See `SignedUrls`."""
        return self._url("get_object", life_s, Key=key)

    def put_url(self, key: str, life_s: int) -> SignedUrl:
        """See `SignedUrls`."""
        return self._url("put_object", life_s, Key=key)

    def begin_parts(self, key: str) -> str:
        """See `SignedUrls`."""
        mark = new_mark()
        told = self.call("create_multipart_upload", key, Key=key, Metadata={MARK: mark})
        return str(Begun(str(self._told(told, "UploadId", key)), mark))

    def part_url(self, key: str, upload: str, number: int, life_s: int) -> SignedUrl:
        """See `SignedUrls`."""
        id_ = Begun.parse(upload).id
        return self._url("upload_part", life_s, Key=key, UploadId=id_, PartNumber=number)

    def finish_parts(self, key: str, upload: str, etags: Mapping[int, str]) -> None:
        """See `SignedUrls`."""
        parts = [{"PartNumber": number, "ETag": etags[number]} for number in sorted(etags)]
        self.complete(key, Begun.parse(upload), parts)

    def abort_parts(self, key: str, upload: str) -> None:
        """See `SignedUrls`."""
        self.call("abort_multipart_upload", key, Key=key, UploadId=Begun.parse(upload).id)

    def complete(self, key: str, begun: Begun, parts: Sequence[Mapping[str, Any]]) -> str:
        """Make an object of parts, as the client takes them; return its version."""

        def end() -> str:
            told = self.call(
                "complete_multipart_upload", key, Key=key, UploadId=begun.id,
                MultipartUpload={"Parts": parts},
            )  # fmt: skip
            return str(told.get("ETag", ""))

        return ended(begun, end, lambda: self.find(key))

    def _url(self, method: str, life_s: int, **arguments: Any) -> SignedUrl:
        with self._asked(str(arguments["Key"])):
            url = self._client().generate_presigned_url(
                method, Params={"Bucket": self._bucket, **arguments}, ExpiresIn=life_s
            )
        return SignedUrl(str(url))

    # -- the client -------------------------------------------------------------------------

    def close(self) -> None:
        """See `Objects`."""
        with self._lock:
            client, self._made = self._made, None
        if client is not None:
            client.close()

    def call(self, method: str, what: str, **arguments: Any) -> dict[str, Any]:
        """Ask, and return what is told.

        Args:
            method: Of the client.
            what: For messages.
            **arguments: Besides the bucket.
        """
        with self._asked(what):
            told: dict[str, Any] = getattr(self._client(), method)(Bucket=self._bucket, **arguments)
        return told

    def _pages(self, prefix: str, **arguments: Any) -> Iterator[dict[str, Any]]:
        token: dict[str, Any] = {}
        while True:
            page = self.call("list_objects_v2", prefix, Prefix=prefix, **arguments, **token)
            yield page
            if not page.get("IsTruncated"):
                return
            following = self._told(page, "NextContinuationToken", prefix)
            token = {"ContinuationToken": following}

    def _told(self, told: Mapping[str, Any], name: str, what: str) -> Any:
        """Return what an answer has to tell."""
        if name not in told:
            raise RejectedError(
                f"{self._bucket}: {what}: the answer has no {name}; is the endpoint one of S3?"
            )
        return told[name]

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                get = self._credential.get
                self._made = Session().create_client(
                    "s3", region_name=get("region"), endpoint_url=get("endpoint"),
                    aws_access_key_id=get("key_id"), aws_secret_access_key=get("key_secret"),
                    aws_session_token=get("session_token"),
                    config=Config(
                        # Version 2 is what signs URLs in old regions, and is refused there now.
                        signature_version="s3v4" if self._signs else UNSIGNED,
                        ignore_configured_endpoint_urls=self._credential.is_whole,
                        max_pool_connections=_CONNECTIONS,
                        retries={"mode": "standard", "total_max_attempts": 2},
                        connect_timeout=15, read_timeout=60, user_agent_extra="mlflow-exec",
                    ),
                )  # fmt: skip
            return self._made

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """Turn what botocore says into errors of ours."""
        where = f"{self._bucket}: {what}" if what else self._bucket
        signed = f"asked with the credential from {self._credential.source}"
        try:
            yield
        except ClientError as error:
            metadata = error.response.get("ResponseMetadata", {})
            status = int(metadata.get("HTTPStatusCode") or 0)
            text = f"{where}: {' '.join(str(error).split())} (HTTP {status}"
            text += f", request {id_})" if (id_ := metadata.get("RequestId")) else ")"
            kind = kind_of(status)
            if error.response.get("Error", {}).get("Code") in _NOT_OF_KEYS:
                kind = RejectedError
            if kind is AccessDeniedError:
                text += f"; {signed}"
            raise kind(text, status=status) from error
        except NoCredentialsError as error:
            raise AccessDeniedError(f"{where}: {error}; {signed}") from error
        except SSLError as error:
            raise RejectedError(
                f"{where}: {' '.join(str(error).split())}; AWS_CA_BUNDLE names a file with the "
                f"authority of its certificate"
            ) from error
        except HTTPClientError as error:
            raise UnreachableError(f"{where}: {' '.join(str(error).split())}") from error
        except (BotoCoreError, ValueError) as error:
            raise RejectedError(f"{where}: {' '.join(str(error).split())}") from error
        except (OSError, HTTPError) as error:  # while the body is read
            raise UnreachableError(f"{where}: {error}") from error


class _S3Upload(PartsUpload):
    def __init__(self, objects: S3Objects, key: str) -> None:
        super().__init__()
        self._objects, self._key = objects, key
        self._begun = Begun.parse(objects.begin_parts(key))

    def send(self, number: int, part: bytes) -> dict[str, Any]:
        told = self._objects.call(
            "upload_part", self._key, Key=self._key, UploadId=self._begun.id, PartNumber=number,
            Body=part,
        )  # fmt: skip
        sums = {name: value for name, value in told.items() if name.startswith("Checksum")}
        sums.pop("ChecksumType", None)
        etag = self._objects._told(told, "ETag", self._key)
        return {"PartNumber": number, "ETag": etag, **sums}

    def finish(self, sent: Sequence[Any]) -> str:
        return self._objects.complete(self._key, self._begun, list(sent))

    def remove(self) -> None:
        self._objects.abort_parts(self._key, str(self._begun))


class S3Store(ObjectStore):
    """Files in a bucket of S3."""

    def __init__(self, location: Location, credential: Credential) -> None:
        super().__init__(location, credential, lambda: _SHARED.of(location, credential))


_SHARED = Connections(S3Objects)

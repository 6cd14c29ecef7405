"""URLs of Google's objects, signed by the key of a service account ("V4").

https://docs.cloud.google.com/storage/docs/access-control/signing-urls-manually
https://docs.cloud.google.com/storage/docs/xml-api/overview, which has uploads in parts
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit
from xml.sax.saxutils import escape

from mlflow_exec.errors import RejectedError
from mlflow_exec.storage.parts import MARK, Begun, ended, new_mark
from mlflow_exec.storage.signed_urls import SignedUrl, SignedUrls

if TYPE_CHECKING:
    from mlflow_exec.storage.gcs import GcsObjects

_ALGORITHM = "GOOG4-RSA-SHA256"


class GcsUrls(SignedUrls):
    """The URLs of one bucket."""

    def __init__(self, objects: GcsObjects, bucket: str, base: str, key: Any) -> None:
        """Keep what is signed by.

        Args:
            objects: The bucket, which is asked.
            bucket: Its name.
            base: ``http(s)://host``, as it is reached.
            key: Of the service account, by google-auth.
        """
        self._objects, self._bucket, self._base, self._key = objects, bucket, base, key

    def get_url(self, key: str, life_s: int) -> SignedUrl:
        """See `SignedUrls`."""
        return self._signed("GET", key, life_s)

    def put_url(self, key: str, life_s: int) -> SignedUrl:
        """See `SignedUrls`."""
        return self._signed("PUT", key, life_s)

    def begin_parts(self, key: str) -> str:
        """See `SignedUrls`."""
        mark = new_mark()
        headers = {f"x-goog-meta-{MARK}": mark, "Content-Length": "0"}
        told = self._objects.ask("POST", f"{self._path(key)}?uploads", headers=headers)
        found = re.search("<UploadId>([^<]+)</UploadId>", told.text)
        if found is None:
            raise RejectedError(
                f"{key}: the answer has no UploadId; is the endpoint one of Google Cloud Storage?"
            )
        return str(Begun(found[1], mark))

    def part_url(self, key: str, upload: str, number: int, life_s: int) -> SignedUrl:
        """See `SignedUrls`."""
        query = {"partNumber": str(number), "uploadId": Begun.parse(upload).id}
        return self._signed("PUT", key, life_s, query)

    def finish_parts(self, key: str, upload: str, etags: Mapping[int, str]) -> None:
        """See `SignedUrls`."""
        begun = Begun.parse(upload)
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etags[number])}</ETag></Part>"
            for number in sorted(etags)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()

        def end() -> str:
            told = self._objects.ask("POST", self._upload(key, begun), data=body)
            return str(told.headers.get("X-Goog-Generation", ""))

        ended(begun, end, lambda: self._objects.find(key))

    def abort_parts(self, key: str, upload: str) -> None:
        """See `SignedUrls`."""
        self._objects.ask("DELETE", self._upload(key, Begun.parse(upload)))

    def _path(self, key: str) -> str:
        return f"/{self._bucket}/{quote(key, safe='/~')}"

    def _upload(self, key: str, begun: Begun) -> str:
        return f"{self._path(key)}?uploadId={quote(begun.id, safe='')}"

    def _signed(
        self, method: str, key: str, life_s: int, query: Mapping[str, str] | None = None
    ) -> SignedUrl:
        now = datetime.now(timezone.utc)
        date, scope = f"{now:%Y%m%dT%H%M%SZ}", f"{now:%Y%m%d}/auto/storage/goog4_request"
        asked = {
            **(query or {}), "X-Goog-Algorithm": _ALGORITHM, "X-Goog-Date": date,
            "X-Goog-Credential": f"{self._key.service_account_email}/{scope}",
            "X-Goog-Expires": str(life_s), "X-Goog-SignedHeaders": "host",
        }  # fmt: skip
        text = "&".join(f"{name}={quote(asked[name], safe='~')}" for name in sorted(asked))
        host = urlsplit(self._base).netloc
        canonical = "\n".join([
            method, self._path(key), text, f"host:{host}", "", "host", "UNSIGNED-PAYLOAD",
        ])  # fmt: skip
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        signature = self._key.sign_bytes("\n".join([_ALGORITHM, date, scope, hashed]).encode())
        url = f"{self._base}{self._path(key)}?{text}&X-Goog-Signature={signature.hex()}"
        return SignedUrl(url)

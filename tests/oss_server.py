"""A stand-in for Alibaba Cloud OSS, after its API reference; buckets as paths, since at an IP.

https://www.alibabacloud.com/help/en/oss/developer-reference/list-of-operations-by-function
"""

from __future__ import annotations

import hashlib
import hmac
import uuid
from base64 import b64decode, b64encode
from dataclasses import dataclass, field
from datetime import datetime, timezone
from urllib.parse import parse_qsl, quote
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from alibabacloud_oss_v2.crc import Crc64

from tests.cloud_server import Answer, CloudServer, Content, Request, page_of

BUCKET = "artifacts"
KEY_ID, KEY_SECRET, TOKEN = "LTAI-of-the-test", "a-secret-key", "a-session-token"
REGION = "cn-hangzhou"
_LARGEST_PAGE = 1000
_LONGEST_S = 7 * 24 * 3600
_SKEW_S = 15 * 60


@dataclass(frozen=True)
class _Kept:
    content: Content
    etag: str
    crc64: int
    metadata: dict[str, str] = field(default_factory=dict)


class OssServer(CloudServer):
    """One bucket, and one key pair, which has to come with a session token, too.

    Attributes:
        objects: What is kept, by key.
        uploads: Parts that have come, by the id of their upload, which nobody knows once it is
            ended or removed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, _Kept] = {}
        self.uploads: dict[str, dict[int, _Kept]] = {}
        self._begun: dict[str, tuple[str, dict[str, str]]] = {}

    def failure(self, status: int) -> Answer:
        codes = {503: "ServiceUnavailable", 429: "DownloadTrafficRateLimitExceeded"}
        return _error(status, codes.get(status, "InternalError"), "told to fail")

    def answer(self, request: Request) -> Answer:
        refused = _unsigned(request)
        if refused is not None:
            return refused
        bucket, _, key = "/".join(request.names).partition("/")
        if bucket != BUCKET:
            return _error(404, "NoSuchBucket", "The specified bucket does not exist.")
        given = request.headers.get("Content-MD5")
        if given and b64decode(given) != hashlib.md5(request.body).digest():
            return _error(400, "InvalidDigest", "The Content-MD5 you specified is not valid.")
        with self.lock:
            name = f"_{request.method.lower()}_{'object' if key else 'bucket'}"
            return getattr(self, name)(request, key)  # type: ignore[no-any-return]

    # -- of the bucket --------------------------------------------------------------------------

    def _get_bucket(self, request: Request, _: str) -> Answer:
        assert request.query.get("list-type") == "2"
        size = min(int(request.query.get("max-keys", 100)), _LARGEST_PAGE)
        keys, folders, rest = page_of(
            list(self.objects), request.query.get("prefix", ""),
            request.query.get("delimiter", ""),
            bytes.fromhex(request.query.get("continuation-token", "")).decode(), size,
        )  # fmt: skip
        coded = quote if request.query.get("encoding-type") == "url" else escape
        shown = "".join(
            f"<Contents><Key>{coded(key)}</Key><Size>{self.objects[key].content.size_bytes}</Size>"
            f"<ETag>{self.objects[key].etag}</ETag></Contents>"
            for key in keys
        )
        shown += "".join(
            f"<CommonPrefixes><Prefix>{coded(folder)}</Prefix></CommonPrefixes>"
            for folder in folders
        )
        if "encoding-type" in request.query:
            shown += "<EncodingType>url</EncodingType>"
        if rest:
            token = rest.encode().hex()
            shown += f"<NextContinuationToken>{token}</NextContinuationToken>"
        shown += f"<IsTruncated>{'true' if rest else 'false'}</IsTruncated>"
        return _xml("ListBucketResult", shown)

    def _post_bucket(self, request: Request, _: str) -> Answer:
        assert "delete" in request.query
        keys = [found.text or "" for found in ElementTree.fromstring(request.body).iter("Key")]
        if len(keys) > _LARGEST_PAGE or "Content-MD5" not in request.headers:
            return _error(400, "MalformedXML", "The XML you provided was not well-formed.")
        for key in keys:
            self.objects.pop(key, None)
        return Answer()

    # -- of objects -----------------------------------------------------------------------------

    def _put_object(self, request: Request, key: str) -> Answer:
        kept = _kept(request)
        if "uploadId" in request.query:
            parts = self._parts(request, key)
            if parts is None:
                return _NO_UPLOAD
            parts[int(request.query["partNumber"])] = kept
        else:
            self.objects[key] = kept
        return Answer(headers={"ETag": kept.etag, "x-oss-hash-crc64ecma": str(kept.crc64)})

    def _post_object(self, request: Request, key: str) -> Answer:
        if "uploads" in request.query:
            upload = uuid.uuid4().hex
            self.uploads[upload], self._begun[upload] = {}, (key, _metadata(request))
            return _xml("InitiateMultipartUploadResult", f"<UploadId>{upload}</UploadId>")
        parts = self._parts(request, key)
        if parts is None:
            return _NO_UPLOAD
        crc64 = 0
        contents: list[bytes] = []
        for part in ElementTree.fromstring(request.body).iter("Part"):
            kept = parts.get(int(part.findtext("PartNumber") or 0))
            if kept is None or kept.etag != part.findtext("ETag"):
                return _error(400, "InvalidPart", "One or more parts could not be found.")
            crc64 = Crc64.combine(crc64, kept.crc64, kept.content.size_bytes)
            contents += kept.content.parts
        if not contents:
            return _error(400, "MalformedXML", "The XML you provided was not well-formed.")
        upload = request.query["uploadId"]
        del self.uploads[upload]
        etag = f'"{uuid.uuid4().hex.upper()}-{len(parts)}"'
        metadata = self._begun[upload][1]
        self.objects[key] = _Kept(Content(tuple(contents)), etag, crc64, metadata)
        return _xml("CompleteMultipartUploadResult", f"<ETag>{escape(etag)}</ETag>")

    def _parts(self, request: Request, key: str) -> dict[int, _Kept] | None:
        """Return what has come of an upload; None if there is none of that name to that key."""
        upload = request.query["uploadId"]
        of_key = self._begun.get(upload, ("", {}))[0] == key
        return self.uploads.get(upload) if of_key else None

    def _delete_object(self, request: Request, key: str) -> Answer:
        if "uploadId" in request.query:
            if self._parts(request, key) is None:
                return _NO_UPLOAD
            del self.uploads[request.query["uploadId"]]
        else:
            self.objects.pop(key, None)
        return Answer(204)

    def _head_object(self, request: Request, key: str) -> Answer:
        kept = self.objects.get(key)
        if kept is None:
            return _error(404, "NoSuchKey", "The specified key does not exist.", in_header=True)
        return Answer(
            headers={**_told(kept), "Content-Length": str(kept.content.size_bytes)},
        )

    def _get_object(self, request: Request, key: str) -> Answer:
        kept = self.objects.get(key)
        if kept is None:
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        size_bytes = kept.content.size_bytes
        asked = request.byte_range(size_bytes)
        end_asked = int(request.headers.get("Range", "0").rpartition("-")[2] or 0)
        standard = request.headers.get("x-oss-range-behavior") == "standard"
        if asked is None or (end_asked >= size_bytes and not standard):
            return Answer(200, kept.content.range(0, size_bytes), _told(kept))
        if asked[0] >= size_bytes:
            return _error(416, "InvalidRange", "The requested range cannot be satisfied.")
        return Answer(206, kept.content.range(*asked), _told(kept) | kept.content.told(*asked))


def _kept(request: Request) -> _Kept:
    crc64 = Crc64(0)
    crc64.update(request.body)
    given = request.headers.get("Content-MD5")  # has been compared
    digest = b64decode(given) if given else hashlib.md5(request.body).digest()
    return _Kept(Content((request.body,)), f'"{digest.hex().upper()}"', crc64.sum64())


def _told(kept: _Kept) -> dict[str, str]:
    return {"ETag": kept.etag, "x-oss-hash-crc64ecma": str(kept.crc64), **kept.metadata}


def _metadata(request: Request) -> dict[str, str]:
    return {n: v for n, v in request.headers.items() if n.lower().startswith("x-oss-meta-")}


def _xml(name: str, content: str) -> Answer:
    text = f'<?xml version="1.0" encoding="UTF-8"?><{name}>{content}</{name}>'
    return Answer(200, text.encode(), {"Content-Type": "application/xml"})


def _error(status: int, code: str, message: str, *, in_header: bool = False) -> Answer:
    told = _xml(
        "Error", f"<Code>{code}</Code><Message>{message}</Message><RequestId>5C3D</RequestId>"
    )
    told.status = status
    told.headers["x-oss-request-id"] = "5C3D"
    if in_header:  # what is asked by HEAD has no body
        told.headers["x-oss-err"] = b64encode(told.body).decode()
    return told


_NO_UPLOAD = _error(404, "NoSuchUpload", "The specified upload does not exist.")


@dataclass(frozen=True)
class _Signed:
    """What says who has signed a request, and when.

    Attributes:
        life_s: Of a URL; None where it is in headers.
    """

    scheme: str
    credential: str
    date: str
    token: str
    signature: str
    life_s: int | None = None


def _signed(request: Request) -> _Signed:
    headers, query = request.headers, request.query
    if "x-oss-signature" in query:
        return _Signed(
            query.get("x-oss-signature-version", ""), query.get("x-oss-credential", ""),
            query.get("x-oss-date", ""), query.get("x-oss-security-token", ""),
            query["x-oss-signature"], int(query.get("x-oss-expires", 0)),
        )  # fmt: skip
    scheme, _, rest = headers.get("Authorization", "").partition(" ")
    fields = dict(parse_qsl(rest.replace(",", "&").replace("+", "%2B")))
    return _Signed(
        scheme, fields.get("Credential", ""), headers.get("x-oss-date", ""),
        headers.get("x-oss-security-token", ""), fields.get("Signature", ""),
    )  # fmt: skip


def _is_over(signed: _Signed) -> bool:
    """Whether a URL is not good now, or says that it is for more than a week."""
    if signed.life_s is None:
        return False
    begin = datetime.strptime(signed.date, "%Y%m%dT%H%M%S%z")
    age_s = (datetime.now(timezone.utc) - begin).total_seconds()
    return not 0 < signed.life_s <= _LONGEST_S or not -_SKEW_S < age_s < signed.life_s


def _unsigned(request: Request) -> Answer | None:
    """Return the refusal of what is not signed by the key pair, as its "V4" has it."""
    by = _signed(request)
    if by.token != TOKEN:
        return _error(403, "SecurityTokenExpired", "The security token you provided has expired.")
    key_id, _, scope = by.credential.partition("/")
    if by.scheme != "OSS4-HMAC-SHA256" or key_id != KEY_ID:
        return _error(403, "InvalidAccessKeyId", "The OSS Access Key Id does not exist.")
    if _is_over(by):
        return _error(403, "AccessDenied", "Request has expired.")
    day, region, product, kind = scope.split("/")
    query = sorted(
        (quote(k, safe=""), quote(v, safe=""))
        for k, v in request.query.items()
        if k != "x-oss-signature"
    )
    signed = sorted(
        f"{name.lower()}:{value.strip()}\n"
        for name, value in request.headers.items()
        if name.lower() in ("content-type", "content-md5") or name.lower().startswith("x-oss-")
    )
    canonical = "\n".join([
        request.method, quote("/" + "/".join(request.names), safe="/"),
        "&".join(f"{k}={v}" if v else k for k, v in query), "".join(signed), "",
        "UNSIGNED-PAYLOAD",
    ])  # fmt: skip
    to_sign = "\n".join([
        by.scheme, by.date, scope,
        hashlib.sha256(canonical.encode()).hexdigest(),
    ])  # fmt: skip
    key = f"aliyun_v4{KEY_SECRET}".encode()
    for step in (day, region, product, kind, to_sign):
        key = hmac.digest(key, step.encode(), "sha256")
    if region != REGION or key.hex() != by.signature:
        return _error(403, "SignatureDoesNotMatch", "The request signature does not match.")
    return None

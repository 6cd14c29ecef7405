"""A stand-in for Oracle Cloud's Object Storage, after its API reference.

https://docs.oracle.com/iaas/api/#/en/objectstorage/20160918/
"""

from __future__ import annotations

import base64
import json
import re
import uuid
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import Any

import crc32c
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.cloud_server import Answer, CloudServer, Content, Request, page_of

BUCKET, NAMESPACE = "artifacts", "acme"
TENANCY = "ocid1.tenancy.oc1..aaaa"
USER = "ocid1.user.oc1..aaaa"
FINGERPRINT = ":".join(["20"] * 16)
_LARGEST_PAGE = 1000


@dataclass(frozen=True)
class _Kept:
    content: Content
    etag: str
    md5: str = ""
    crc: str = ""
    metadata: dict[str, str] = field(default_factory=dict)

    @property
    def told(self) -> dict[str, str]:
        found = {"etag": self.etag, "content-md5": self.md5, "opc-content-crc32c": self.crc}
        return {name: value for name, value in found.items() if value} | self.metadata


class OciServer(CloudServer):
    """One bucket, and one user with a key.

    Attributes:
        key: The private key that requests have to be signed by, as PEM.
        key_ids: Whose requests are let through.
        objects: What is kept, by name.
        uploads: Parts that have come, by the id of their upload, which nobody knows once it is
            ended or removed.
    """

    def __init__(self) -> None:
        super().__init__()
        made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._public = made.public_key()
        self.key = made.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ).decode()  # fmt: skip
        self.key_ids = [f"{TENANCY}/{USER}/{FINGERPRINT}"]
        self.objects: dict[str, _Kept] = {}
        self.uploads: dict[str, dict[int, _Kept]] = {}
        self._metadata: dict[str, dict[str, str]] = {}

    def failure(self, status: int) -> Answer:
        return _error(status, "TooManyRequests" if status == 429 else "InternalError", "told to")

    def answer(self, request: Request) -> Answer:
        if not self._signed(request):
            return _error(401, "NotAuthenticated", "The required information is not provided.")
        names = request.names
        if names[:4] != ["n", NAMESPACE, "b", BUCKET]:
            return _error(404, "BucketNotFound", "Either the bucket does not exist, or …")
        given = request.headers.get("opc-content-crc32c")
        if given and given != _crc(request.body):
            return _error(400, "UnmatchedContentCRC32C", "The computed CRC32C does not match.")
        key = "/".join(names[5:])
        with self.lock:
            name = f"_{request.method.lower()}_{names[4]}{'_object' if key else ''}"
            return getattr(self, name)(request, key)  # type: ignore[no-any-return]

    # -- of the bucket --------------------------------------------------------------------------

    def _get_o(self, request: Request, _: str) -> Answer:
        query = request.query
        size = min(int(query.get("limit", _LARGEST_PAGE)), _LARGEST_PAGE)
        left = [key for key in self.objects if key >= query.get("start", "")]
        keys, folders, rest = page_of(
            left, query.get("prefix", ""), query.get("delimiter", ""), "", size
        )
        after = [key for key in sorted(left) if key > rest and not key.startswith(rest + "/")]
        after = [key for key in after if not (rest.endswith("/") and key.startswith(rest))]
        objects: list[dict[str, Any]] = [{"name": key} for key in keys]
        if "size" in query.get("fields", ""):
            for found in objects:
                found["size"] = self.objects[found["name"]].content.size_bytes
        told: dict[str, Any] = {"objects": objects}
        if "delimiter" in query:
            told["prefixes"] = folders
        if rest:
            told["nextStartWith"] = after[0]
        return _json(told)

    def _post_actions_object(self, request: Request, action: str) -> Answer:
        assert action == "batchDeleteObjects"
        asked = json.loads(request.body)
        if len(asked["objects"]) > _LARGEST_PAGE:
            return _error(400, "InvalidParameter", "There are too many objects.")
        failed = []
        for found in asked["objects"]:
            if self.objects.pop(found["objectName"], None) is None:
                told = {"statusCode": 404, "errorMessage": "ObjectNotFound"}
                failed.append({"objectName": found["objectName"], **told})
        return _json({"deleted": None, "failed": failed})

    def _post_u(self, request: Request, _: str) -> Answer:
        upload = uuid.uuid4().hex
        self.uploads[upload] = {}
        asked = json.loads(request.body)
        key, self._metadata[upload] = asked["object"], asked.get("metadata", {})
        told = {"namespace": NAMESPACE, "bucket": BUCKET, "object": key, "uploadId": upload}
        return _json(told)

    # -- of objects -----------------------------------------------------------------------------

    def _put_o_object(self, request: Request, key: str) -> Answer:
        kept = self.objects[key] = _kept(request)
        return Answer(headers={**kept.told, "opc-content-md5": kept.md5})

    def _head_o_object(self, request: Request, key: str) -> Answer:
        kept = self.objects.get(key)
        if kept is None:
            return Answer(404)
        return Answer(headers={**kept.told, "Content-Length": str(kept.content.size_bytes)})

    def _get_o_object(self, request: Request, key: str) -> Answer:
        kept = self.objects.get(key)
        if kept is None:
            return _error(404, "ObjectNotFound", "The object was not found.")
        asked = request.byte_range(kept.content.size_bytes)
        if asked is None:
            return Answer(200, kept.content.range(0, kept.content.size_bytes), kept.told)
        if asked[0] >= kept.content.size_bytes:
            return _error(416, "InvalidRange", "The range cannot be satisfied.")
        return Answer(206, kept.content.range(*asked), kept.told | kept.content.told(*asked))

    def _put_u_object(self, request: Request, key: str) -> Answer:
        parts = self.uploads.get(request.query["uploadId"])
        if parts is None:
            return _NO_UPLOAD
        kept = parts[int(request.query["uploadPartNum"])] = _kept(request)
        return Answer(headers={**kept.told, "opc-content-md5": kept.md5})

    def _post_u_object(self, request: Request, key: str) -> Answer:
        upload = request.query["uploadId"]
        parts = self.uploads.pop(upload, None)
        if parts is None:
            return _NO_UPLOAD
        contents: list[bytes] = []
        for asked in json.loads(request.body)["partsToCommit"]:
            kept = parts.get(asked["partNum"])
            if kept is None or kept.etag != asked["etag"]:
                return _error(400, "InvalidUploadPart", "A part was not found.")
            contents += kept.content.parts
        found = crc32c.CRC32CHash()
        for content in contents:
            found.update(content)
        crc = base64.b64encode(found.digest()).decode()
        metadata = self._metadata[upload]
        self.objects[key] = _Kept(
            Content(tuple(contents)), str(uuid.uuid4()), crc=crc, metadata=metadata
        )
        return Answer(headers={"etag": self.objects[key].etag, "opc-content-crc32c": crc})

    def _delete_u_object(self, request: Request, key: str) -> Answer:
        self.uploads.pop(request.query["uploadId"], None)
        return Answer(204)

    def _signed(self, request: Request) -> bool:
        """Whether it is, as draft-cavage-http-signatures-08 has it."""
        fields = dict(re.findall(r'(\w+)="([^"]*)"', request.headers.get("Authorization", "")))
        if fields.get("keyId") not in self.key_ids or fields.get("version") != "1":
            return False
        query = request.target.partition("?")[1:]
        told = []
        for name in fields["headers"].split():
            value = request.headers.get(name)
            if name == "(request-target)":
                value = f"{request.method.lower()} {request.path}{''.join(query)}"
            told.append(f"{name}: {value}")
        try:
            self._public.verify(
                base64.b64decode(fields["signature"]), "\n".join(told).encode(),
                padding.PKCS1v15(), hashes.SHA256(),
            )  # fmt: skip
        except InvalidSignature:
            return False
        return True


def _kept(request: Request) -> _Kept:
    content = Content((request.body,))
    md5 = base64.b64encode(content.hash("md5").digest()).decode()
    crc = _crc(request.body) if "opc-checksum-algorithm" in request.headers else ""
    return _Kept(content, str(uuid.uuid4()), md5, crc)


def _crc(content: bytes) -> str:
    return base64.b64encode(crc32c.crc32c(content).to_bytes(4, "big")).decode()


def _json(told: Any) -> Answer:
    return Answer(200, json.dumps(told).encode(), {"content-type": "application/json"})


def _error(status: int, code: str, message: str) -> Answer:
    told = _json({"code": code, "message": message})
    told.status = status
    told.headers |= {"opc-request-id": "fra-1:5C3D", "date": formatdate(usegmt=True)}
    return told


_NO_UPLOAD = _error(404, "NoSuchUpload", "The upload was not found.")

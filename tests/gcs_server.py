"""A stand-in for Google Cloud Storage, after its JSON API, for what fake-gcs-server does not do.

That is: tokens, going on with an upload that broke, signed URLs, and uploads in parts.
https://docs.cloud.google.com/storage/docs/json_api/v1
https://docs.cloud.google.com/storage/docs/performing-resumable-uploads
https://docs.cloud.google.com/storage/docs/xml-api/overview
https://docs.cloud.google.com/storage/docs/authentication/canonical-requests
"""

from __future__ import annotations

import email
import hashlib
import json
import re
import uuid
from base64 import b64encode
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from crc32c import crc32c
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from tests.cloud_server import Answer, CloudServer, Content, Request, page_of

BUCKET = "artifacts"
TOKEN = "ya29.of-the-test"
_UNIT_BYTES = 256 * 1024
_EMAIL = "someone@project.iam.gserviceaccount.com"
_META = "x-goog-meta-"
_LONGEST_S = 7 * 24 * 3600
_SKEW_S = 15 * 60


@dataclass(frozen=True)
class _Kept:
    content: Content
    generation: str
    crc32c: str
    metadata: dict[str, str] = field(default_factory=dict)


@dataclass
class _Upload:
    key: str
    metadata: dict[str, str]
    parts: dict[int, bytes] = field(default_factory=dict)


@dataclass
class _Session:
    key: str
    parts: tuple[bytes, ...] = ()
    crc32c: int = 0
    kept: _Kept | None = None

    @property
    def size_bytes(self) -> int:
        return sum(map(len, self.parts))


class GcsServer(CloudServer):
    """One bucket, for who has `TOKEN`.

    Attributes:
        objects: What is kept, by key.
        sessions: Uploads that were begun and not removed, by their id.
        uploads: Parts that have come, by the id of their upload in parts, which nobody knows once
            it is ended or removed.
        short: Of so many requests only the first half is kept, as where Google is busy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, _Kept] = {}
        self.sessions: dict[str, _Session] = {}
        self.uploads: dict[str, _Upload] = {}
        self._private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self.short = 0

    @property
    def account(self) -> str:
        """The key of a service account, as Google has made of it; its tokens are of here."""
        pem = self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )  # fmt: skip
        return json.dumps({
            "type": "service_account", "client_email": _EMAIL, "private_key": pem.decode(),
            "token_uri": f"{self.url}/token",
        })  # fmt: skip

    @property
    def unfinished(self) -> list[str]:
        """The uploads of which there is no object yet."""
        return [id_ for id_, session in self.sessions.items() if session.kept is None]

    def failure(self, status: int) -> Answer:
        return _error(status, "told to fail")

    def answer(self, request: Request) -> Answer:
        if request.path == "/token":  # https://datatracker.ietf.org/doc/html/rfc7523
            told = {"access_token": TOKEN, "expires_in": 3600, "token_type": "Bearer"}
            return _json(told)
        names = request.names
        if "X-Goog-Signature" in request.query:
            if not self._is_signed(request):
                return _xml_error(403, "SignatureDoesNotMatch")
        elif request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _error(401, "Invalid Credentials")
        if names[0] == BUCKET:
            with self.lock:
                return self._by_xml(request, "/".join(names[1:]))
        is_upload = names[0] == "upload"
        bucket, key = names[4 if is_upload else 3], "/".join(names[5:])
        if bucket != BUCKET:
            return _error(404, "The specified bucket does not exist.")
        name = f"_{request.method.lower()}_{'upload' if is_upload else 'object'}"
        with self.lock:
            if request.method == "GET" and not key:
                return self._list(request)
            return getattr(self, name)(request, key)  # type: ignore[no-any-return]

    # -- the XML API ----------------------------------------------------------------------------

    def _by_xml(self, request: Request, key: str) -> Answer:
        query = request.query
        if "uploadId" in query:
            return self._of_upload(request, key, query["uploadId"])
        if request.method == "POST" and "uploads" in query:
            id_ = uuid.uuid4().hex
            metadata = {
                name[len(_META) :].lower(): value
                for name, value in request.headers.items()
                if name.lower().startswith(_META)
            }
            self.uploads[id_] = _Upload(key, metadata)
            told = f"<InitiateMultipartUploadResult><UploadId>{id_}</UploadId>"
            return Answer(200, f"{told}</InitiateMultipartUploadResult>".encode())
        if request.method == "PUT":
            self._keep(key, Content((request.body,)), crc32c(request.body))
            return Answer(headers={"ETag": _etag(request.body)})
        assert request.method == "GET"
        return self._get_object(request, key)

    def _of_upload(self, request: Request, key: str, id_: str) -> Answer:
        upload = self.uploads.get(id_)
        if upload is None or upload.key != key:
            return _xml_error(404, "NoSuchUpload")
        if request.method == "PUT":
            upload.parts[int(request.query["partNumber"])] = request.body
            return Answer(headers={"ETag": _etag(request.body)})
        if request.method == "DELETE":
            del self.uploads[id_]
            return Answer(204)
        parts: list[bytes] = []
        for part in ElementTree.fromstring(request.body).iter("Part"):
            content = upload.parts.get(int(part.findtext("PartNumber") or 0))
            if content is None or _etag(content) != part.findtext("ETag"):
                return _xml_error(400, "InvalidPart")
            parts.append(content)
        if not parts:
            return _xml_error(400, "MalformedCompleteMultipartUploadRequest")
        del self.uploads[id_]
        whole = Content(tuple(parts))
        self._keep(key, whole, crc32c(whole.range(0, whole.size_bytes)), upload.metadata)
        return Answer(headers={"X-Goog-Generation": self.objects[key].generation})

    def _is_signed(self, request: Request) -> bool:
        """Whether it is signed by the key of the account, for that and for now ("V4")."""
        query = request.query
        date = query["X-Goog-Date"]
        begin = datetime.strptime(date, "%Y%m%dT%H%M%S%z")
        age_s = (datetime.now(timezone.utc) - begin).total_seconds()
        scope = f"{date[:8]}/auto/storage/goog4_request"
        life_s = int(query["X-Goog-Expires"])
        if not -_SKEW_S < age_s < life_s or not 0 < life_s <= _LONGEST_S:
            return False
        if query["X-Goog-Credential"] != f"{_EMAIL}/{scope}":
            return False
        asked = sorted((quote(k, safe="~"), quote(v, safe="~")) for k, v in query.items())
        names = query["X-Goog-SignedHeaders"].split(";")
        canonical = "\n".join([
            request.method, request.path,
            "&".join(f"{k}={v}" for k, v in asked if k != "X-Goog-Signature"),
            *(f"{name}:{request.headers[name]}" for name in names), "", ";".join(names),
            "UNSIGNED-PAYLOAD",
        ])  # fmt: skip
        hashed = hashlib.sha256(canonical.encode()).hexdigest()
        to_sign = "\n".join(["GOOG4-RSA-SHA256", date, scope, hashed]).encode()
        try:
            self._private.public_key().verify(
                bytes.fromhex(query["X-Goog-Signature"]), to_sign, padding.PKCS1v15(),
                hashes.SHA256(),
            )  # fmt: skip
        except InvalidSignature:
            return False
        return True

    # -- uploads --------------------------------------------------------------------------------

    def _post_upload(self, request: Request, _: str) -> Answer:
        if request.query["uploadType"] == "resumable":
            session = uuid.uuid4().hex
            self.sessions[session] = _Session(request.query["name"])
            place = f"https://storage.googleapis.com{request.target}&upload_id={session}"
            return Answer(200, headers={"Location": place})
        head = f"Content-Type: {request.headers['Content-Type']}\r\n\r\n".encode()
        parts: Any = email.message_from_bytes(head + request.body).get_payload()
        metadata = json.loads(parts[0].get_payload())
        content = parts[1].get_payload(decode=True)
        if metadata["crc32c"] != _text(crc32c(content)):
            return _error(400, "Provided CRC32C doesn't match calculated CRC32C")
        return self._keep(metadata["name"], Content((content,)), crc32c(content))

    def _put_upload(self, request: Request, _: str) -> Answer:
        session = self.sessions.get(request.query["upload_id"])
        if session is None:
            return _error(404, "Not Found")
        if session.kept is not None:  # who asks again for the end of an upload is told the same
            return _json(_told(session.key, session.kept))
        asked = re.fullmatch(r"bytes (?:(\d+)-(\d+)|\*)/(\d+|\*)", request.headers["Content-Range"])
        assert asked is not None, request.headers["Content-Range"]
        content = request.body
        if asked[1]:
            assert int(asked[2]) - int(asked[1]) + 1 == len(content)
            if int(asked[1]) != session.size_bytes:
                return _error(503, "there is another offset")
            if self.short and len(content) > 2 * _UNIT_BYTES:
                self.short -= 1
                content = content[: len(content) // 2 // _UNIT_BYTES * _UNIT_BYTES]
            assert asked[3] != "*" or len(content) % _UNIT_BYTES == 0
            session.parts += (content,)
            session.crc32c = crc32c(content, session.crc32c)
        if asked[3] == "*" or int(asked[3]) != session.size_bytes:
            size_bytes = session.size_bytes
            return Answer(308, headers={"Range": f"bytes=0-{size_bytes - 1}"} if size_bytes else {})
        if request.headers.get("X-Goog-Hash") != f"crc32c={_text(session.crc32c)}":
            return _error(400, "Provided CRC32C doesn't match calculated CRC32C")
        told = self._keep(session.key, Content(session.parts), session.crc32c)
        session.kept = self.objects[session.key]
        return told

    def _delete_upload(self, request: Request, _: str) -> Answer:
        self.sessions.pop(request.query["upload_id"], None)
        return Answer(499)

    def _keep(
        self, key: str, content: Content, crc: int, metadata: dict[str, str] | None = None
    ) -> Answer:
        generation = str(uuid.uuid4().int >> 70)
        self.objects[key] = _Kept(content, generation, _text(crc), metadata or {})
        return _json(_told(key, self.objects[key]))

    # -- objects --------------------------------------------------------------------------------

    def _get_object(self, request: Request, key: str) -> Answer:
        kept = self.objects.get(key)
        if kept is None:
            return _error(404, f"No such object: {BUCKET}/{key}")
        if request.query.get("alt") != "media" and request.names[0] != BUCKET:
            return _json(_told(key, kept))
        size_bytes = kept.content.size_bytes
        headers = {
            "X-Goog-Generation": kept.generation, "X-Goog-Hash": f"crc32c={kept.crc32c}",
            "X-Goog-Stored-Content-Encoding": "identity",
        }  # fmt: skip
        asked = request.byte_range(size_bytes)
        if asked is None:
            return Answer(200, kept.content.range(0, size_bytes), headers)
        if asked[0] >= size_bytes:
            return _error(416, "The requested range cannot be satisfied.")
        headers |= kept.content.told(*asked)
        return Answer(206, kept.content.range(*asked), headers)

    def _delete_object(self, request: Request, key: str) -> Answer:
        kept = self.objects.get(key)
        if kept is None or request.query.get("generation", kept.generation) != kept.generation:
            return _error(404, f"No such object: {BUCKET}/{key}")
        del self.objects[key]
        return Answer(204)

    def _list(self, request: Request) -> Answer:
        keys, folders, rest = page_of(
            list(self.objects), request.query.get("prefix", ""),
            request.query.get("delimiter", ""),
            bytes.fromhex(request.query.get("pageToken", "")).decode(),
            min(int(request.query.get("maxResults", 1000)), 1000),
        )  # fmt: skip
        page: dict[str, Any] = {"items": [_told(key, self.objects[key]) for key in keys]}
        if folders:
            page["prefixes"] = folders
        if rest:
            page["nextPageToken"] = rest.encode().hex()
        return _json(page)


def _told(key: str, kept: _Kept) -> dict[str, Any]:
    return {
        "name": key, "size": str(kept.content.size_bytes), "generation": kept.generation,
        "crc32c": kept.crc32c, "metadata": kept.metadata,
    }  # fmt: skip


def _etag(content: bytes) -> str:
    return f'"{hashlib.md5(content, usedforsecurity=False).hexdigest()}"'


def _xml_error(status: int, code: str) -> Answer:
    return Answer(status, f"<Error><Code>{code}</Code></Error>".encode())


def _text(crc: int) -> str:
    return b64encode(crc.to_bytes(4, "big")).decode()


def _json(told: Any, status: int = 200) -> Answer:
    headers = {"Content-Type": "application/json; charset=UTF-8", "X-GUploader-UploadID": "ABg5"}
    return Answer(status, json.dumps(told).encode(), headers)


def _error(status: int, message: str) -> Answer:
    return _json({"error": {"code": status, "message": message, "errors": []}}, status)

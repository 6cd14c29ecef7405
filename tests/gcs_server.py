"""A stand-in for Google Cloud Storage, after its JSON API, for what fake-gcs-server does not do.

That is: tokens, and going on with an upload that broke.
https://docs.cloud.google.com/storage/docs/json_api/v1
https://docs.cloud.google.com/storage/docs/performing-resumable-uploads
"""

from __future__ import annotations

import email
import json
import re
import uuid
from base64 import b64encode
from dataclasses import dataclass
from typing import Any

from crc32c import crc32c

from tests.cloud_server import Answer, CloudServer, Content, Request, page_of

BUCKET = "artifacts"
TOKEN = "ya29.of-the-test"
_UNIT_BYTES = 256 * 1024


@dataclass(frozen=True)
class _Kept:
    content: Content
    generation: str
    crc32c: str


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
        short: Of so many requests only the first half is kept, as where Google is busy.
    """

    def __init__(self) -> None:
        super().__init__()
        self.objects: dict[str, _Kept] = {}
        self.sessions: dict[str, _Session] = {}
        self.short = 0

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
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return _error(401, "Invalid Credentials")
        names = request.names
        is_upload = names[0] == "upload"
        bucket, key = names[4 if is_upload else 3], "/".join(names[5:])
        if bucket != BUCKET:
            return _error(404, "The specified bucket does not exist.")
        name = f"_{request.method.lower()}_{'upload' if is_upload else 'object'}"
        with self.lock:
            if request.method == "GET" and not key:
                return self._list(request)
            return getattr(self, name)(request, key)  # type: ignore[no-any-return]

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

    def _keep(self, key: str, content: Content, crc: int) -> Answer:
        self.objects[key] = _Kept(content, str(uuid.uuid4().int >> 70), _text(crc))
        return _json(_told(key, self.objects[key]))

    # -- objects --------------------------------------------------------------------------------

    def _get_object(self, request: Request, key: str) -> Answer:
        kept = self.objects.get(key)
        if kept is None:
            return _error(404, f"No such object: {BUCKET}/{key}")
        if request.query.get("alt") != "media":
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


def _told(key: str, kept: _Kept) -> dict[str, str]:
    return {
        "name": key, "size": str(kept.content.size_bytes), "generation": kept.generation,
        "crc32c": kept.crc32c,
    }  # fmt: skip


def _text(crc: int) -> str:
    return b64encode(crc.to_bytes(4, "big")).decode()


def _json(told: Any, status: int = 200) -> Answer:
    headers = {"Content-Type": "application/json; charset=UTF-8", "X-GUploader-UploadID": "ABg5"}
    return Answer(status, json.dumps(told).encode(), headers)


def _error(status: int, message: str) -> Answer:
    return _json({"error": {"code": status, "message": message, "errors": []}}, status)

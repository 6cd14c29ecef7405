"""A stand-in for the buckets of Hugging Face's Hub; the storage behind them is hf_xet's own.

https://huggingface.co/docs/hub/storage-buckets, and what its client huggingface_hub sends. The
storage is a folder, as hf_xet has it for its own tests: it makes the chunks and finds them again.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import hf_xet

from tests.cloud_server import Answer, Content, Request
from tests.hf_server import TOKEN, HfServer, error, in_json, ranged

BUCKET = "team/bucket"
_PAGE = 1000


@dataclass(frozen=True)
class _File:
    xet_hash: str
    content: Content

    def told(self, path: str) -> dict[str, Any]:
        return {
            "type": "file", "path": path, "size": self.content.size_bytes,
            "xetHash": self.xet_hash, "mtime": "2026-01-01T00:00:00.000Z",
        }  # fmt: skip


class HfBucketServer(HfServer):
    """One bucket.

    Attributes:
        files: What is there, by path.
        storage: Where contents are sent to; another one can be told to clients.
        fresh_s: So long they may write to it, before they have to ask again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory(prefix="mlflow-exec-xet-")
        self._own = self.storage = f"local://{self._folder.name}"
        self._of_another = ""
        self.fresh_s = 3600
        self._xet = hf_xet.XetSession()
        self.files: dict[str, _File] = {}

    def server_close(self) -> None:
        super().server_close()
        self._folder.cleanup()

    @contextmanager
    def storage_of_another_process(self) -> Iterator[None]:
        """Have contents sent to another storage, since each is locked by the process that has it.

        What is there is kept only as far as it gets a name.
        """
        with tempfile.TemporaryDirectory(prefix="mlflow-exec-xet-") as folder:
            self.storage, self._of_another = f"local://{folder}", folder
            try:
                yield
            finally:
                self.storage, self._of_another = self._own, ""

    def storage_bytes(self) -> int:
        """Return how much is kept of all contents that were sent."""
        xorbs = Path(self._folder.name).glob("xet/xorbs/xorbs/*")
        return sum(file.stat().st_size for file in xorbs)

    def answer(self, request: Request) -> Answer:
        names = request.names
        if names[0] == "xet-bridge":
            assert "Authorization" not in request.headers
            return self._bridge(request, names[1])
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return error(401, "", "Invalid credentials in Authorization header")
        names = names[1:] if names[0] == "api" else names
        assert names[0] == "buckets"
        if "/".join(names[1:3]) != BUCKET:
            return error(404, "RepoNotFound", "Repository not found")
        what, path = names[3], "/".join(names[4:])
        if what == "resolve":
            return self._resolve_file(path)
        if what == "tree":
            return self._list_files(request, path)
        if what == "paths-info":
            asked = json.loads(request.body)["paths"]
            return in_json([self.files[p].told(p) for p in asked if p in self.files])
        if what == "xet-write-token":
            expires_s = int(time.time()) + self.fresh_s
            told = {"casUrl": self.storage, "accessToken": "xet-access", "exp": expires_s}
            return in_json(told)
        assert what == "batch"
        with self.lock:
            return self._change([json.loads(line) for line in request.body.splitlines()])

    def _list_files(self, request: Request, prefix: str) -> Answer:
        """What begins with the letters of a prefix, whether they end a name or not."""
        found: dict[str, dict[str, Any]] = {}  # a folder and a file may have one path
        for path in sorted(self.files):
            end = path.find("/", len(prefix) + 1)
            if not path.startswith(prefix):
                continue
            if end < 0 or request.query.get("recursive") == "true":
                found[path] = self.files[path].told(path)
            else:
                found[path[: end + 1]] = {"type": "directory", "path": path[:end]}
        paths = sorted(path for path in found if path > request.query.get("cursor", ""))
        told = in_json([found[path] for path in paths[:_PAGE]])
        if len(paths) > _PAGE:
            cursor = quote(paths[_PAGE - 1], safe="")
            query = f"recursive={request.query['recursive']}&cursor={cursor}"
            told.headers["Link"] = f'<{self.url}{request.path}?{query}>; rel="next"'
        return told

    def _change(self, lines: list[dict[str, Any]]) -> Answer:
        failed = []
        for line in lines:
            path = line["path"]
            if line["type"] == "addFile":
                content = self._stored_content(line["xetHash"])
                if content is not None:
                    self.files[path] = _File(line["xetHash"], content)
                    continue
                failed.append({"path": path, "error": "Xet hash not found"})
            else:
                assert line["type"] == "deleteFile"
                if self.files.pop(path, None) is None:
                    failed.append({"path": path, "error": "File not found"})
        told = in_json({"success": not failed, "processed": len(lines), "failed": failed})
        told.headers["X-Request-Id"] = "Root=1-5C3D"
        told.status = 422 if len(failed) == len(lines) else 200
        return told

    def _stored_content(self, xet_hash: str) -> Content | None:
        if not xet_hash.strip("0"):
            return Content(())
        for file in self.files.values():
            if file.xet_hash == xet_hash:
                return file.content
        content = self._content_in(self._own, xet_hash)
        if content is None and self._of_another:
            with tempfile.TemporaryDirectory(prefix="mlflow-exec-xet-") as folder:
                copy = f"{folder}/storage"
                shutil.copytree(self._of_another, copy)
                content = self._content_in(f"local://{copy}", xet_hash)
        return content

    def _content_in(self, storage: str, xet_hash: str) -> Content | None:
        group = self._xet.new_download_stream_group(endpoint=storage)
        try:
            content = Content(tuple(group.download_stream(hf_xet.XetFileInfo(xet_hash))))
        except RuntimeError:  # it is no hash
            return None
        return content if content.size_bytes else None  # it says nothing else of what is not there

    def _resolve_file(self, path: str) -> Answer:
        file = self.files.get(path)
        if file is None:
            return error(404, "EntryNotFound", "Entry not found")
        url = f"{self.other_host_url}/xet-bridge/{file.xet_hash}?signature=of-the-storage"
        size = str(file.content.size_bytes)
        headers = {"Location": url, "X-Xet-Hash": file.xet_hash, "X-Linked-Size": size}
        return Answer(302, headers=headers)

    def _bridge(self, request: Request, xet_hash: str) -> Answer:
        content = self._stored_content(xet_hash)
        if content is None or not content.size_bytes:
            return error(404, "", "There is no such content")
        return ranged(request, content)

"""A stand-in for Hugging Face's Hub: its API of repositories, and LFS behind another host's name.

https://huggingface.co/docs/hub/api, and what its client huggingface_hub sends.
"""

from __future__ import annotations

import base64
import hashlib
import json
import uuid
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, quote

from tests.cloud_server import Answer, CloudServer, Content, Request

TOKEN = "hf_of-the-test"
REPOSITORY = "team/artifacts"
_PAGE = 1000
_PART_BYTES = 16 * 1024 * 1024
_SINGLE_BYTES = 5 * 1024 * 1024
_REGULAR_BYTES = 1024 * 1024

_Tree = dict[str, "_Kept"]


@dataclass(frozen=True)
class _Kept:
    content: Content
    oid: str
    sha256: str = ""

    def told(self, path: str) -> dict[str, Any]:
        size = self.content.size_bytes
        found = {"type": "file", "path": path, "size": size, "oid": self.oid}
        if self.sha256:
            found["lfs"] = {"oid": self.sha256, "size": size, "pointerSize": 130}
        return found


class HfServer(CloudServer):
    """The same repository as a model, a dataset and a space.

    Attributes:
        commits: Trees by the id of their commit; the last one is that of the branch ``main``.
        lfs: Large contents by their SHA-256.
        other_host_url: The name under which large contents are; the token must not come there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.commits: dict[str, _Tree] = {"0" * 40: {}}
        self.lfs: dict[str, Content] = {}
        self._parts: dict[str, dict[int, bytes]] = {}
        self.other_host_url = f"http://localhost:{self.server_port}"

    @property
    def tree(self) -> _Tree:
        """What is there now."""
        return next(reversed(self.commits.values()))

    def failure(self, status: int) -> Answer:
        return error(status, "", "told to fail")

    def answer(self, request: Request) -> Answer:
        names = request.names
        if names[0] in ("lfs-storage", "cdn"):
            assert "Authorization" not in request.headers
            return self._stored(request, names)
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return error(401, "", "Invalid credentials in Authorization header")
        if names[0] == "api":
            return self._api(request, names[2:])
        names = names[1:] if names[0] in ("datasets", "spaces") else names
        repository = "/".join(names[:2]).removesuffix(".git")
        if repository != REPOSITORY:
            return error(404, "RepoNotFound", "Repository not found")
        if names[2:4] == ["info", "lfs"]:
            return self._batch(json.loads(request.body))
        assert names[2] == "resolve"
        return self._resolve(request, names[3], "/".join(names[4:]))

    def _api(self, request: Request, names: list[str]) -> Answer:
        if "/".join(names[:2]) != REPOSITORY:
            return error(404, "RepoNotFound", "Repository not found")
        what, revision, path = names[2], names[3], "/".join(names[4:])
        tree = self.tree if revision == "main" else self.commits.get(revision)
        if tree is None:
            return error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        if what == "tree":
            return self._list(request, tree, path)
        if what == "paths-info":
            return in_json(_infos(tree, parse_qs(request.body.decode())["paths"]))
        if what == "preupload":
            asked = json.loads(request.body)
            ignored = asked.get("gitIgnore")
            return in_json({"files": [self._mode(file, ignored) for file in asked["files"]]})
        if what == "revision":
            return in_json({"id": REPOSITORY, "sha": next(reversed(self.commits))})
        assert what == "commit"
        with self.lock:
            return self._commit([json.loads(line) for line in request.body.splitlines()])

    def _mode(self, file: dict[str, Any], ignored: str | None) -> dict[str, Any]:
        if ignored is None and ".gitignore" in self.tree:
            ignored = self.tree[".gitignore"].content.parts[0].decode()
        patterns = [line for line in (ignored or "").splitlines() if line.startswith("*.")]
        large = file["size"] > _REGULAR_BYTES or b"\0" in base64.b64decode(file["sample"])
        kept = self.tree.get(file["path"])
        return {
            "path": file["path"], "uploadMode": "lfs" if large else "regular",
            "shouldIgnore": any(file["path"].endswith(p[1:]) for p in patterns),
            "oid": (kept.sha256 or kept.oid) if kept else None,
        }  # fmt: skip

    def _list(self, request: Request, tree: _Tree, folder: str) -> Answer:
        prefix = f"{folder}/" if folder else ""
        if folder and not any(path.startswith(prefix) for path in tree):
            return error(404, "EntryNotFound", f'The path "{folder}" does not exist')
        found: dict[str, dict[str, Any]] = {}
        for path in sorted(tree):
            if not path.startswith(prefix):
                continue
            name, slash, _ = path[len(prefix) :].partition("/")
            if slash:
                below = prefix + name
                found[below] = {"type": "directory", "path": below, "oid": "1" * 40, "size": 0}
            if not slash or request.query.get("recursive") == "true":
                found[path] = tree[path].told(path)
        paths = sorted(path for path in found if path > request.query.get("cursor", ""))
        told = in_json([found[path] for path in paths[:_PAGE]])
        if len(paths) > _PAGE:
            cursor = quote(paths[_PAGE - 1], safe="")
            query = f"recursive={request.query['recursive']}&cursor={cursor}"
            told.headers["Link"] = f'<{self.url}{request.path}?{query}>; rel="next"'
        return told

    def _commit(self, lines: list[dict[str, Any]]) -> Answer:
        tree = dict(self.tree)
        for line in lines[1:]:
            kind, value = line["key"], line["value"]
            path = value["path"]
            if kind == "file":
                tree[path] = _regular(base64.b64decode(value["content"]))
            elif kind == "lfsFile":
                if value["oid"] not in self.lfs:
                    return error(400, "", f"LFS pointer pointed to a missing file: {path}")
                oid = hashlib.sha1(value["oid"].encode()).hexdigest()
                tree[path] = _Kept(self.lfs[value["oid"]], oid, value["oid"])
            else:
                assert kind == "deletedFile"
                if tree.pop(path, None) is None:
                    return error(404, "EntryNotFound", "A file with this name doesn't exist")
        commit = uuid.uuid4().hex + "0" * 8
        self.commits[commit] = tree
        while len(self.commits) > 50:
            del self.commits[next(iter(self.commits))]
        url = f"{self.url}/{REPOSITORY}/commit/{commit}"
        return in_json({"commitUrl": url, "commitOid": commit})

    # -- large files ----------------------------------------------------------------------------

    def _batch(self, asked: dict[str, Any]) -> Answer:
        assert asked["operation"] == "upload"
        told = []
        for found in asked["objects"]:
            oid, size = found["oid"], found["size"]
            if oid in self.lfs:
                told.append(found)
                continue
            upload: dict[str, Any] = {"href": f"{self.other_host_url}/lfs-storage/{oid}"}
            if size > _SINGLE_BYTES:
                parts = range(1, -(-size // _PART_BYTES) + 1)
                href = f"{self.other_host_url}/lfs-storage/{oid}"
                header = {f"{number:05}": f"{href}?number={number}" for number in parts}
                header["chunk_size"] = str(_PART_BYTES)
                upload = {"href": f"{href}?complete", "header": header}
            told.append({**found, "actions": {"upload": upload}})
        return in_json({"transfer": "basic", "objects": told})

    def _stored(self, request: Request, names: list[str]) -> Answer:
        oid = names[1]
        if request.method == "GET":
            return ranged(request, self.lfs[oid])
        if "number" in request.query:
            self._parts.setdefault(oid, {})[int(request.query["number"])] = request.body
            return Answer(headers={"ETag": hashlib.md5(request.body).hexdigest()})
        parts = self._parts.pop(oid) if "complete" in request.query else {1: request.body}
        content = Content(tuple(parts[number] for number in sorted(parts)))
        if content.hash("sha256").hexdigest() != oid:
            return error(400, "", "The content is not that of the SHA-256")
        self.lfs[oid] = content
        return Answer()

    def _resolve(self, request: Request, revision: str, path: str) -> Answer:
        tree = self.tree if revision == "main" else self.commits.get(revision, {})
        kept = tree.get(path)
        if kept is None:
            return error(404, "EntryNotFound", "Entry not found")
        if kept.sha256:
            url = f"{self.other_host_url}/cdn/{kept.sha256}?signature=x"
            return Answer(302, headers={"Location": url})
        return ranged(request, kept.content)


def ranged(request: Request, content: Content) -> Answer:
    """Return what is asked for of a content."""
    asked = request.byte_range(content.size_bytes)
    if asked is None:
        return Answer(200, content.range(0, content.size_bytes))
    return Answer(206, content.range(*asked))


def _regular(content: bytes) -> _Kept:
    header = b"blob %d\0" % len(content)
    return _Kept(Content((content,)), hashlib.sha1(header + content).hexdigest())


def _infos(tree: _Tree, paths: list[str]) -> list[dict[str, Any]]:
    folders = {path[:i] for path in tree for i in range(len(path)) if path[i] == "/"}
    return [
        tree[path].told(path)
        if path in tree
        else {"type": "directory", "path": path, "oid": "1" * 40}
        for path in paths
        if path in tree or path in folders
    ]


def in_json(told: Any) -> Answer:
    """Return an answer that goes well."""
    return Answer(200, json.dumps(told).encode(), {"Content-Type": "application/json"})


def error(status: int, code: str, message: str) -> Answer:
    """Return what the Hub answers to what it refuses."""
    told = in_json({"error": message})
    told.status = status
    told.headers |= {"X-Error-Message": message, "X-Request-Id": "Root=1-5C3D"}
    if code:
        told.headers["X-Error-Code"] = code
    return told

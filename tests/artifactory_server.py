"""An Artifactory for tests, after its public REST documentation; no real one is to be had here.

https://docs.jfrog.com/artifactory/reference: Deploy Artifact, Deploy Artifact by Checksum, Retrieve
Artifact, Delete Item, Folder Info, File Info, File List, and the form of errors. A folder is shown
as a page, and matrix parameters are cut off, as by a real one. What it answers where a file stands
in the way of a folder is not documented; here it is 409.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import uuid
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

REPOSITORY = "ml-local"
TOKEN = "a-token-that-nobody-may-see"
USER, PASSWORD, KEY = "scientist", "a-password-that-nobody-may-see", "a-key-that-nobody-may-see"
_IS_REFUSED = re.compile(r'[\\:|?*"<>]')
_PIECE_BYTES = 64 * 1024
_ONLY_PRO = (
    "This REST API is available only in Artifactory Pro (see: jfrog.com/artifactory/features). If "
    "you are already running Artifactory Pro please make sure your server is activated with a "
    "valid license key."
)


@dataclass
class Fault:
    """What goes wrong with the next requests.

    Attributes:
        method: Of the requests.
        status: What is answered in place of the answer.
        cut_at_byte: The connection ends there, in the body that comes or goes.
        loses_answer: The request is done, and not answered.
        corrupts: A byte of the body is another one.
        headers: Of the answer.
        only: A part of the path of the requests.
        with_body: Whether it is only those with a body.
        times: How many requests.
    """

    method: str
    status: int = 0
    cut_at_byte: int | None = None
    loses_answer: bool = False
    corrupts: bool = False
    headers: dict[str, str] = field(default_factory=dict)
    only: str = ""
    with_body: bool = False
    times: int = 1


@dataclass
class ArtifactoryServer:
    """A server with one repository, and what it was asked.

    Attributes:
        folder: Holds the contents, by their SHA-256, each once.
        host: ``127.0.0.1:port``.
        objects: ``127.0.0.1:port`` of the store that downloads are redirected to.
        is_pro: Whether it has File List.
        is_open: Whether it answers without a credential; File List it does not.
        redirects: Whether downloads are redirected.
        heeds_ranges: Whether a download may begin in the middle.
        names_hashes: Whether answers of downloads name them.
        heeds_deploys: Whether it knows ``X-Checksum-Deploy``.
        heeds_hashes: Whether any such header reaches it.
        token: The one that is valid.
        faults: What goes wrong.
        requests: Method, path and headers of each request; of the store of objects, too.
        nodes: The hash of each file by its path; none of folders.
    """

    folder: Path
    host: str = ""
    objects: str = ""
    is_pro: bool = True
    is_open: bool = False
    redirects: bool = False
    heeds_ranges: bool = True
    names_hashes: bool = True
    heeds_deploys: bool = True
    heeds_hashes: bool = True
    token: str = TOKEN
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    nodes: dict[str, str] = field(default_factory=lambda: {REPOSITORY: ""})
    lock: threading.RLock = field(default_factory=threading.RLock)

    def uri(self, name: str) -> str:
        """Return the URI of a folder in the repository."""
        return f"artifactory://{self.host}/artifactory/{REPOSITORY}/{name}"

    def asked(self, method: str) -> list[str]:
        """Return the paths of the requests of a method."""
        return [path for found, path, _ in self.requests if found == method]

    def fault(self, method: str, path: str, has_body: bool) -> Fault:
        """Return what goes wrong with a request, and count it."""
        with self.lock:
            for fault in self.faults:
                fits = fault.method == method and fault.only in path
                if fault.times and fits and (has_body or not fault.with_body):
                    fault.times -= 1
                    return fault
        return Fault(method)

    def put(self, path: str, sha256: str) -> str:
        """Make a file and its folders; returns why that cannot be."""
        names = path.split("/")
        with self.lock:
            above = ["/".join(names[:i]) for i in range(1, len(names))]
            if above[0] not in self.nodes:
                return "404 Could not locate repository"
            if self.nodes.get(path) == "":
                return "409 Expected a file but found a folder"
            if any(self.nodes.get(place) for place in above):
                return "409 Expected a folder but found a file"
            self.nodes.update(dict.fromkeys(above, ""))
            self.nodes[path] = sha256
        return ""

    def children(self, path: str) -> list[str]:
        with self.lock:
            return [n[len(path) + 1 :] for n in self.nodes if n.rpartition("/")[0] == path]

    def remove(self, path: str) -> bool:
        with self.lock:
            gone = [n for n in self.nodes if n == path or n.startswith(f"{path}/")]
            return bool([self.nodes.pop(node) for node in gone])


class _CutError(Exception):
    pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    served: ArtifactoryServer
    is_objects = False

    def answer(self) -> None:
        served = self.served
        served.requests.append((self.command, self.path, dict(self.headers)))
        has_body = self.headers.get("Content-Length", "0") != "0"
        self.fault = served.fault(self.command, self.path, has_body)
        try:
            if self.fault.status:
                self._drain()
                self._error(self.fault.status, "as the test wants it", self.fault.headers)
            elif self.is_objects:
                self._send_file(self.path.partition("?")[0][1:], {})
            elif not self._may():
                self._drain()
                self._error(401, "Bad credentials", {"WWW-Authenticate": "Basic realm=A"})
            else:
                self._route()
        except (_CutError, ConnectionError):
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(2)

    do_GET = do_PUT = do_DELETE = answer

    def log_message(self, *_: Any) -> None:
        pass

    def _route(self) -> None:
        parts = urlsplit(self.path)
        names = [unquote(name.partition(";")[0]) for name in parts.path.strip("/").split("/")]
        context, *names = names
        is_storage = names[:2] == ["api", "storage"]
        path = "/".join(names[2:] if is_storage else names)
        if context != "artifactory" or any(_IS_REFUSED.search(name) for name in names):
            self._drain()
            self._error(400, f"Invalid path {path!r}")
        elif is_storage:
            self._list(path) if parts.query.startswith("list") else self._info(path)
        elif self.command == "PUT":
            self._put(path)
        elif self.command == "DELETE":
            removed = self.served.remove(path)
            self._send(204, b"") if removed else self._error(404, f"Could not locate {path!r}")
        else:
            self._get(path)

    def _may(self) -> bool:
        pair = b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        signed = self.headers.get("Authorization")
        self.is_known = (
            signed in (f"Bearer {self.served.token}", f"Basic {pair}")
            or self.headers.get("X-JFrog-Art-Api") == KEY
        )
        return self.is_known or (self.served.is_open and not signed)

    # -- files ----------------------------------------------------------------------------------

    def _put(self, path: str) -> None:
        said = self.headers.get("X-Checksum-Sha256") if self.served.heeds_hashes else None
        if self.headers.get("X-Checksum-Deploy") == "true" and self.served.heeds_deploys:
            self._drain()
            if not said or not (self.served.folder / said).exists():
                self._error(404, "Checksum deploy failed. No existing file with SHA256")
                return
            sha256 = said
        else:
            sha256 = self._keep()
            if said and said != sha256:
                self._error(409, "Checksum policy 'LocalRepoChecksumPolicy: CLIENT' rejected it")
                return
        refused = self.served.put(path, sha256)
        if self.fault.loses_answer:
            raise _CutError
        if refused:
            self._error(int(refused[:3]), refused[4:])
        else:
            self._send_json(201, self._told(path, sha256))

    def _keep(self) -> str:
        """Keep what comes under its hash, when all of it has come."""
        part, digest = self.served.folder / f"part-{uuid.uuid4().hex}", hashlib.sha256()
        try:
            with part.open("wb") as file:
                for piece in self._pieces(self.fault.cut_at_byte):
                    kept = bytes([piece[0] ^ 1]) + piece[1:] if self.fault.corrupts else piece
                    digest.update(kept)
                    file.write(kept)
            part.rename(self.served.folder / digest.hexdigest())
        finally:
            part.unlink(missing_ok=True)
        return digest.hexdigest()

    def _get(self, path: str) -> None:
        sha256 = self.served.nodes.get(path)
        if sha256 is None:
            self._error(404, "File not found.")
        elif not sha256 and not self.path.endswith("/"):
            self._send(302, b"", {"Location": f"http://{self.served.host}{self.path}/"})
        elif not sha256:
            self._send(200, b"<html>Index of it</html>", {"Content-Type": "text/html"})
        else:
            named = {"X-Checksum-Sha256": sha256} if self.served.names_hashes else {}
            if self.served.redirects:
                target = f"http://{self.served.objects}/{sha256}?X-Amz-Signature=signed"
                self._send(302, b"", {"Location": target, **named})
            else:
                self._send_file(sha256, named)

    def _send_file(self, sha256: str, headers: dict[str, str]) -> None:
        with (self.served.folder / sha256).open("rb") as file:
            size_bytes = file.seek(0, 2)
            wanted = self.headers.get("Range", "") if self.served.heeds_ranges else ""
            asked = re.fullmatch(r"bytes=(\d+)-", wanted)
            start = file.seek(int(asked[1]) if asked else 0)
            if asked and start >= size_bytes:
                self._error(416, "Requested Range Not Satisfiable")
                return
            if asked:
                headers["Content-Range"] = f"bytes {start}-{size_bytes - 1}/{size_bytes}"
            self._begin(206 if asked else 200, size_bytes - start, headers)
            left = self.fault.cut_at_byte
            while piece := file.read(_PIECE_BYTES if left is None else min(_PIECE_BYTES, left)):
                if self.fault.corrupts:
                    piece = bytes([piece[0] ^ 1]) + piece[1:]
                self.wfile.write(piece)
                left = left and left - len(piece)
            if left is not None:
                raise _CutError

    # -- what there is --------------------------------------------------------------------------

    def _info(self, path: str) -> None:
        sha256 = self.served.nodes.get(path)
        if sha256 is None:
            self._error(404, "Unable to find item")
            return
        told = self._told(path, sha256)
        if not sha256:
            told["children"] = [
                {"uri": f"/{name}", "folder": not self.served.nodes[f"{path}/{name}"]}
                for name in self.served.children(path)
            ]
        self._send_json(200, told)

    def _list(self, path: str) -> None:
        if not self.served.is_pro:
            self._error(400, _ONLY_PRO)
        elif not self.is_known:
            self._error(401, "Authentication is required")
        elif path not in self.served.nodes:
            self._error(404, "Unable to find item")
        elif self.served.nodes[path]:
            self._error(400, "Expected a folder but found a file")
        else:
            found = {n: self.served.nodes.get(f"{path}/{n}") for n in self.served.children(path)}
            files = [
                {"uri": f"/{name}", "size": self._size_bytes(sha256), "folder": not sha256}
                for name, sha256 in found.items()
            ]
            self._send_json(200, {"uri": f"http://{self.served.host}", "files": files})

    def _told(self, path: str, sha256: str) -> dict[str, Any]:
        repository, _, below = path.partition("/")
        told: dict[str, Any] = {
            "repo": repository,
            "path": f"/{below}",
            "uri": f"http://{self.served.host}/artifactory/{quote(path)}",
        }
        if sha256:
            told["size"] = str(self._size_bytes(sha256))
            told["checksums"] = {"sha256": sha256}
        return told

    def _size_bytes(self, sha256: str | None) -> int:
        return (self.served.folder / sha256).stat().st_size if sha256 else -1

    def _drain(self) -> None:
        list(self._pieces(None))

    def _pieces(self, cut_at_byte: int | None) -> Iterator[bytes]:
        """Yield the body that comes; the connection ends at a byte of it."""
        is_chunked = self.headers.get("Transfer-Encoding") == "chunked"
        left = 0 if is_chunked else int(self.headers.get("Content-Length") or 0)
        seen = 0
        while True:
            if is_chunked and not left:
                left = int(self.rfile.readline().strip() or b"-1", 16)
                if left < 0:
                    raise _CutError
                if not left:
                    self.rfile.readline()
                    return
            if not left:
                return
            piece = self.rfile.read(min(left, _PIECE_BYTES))
            if not piece:
                raise _CutError
            left, seen = left - len(piece), seen + len(piece)
            if cut_at_byte is not None and seen > cut_at_byte:
                raise _CutError
            yield piece
            if is_chunked and not left:
                self.rfile.readline()

    def _send_json(self, status: int, value: Any) -> None:
        self._send(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _error(self, status: int, message: str, headers: Mapping[str, str] | None = None) -> None:
        body = json.dumps({"errors": [{"status": status, "message": message}]}).encode()
        self._send(status, body, {"Content-Type": "application/json", **(headers or {})})

    def _send(self, status: int, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._begin(status, len(body), headers or {})
        self.wfile.write(body)

    def _begin(self, status: int, size_bytes: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        self.send_header("X-Request-Id", uuid.uuid4().hex[:16])
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(size_bytes))
        self.end_headers()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        pass  # connections end as the tests want it


@contextlib.contextmanager
def artifactory(folder: Path) -> Iterator[ArtifactoryServer]:
    """Run one without TLS on the loopback; it keeps its files in an existing folder."""
    served = ArtifactoryServer(folder)
    servers = []
    for is_objects in (False, True):
        members = {"served": served, "is_objects": is_objects}
        server = _HttpServer(("127.0.0.1", 0), type("Handler", (_Handler,), members))
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
    served.host, served.objects = (f"127.0.0.1:{server.server_port}" for server in servers)
    yield served
    for server in servers:
        server.shutdown()
        server.server_close()

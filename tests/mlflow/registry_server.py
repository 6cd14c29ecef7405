"""A registry of images on this machine, from which a node of the tests really pulls.

It has one image: the tests' Python with a file of the registry's own. It can limit how often it is
asked, as public registries do, ask for credentials, or not know what it is asked for.
"""

from __future__ import annotations

import http.server
import io
import json
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.clusters.kubernetes import images
from tests.clusters.pytest_kubernetes import KubernetesCluster

MARK = "/of-the-registry"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_LIMIT = {"code": "TOOMANYREQUESTS", "message": "You have reached your pull rate limit."}
_DENIED = {"code": "UNAUTHORIZED", "message": "authentication required"}
_UNKNOWN = {"code": "NAME_UNKNOWN", "message": "repository name not known to registry"}


@dataclass
class Registry:
    """What is served, and to whom not.

    Attributes:
        host: Host and port, as they begin the name of an image.
        limited: Repositories whose every request is answered with 429.
        turned_away: For each of them, how many were.
        blobs: What is served, by digest: bytes, or a file.
        manifest: The image of every repository that starts with ``has/``.
    """

    host: str
    limited: set[str] = field(default_factory=set)
    turned_away: dict[str, int] = field(default_factory=dict)
    blobs: dict[str, bytes | Path] = field(default_factory=dict)
    manifest: bytes = b""

    def image(self, repository: str) -> str:
        """Return the name of an image: ``has/…`` is there, ``private/…`` and others are not."""
        return f"{self.host}/{repository}:1"

    def answer(self, path: str) -> tuple[int, str, bytes | Path]:
        """Return status, content type and body for a path below ``/v2/``."""
        repository, kind, reference = [*path.rsplit("/", 2), "", ""][:3]
        if repository in self.limited:
            self.turned_away[repository] = self.turned_away.get(repository, 0) + 1
            return _refusal(429, _LIMIT)
        if repository.startswith("private/"):
            return _refusal(401, _DENIED)
        if kind == "manifests" and repository.startswith("has/"):
            return 200, _MANIFEST, self.manifest
        if kind == "blobs" and reference in self.blobs:
            return 200, "application/octet-stream", self.blobs[reference]
        return (200, "application/json", b"{}") if not path else _refusal(404, _UNKNOWN)

    def fill(self, folder: Path) -> None:
        """Make the image: layers that the node may have already, and one that it has not."""
        own = folder / "layer.tar"
        with tarfile.open(own, "w") as tar:
            member, content = tarfile.TarInfo(MARK.lstrip("/")), b"pulled"
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        layers = [*images.layers(images.PYTHON), own]
        config = json.dumps(images.image_config(layers, ["python3"])).encode()
        described = [_descriptor(_CONFIG, images.digest(config), len(config))]
        self.blobs[described[0]["digest"]] = config
        for path in layers:
            described.append(_descriptor(_LAYER, images.digest(path), path.stat().st_size))
            self.blobs[described[-1]["digest"]] = path
        self.manifest = json.dumps(
            {"schemaVersion": 2, "mediaType": _MANIFEST, "config": described[0],
             "layers": described[1:]}
        ).encode()  # fmt: skip


def _refusal(status: int, error: dict[str, str]) -> tuple[int, str, bytes]:
    return status, "application/json", json.dumps({"errors": [error]}).encode()


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


@contextmanager
def registry_server(cluster: KubernetesCluster, folder: Path) -> Iterator[Registry]:
    """Run a registry that the cluster's node asks over plain HTTP."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            status, kind, body = registry.answer(self.path.removeprefix("/v2/").split("?")[0])
            size = len(body) if isinstance(body, bytes) else body.stat().st_size
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(size))
            if isinstance(body, bytes) and status == 200:
                self.send_header("Docker-Content-Digest", images.digest(body))
            if status == 401:
                self.send_header("WWW-Authenticate", 'Basic realm="tests"')
            self.end_headers()
            if self.command == "GET" and isinstance(body, bytes):
                self.wfile.write(body)
            elif self.command == "GET":
                with open(body, "rb") as file:
                    while block := file.read(1 << 20):
                        self.wfile.write(block)

        do_HEAD = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    node = cluster.processes()
    with http.server.ThreadingHTTPServer((str(cluster.node_ip), 0), Handler) as server:
        server.daemon_threads = True
        registry = Registry(f"{cluster.node_ip}:{server.server_port}")
        registry.fill(folder)
        node.trust_registry(registry.host)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield registry
        server.shutdown()
    thread.join(5)

"""Real servers for tests: MLflow's tracking server, a switchable relay before it, plain files."""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_exec.clients.ports import free_port
from mlflow_exec.testing.collecting import until


@dataclass(frozen=True)
class MlflowServer:
    """A running tracking server and what tests ask it, over plain HTTP.

    Attributes:
        url: As this machine reaches it.
        dir: Holds its database, artifacts and log.
    """

    url: str
    dir: Path

    def api(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Call an MLflow API, path below ``/api/2.0/mlflow/``."""
        request = urllib.request.Request(
            f"{self.url}/api/2.0/mlflow/{path}",
            data=None if body is None else json.dumps(body).encode(),
            method=method,
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read() or b"{}")

    def create_run(self, experiment_id: str = "0", **tags: str) -> dict[str, Any]:
        """Create a run and return its ``info``."""
        pairs = [{"key": key, "value": value} for key, value in tags.items()]
        body = {"experiment_id": experiment_id, "tags": pairs, "start_time": 1}
        info: dict[str, Any] = self.api("POST", "runs/create", body)["run"]["info"]
        return info

    def status(self, run_id: str) -> str:
        """Return the run's status."""
        return str(self.api("GET", f"runs/get?run_id={run_id}")["run"]["info"]["status"])

    def tags(self, run_id: str) -> dict[str, str]:
        """Return the run's tags."""
        data = self.api("GET", f"runs/get?run_id={run_id}")["run"]["data"]
        return {tag["key"]: tag["value"] for tag in data.get("tags", [])}

    def artifacts(self, run_id: str, folder: str) -> list[str]:
        """Return the paths of the artifacts in a folder of the run."""
        query = urllib.parse.urlencode({"run_id": run_id, "path": folder})
        files = self.api("GET", f"artifacts/list?{query}").get("files", [])
        return sorted(file["path"] for file in files)

    def artifact(self, run_id: str, path: str) -> bytes:
        """Return an artifact's bytes."""
        query = urllib.parse.urlencode({"run_id": run_id, "path": path})
        with urllib.request.urlopen(f"{self.url}/get-artifact?{query}", timeout=60) as answer:
            content: bytes = answer.read()
        return content


@contextlib.contextmanager
def mlflow_server(
    directory: Path,
    *,
    host: str = "127.0.0.1",
    visible_as: str | None = None,
    environment: Mapping[str, str] | None = None,
    workers: int | None = 1,
    destination: str | None = None,
    backend: str | None = None,
    app: str | None = None,
) -> Iterator[MlflowServer]:
    """Run a tracking server with sqlite and proxied artifacts in the directory.

    Args:
        directory: An existing empty folder.
        host: The address to listen on.
        visible_as: The host in the URL that is returned, where it is not ``host``.
        environment: Further variables of the server's.
        workers: Its processes; as many as MLflow starts by itself if None.
        destination: Where it keeps artifacts, if not in the directory.
        backend: Where it keeps runs, if not in the directory.
        app: The one of its apps that is not the usual one, such as ``basic-auth``.
    """
    port = free_port(host)
    name = visible_as or host
    argv = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port)]
    argv += ["--backend-store-uri", backend or f"sqlite:///{directory}/mlflow.db"]
    argv += [] if workers is None else ["--workers", str(workers)]
    argv += ["--artifacts-destination", destination or str(directory / "artifacts")]
    argv += ["--allowed-hosts", "*"]
    argv += ["--app-name", app] if app else []
    # Without its job runners, which are seven processes that nothing here has work for.
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    env = {**os.environ, **quiet, **(environment or {})}
    with (directory / "server.log").open("wb") as log:
        server = subprocess.Popen(argv, stdout=log, stderr=log, env=env, start_new_session=True)
    try:

        def healthy() -> bool:
            assert server.poll() is None, (directory / "server.log").read_text()[-3000:]
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                return True
            return False

        until(healthy, "the tracking server is healthy")
        yield MlflowServer(f"http://{name}:{port}", directory)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, 15)
        try:
            server.wait(3)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, 9)
            server.wait()


@dataclass
class Relay:
    """Passes TCP connections on to a server, or turns them away while ``away`` is set.

    Attributes:
        port: Where it listens.
        away: Whether connections are closed, new ones at once and unanswered.
        turned_away: How many were.
    """

    target: tuple[str, int]
    port: int = 0
    away: bool = False
    turned_away: int = 0
    _sockets: list[socket.socket] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        """Accept until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                if self.away:
                    self.turned_away += 1
                    client.close()
                    continue
                threading.Thread(target=self._pass_on, args=(client,), daemon=True).start()

    def _pass_on(self, client: socket.socket) -> None:
        with client, socket.create_connection(self.target) as server:
            other = {client: server, server: client}
            with contextlib.suppress(OSError):
                while True:
                    if self.away:
                        return
                    for one in select.select([client, server], [], [], 0.2)[0]:
                        data = one.recv(65536)
                        if not data:
                            return
                        other[one].sendall(data)


@contextlib.contextmanager
def relay_to(url: str, host: str = "127.0.0.1") -> Iterator[Relay]:
    """Run a relay before the server of the URL, which listens on this address."""
    parts = urllib.parse.urlsplit(url)
    with socket.create_server((host, 0)) as listener:
        relay = Relay((str(parts.hostname), int(parts.port or 80)), listener.getsockname()[1])
        thread = threading.Thread(target=relay.serve, args=(listener,), daemon=True)
        thread.start()
        yield relay
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(5)


@dataclass
class FileServer:
    """Serves bytes over HTTP and keeps what it was asked.

    Attributes:
        url: Its root.
        files: path -> (status, body).
        requests: (path with query, headers) of each request.
    """

    url: str
    files: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)


@contextlib.contextmanager
def file_server(certificate: Path | None = None, key: Path | None = None) -> Iterator[FileServer]:
    """Run a server of plain files on loopback; with a certificate, over https."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.requests.append((self.path, dict(self.headers)))
            status, body = served.files.get(self.path.split("?")[0], (404, b"not here"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        served = FileServer(f"http://127.0.0.1:{server.server_port}")
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            # The handshake belongs to the request's thread, which may see it fail.
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
            served.url = served.url.replace("http:", "https:")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield served
        server.shutdown()
    thread.join(5)


@contextlib.contextmanager
def asking_for(
    authorization: str, url: str, host: str = "127.0.0.1", visible_as: str = "127.0.0.1"
) -> Iterator[str]:
    """Run a server before another one that wants this header of each request; yields its URL.

    Args:
        authorization: ``Bearer …`` or ``Basic …``.
        url: The other server's.
        host: The address to listen on.
        visible_as: The host in the URL that is returned.
    """
    target = urllib.parse.urlsplit(url)

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Authorization") != authorization:
                self.reply(401, {"WWW-Authenticate": "Basic"}, b"who are you?")
                return
            connection = http.client.HTTPConnection(target.netloc, timeout=60)
            with contextlib.closing(connection):
                headers = {k: v for k, v in self.headers.items() if k not in ("Host", "Connection")}
                connection.request(self.command, self.path, body, headers)
                got = connection.getresponse()
                kept = {k: v for k, v in got.getheaders() if k in ("Content-Type", "Location")}
                self.reply(got.status, kept, got.read())

        def reply(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield f"http://{visible_as}:{server.server_port}"
        server.shutdown()
    thread.join(5)

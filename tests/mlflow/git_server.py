"""A git server over HTTP, with a password if wanted: git's own CGI program behind Python's."""

from __future__ import annotations

import base64
import contextlib
import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WHO = ("-c", "user.name=t", "-c", "user.email=t@example.invalid", "-c", "init.defaultBranch=main")


def git(*arguments: str, cwd: Path) -> str:
    """Run git with nobody's settings, and return what it prints."""
    env = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_SYSTEM": "/dev/null"}
    done = subprocess.run(["git", *_WHO, *arguments], cwd=cwd, env=env, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


@dataclass
class Repositories:
    """The repositories that a server serves.

    Attributes:
        url: Its root, without credentials.
        folder: Holds the repositories.
    """

    url: str
    folder: Path

    def commit(self, name: str, project: Path) -> str:
        """Commit a folder's state to the repository of that name, and return the commit."""
        if not (project / ".git").exists():
            git("init", "-q", cwd=project)
            git("init", "-q", "--bare", name, cwd=self.folder)
        git("add", "--all", cwd=project)
        git("commit", "-q", "-m", "state", cwd=project)
        git("push", "-q", str(self.folder / name), "HEAD:refs/heads/main", cwd=project)
        return git("rev-parse", "HEAD", cwd=project)


@dataclass
class GitServer(Repositories):
    """Serves repositories over HTTP.

    Attributes:
        password: What user ``u`` must give; None for nothing.
    """

    password: str | None = None

    def answer(self, request: http.server.BaseHTTPRequestHandler, body: bytes) -> None:
        """Let git answer a request."""
        expected = "Basic " + base64.b64encode(f"u:{self.password}".encode()).decode()
        if self.password is not None and request.headers.get("Authorization") != expected:
            request.send_response(401)
            request.send_header("WWW-Authenticate", 'Basic realm="git"')
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        path, _, query = request.path.partition("?")
        env = {
            **os.environ,
            "GIT_PROJECT_ROOT": str(self.folder),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "PATH_INFO": path,
            "QUERY_STRING": query,
            "REQUEST_METHOD": request.command,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
        }
        done = subprocess.run(["git", "http-backend"], input=body, env=env, capture_output=True)
        head, _, content = done.stdout.partition(b"\r\n\r\n")
        fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
        request.send_response(int(fields.pop("Status", "200").split()[0]))
        for name, value in (*fields.items(), ("Content-Length", str(len(content)))):
            request.send_header(name, value)
        request.end_headers()
        request.wfile.write(content)


@contextlib.contextmanager
def git_server(folder: Path, visible_as: str) -> Iterator[GitServer]:
    """Serve the repositories of a folder on all addresses of this machine."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.answer(self, b"")

        def do_POST(self) -> None:
            served.answer(self, self.rfile.read(int(self.headers.get("Content-Length", "0"))))

        def log_message(self, *_: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("0.0.0.0", 0), Handler) as server:
        served = GitServer(f"http://{visible_as}:{server.server_port}", folder)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield served
        server.shutdown()
    thread.join(5)

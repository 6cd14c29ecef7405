"""Real database servers for tests: PostgreSQL and MariaDB, each with one user and one database."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.clusters.pytest_kubernetes import unavailable
from tests.servers import free_port, until

POSTGRESQL = Path("/usr/lib/postgresql/15/bin")
USER, PASSWORD, DATABASE = "scientist", "a-password-that-nobody-may-see", "artifacts"


@dataclass(frozen=True)
class DatabaseServer:
    """A server that runs.

    Attributes:
        port: On the loopback.
    """

    port: int


@contextlib.contextmanager
def folder_for_others() -> Iterator[Path]:
    """A folder for a server that gives up root's rights.

    Not among pytest's own: each pytest that starts closes those to other users than its own.
    """
    with tempfile.TemporaryDirectory(prefix="mlflow-exec-test-") as made:
        folder = Path(made)
        folder.chmod(0o755)
        yield folder


@contextlib.contextmanager
def postgresql() -> Iterator[DatabaseServer]:
    """A PostgreSQL that keeps its files in a folder of its own."""
    if not (POSTGRESQL / "postgres").exists():
        unavailable("PostgreSQL 15 of Debian is not installed")
    with folder_for_others() as folder, _postgresql(folder) as server:
        yield server


@contextlib.contextmanager
def _postgresql(folder: Path) -> Iterator[DatabaseServer]:
    secret, data = folder / "password", folder / "data"
    secret.write_text(PASSWORD)
    hand_over(folder, "postgres")
    init = [POSTGRESQL / "initdb", "-D", data, "-U", USER, f"--pwfile={secret}",
            "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8", "--locale=C"]  # fmt: skip
    subprocess.run([*_as("postgres"), *map(str, init)], check=True, capture_output=True)
    port = free_port()
    serve = [POSTGRESQL / "postgres", "-D", data, "-p", port, "-k", folder,
             "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]  # fmt: skip
    with running([*_as("postgres"), *map(str, serve)], folder / "log", port, signal.SIGINT):
        yield DatabaseServer(port)  # by SIGTERM it would wait for its clients


@contextlib.contextmanager
def mariadb() -> Iterator[DatabaseServer]:
    """A MariaDB that keeps its files in a folder of its own."""
    if shutil.which("mariadbd") is None:
        unavailable("MariaDB is not installed")
    with folder_for_others() as folder, _mariadb(folder) as server:
        yield server


@contextlib.contextmanager
def _mariadb(folder: Path) -> Iterator[DatabaseServer]:
    data, first = folder / "data", folder / "first.sql"
    first.write_text(
        f"CREATE DATABASE {DATABASE};\n"
        f"CREATE USER {USER}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
        f"GRANT ALL ON {DATABASE}.* TO {USER}@'127.0.0.1';\n"
    )
    hand_over(folder, "nobody")
    make = ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--skip-test-db"]
    subprocess.run([*_as("nobody"), *make], check=True, capture_output=True)
    port = free_port()
    serve = ["mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={folder}/socket",
             f"--port={port}", "--bind-address=127.0.0.1", f"--init-file={first}",
             f"--pid-file={folder}/pid", "--skip-name-resolve",
             "--innodb-flush-log-at-trx-commit=0"]  # fmt: skip
    with running([*_as("nobody"), *serve], folder / "log", port):
        yield DatabaseServer(port)


def _as(user: str) -> list[str]:
    """Return what a command begins with to run as somebody else: they do not run as root."""
    if os.getuid() != 0:
        return []
    return ["setpriv", f"--reuid={user}", "--clear-groups", "--inh-caps=-all", "--"]


def hand_over(folder: Path, user: str) -> None:
    """Give a folder to who the server in it runs as."""
    if os.getuid() == 0:
        for path in [folder, *folder.rglob("*")]:
            shutil.chown(path, user)


@contextlib.contextmanager
def running(
    command: Sequence[str], log: Path, port: int, end_by: signal.Signals = signal.SIGTERM
) -> Iterator[None]:
    """A server that listens on a port of the loopback, until the end of the block."""
    with log.open("wb") as out:
        # In a session of its own: Samba ends its whole process group.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        until(lambda: _listens(port) or process.poll() is not None, f"it listens; see {log}", 120)
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        yield
    finally:
        process.send_signal(end_by)
        process.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

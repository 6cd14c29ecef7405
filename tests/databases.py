"""Real database servers for tests: PostgreSQL and MariaDB, each with one user and one database."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from mlflow_exec.clients.ports import free_port
from mlflow_exec.testing.collecting import until
from tests.clusters.pytest_kubernetes import unavailable

POSTGRESQL = Path("/usr/lib/postgresql/15/bin")
USER, PASSWORD, DATABASE = "scientist", "a-password-that-nobody-may-see", "artifacts"

Disk = Callable[[Path], AbstractContextManager[object]]
"""What a folder is a disk of its own by, until the end of the block."""


@dataclass(frozen=True)
class DatabaseServer:
    """A server that runs.

    Attributes:
        port: On the loopback.
        data: The folder of its tables; what it writes ahead of them is elsewhere, if it can be.
        again: Runs it once more where it has ended by itself, until the end of the block.
    """

    port: int
    data: Path
    again: Callable[[], AbstractContextManager[None]]


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
def postgresql(disk: Disk = contextlib.nullcontext) -> Iterator[DatabaseServer]:
    """A PostgreSQL that keeps its files in a folder of its own, its tables on a disk."""
    if not (POSTGRESQL / "postgres").exists():
        unavailable("PostgreSQL 15 of Debian is not installed")
    with folder_for_others() as folder, disk(folder / "data"), _postgresql(folder) as server:
        yield server


@contextlib.contextmanager
def _postgresql(folder: Path) -> Iterator[DatabaseServer]:
    secret, data = folder / "password", folder / "data"
    secret.write_text(PASSWORD)
    hand_over(folder, "postgres")
    init = [POSTGRESQL / "initdb", "-D", data, "-U", USER, f"--pwfile={secret}",
            f"--waldir={folder}/wal", "--auth=scram-sha-256", "--no-sync", "--encoding=UTF8",
            "--locale=C"]  # fmt: skip
    subprocess.run([*_as("postgres"), *map(str, init)], check=True, capture_output=True)
    port = free_port()
    serve = [POSTGRESQL / "postgres", "-D", data, "-p", port, "-k", folder,
             "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]  # fmt: skip
    command = [*_as("postgres"), *map(str, serve)]
    ready = [POSTGRESQL / "pg_isready", "-h", "127.0.0.1", "-p", port]
    # By SIGTERM it would wait for its clients.
    start = functools.partial(
        running, command, folder / "log", port, signal.SIGINT, [*map(str, ready)]
    )
    with start():
        yield DatabaseServer(port, data, start)


@contextlib.contextmanager
def mariadb(disk: Disk = contextlib.nullcontext) -> Iterator[DatabaseServer]:
    """A MariaDB that keeps its files in a folder of its own, its tables on a disk."""
    if shutil.which("mariadbd") is None:
        unavailable("MariaDB is not installed")
    with folder_for_others() as folder, disk(folder / "data"), _mariadb(folder) as server:
        yield server


@contextlib.contextmanager
def _mariadb(folder: Path) -> Iterator[DatabaseServer]:
    data, first = folder / "data", folder / "first.sql"
    first.write_text(
        f"CREATE DATABASE IF NOT EXISTS {DATABASE};\n"
        f"CREATE USER IF NOT EXISTS {USER}@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';\n"
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
    start = functools.partial(running, [*_as("nobody"), *serve], folder / "log", port)
    with start():
        yield DatabaseServer(port, data, start)


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
    command: Sequence[str],
    log: Path,
    port: int,
    end_by: signal.Signals = signal.SIGTERM,
    ready: Sequence[str] = (),
) -> Iterator[None]:
    """A server that listens on a port of the loopback, until the end of the block.

    Args:
        command: Runs it.
        log: Where its output goes.
        port: Where it listens.
        end_by: What it ends by.
        ready: A command that succeeds when it answers, where that is later than it listens.
    """
    with log.open("wb") as out:
        # In a session of its own: Samba ends its whole process group.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        until(
            lambda: process.poll() is not None or (_listens(port) and _succeeds(ready)),
            f"it listens; see {log}",
            120,
        )
        assert process.poll() is None, log.read_text(errors="replace")[-2000:]
        yield
    finally:
        process.send_signal(end_by)
        process.wait(60)


def _succeeds(command: Sequence[str]) -> bool:
    return not command or subprocess.run(command, capture_output=True).returncode == 0


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

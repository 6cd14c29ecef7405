"""Uploads beside MLflow's own repositories and beside the systems' own clients, on one server.

1,000 files of 10 KB by `log_artifacts`, with and without 20 ms of latency for each request; one
file of 1 GiB, up and down. OpenSSH and gofakes3 are started here. MLflow's SFTP needs pysftp, which
needs an old paramiko: pip install pysftp 'paramiko<4'.

    python -m benchmarks.artifacts
    python -m benchmarks.artifacts --files 100 --rounds 1 --size-mib 64
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

from mlflow.store.artifact.artifact_repo import ArtifactRepository
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from benchmarks.delay import delayed
from benchmarks.figures import Figure, show_figures
from tests.file_servers import SshServer, ssh_server
from tests.object_servers import BUCKET, ObjectServer, gofakes3

FILE_BYTES = 10_000
LATENCY_S = 0.02
OURS, THEIRS = "ours", "theirs"


@dataclass(frozen=True)
class Server:
    """A server with the URIs by which MLflow's repository and ours reach it.

    Attributes:
        name: For people.
        port: On the loopback.
        uris: Returns them for a port and a folder.
        environment: What both are signed in with.
        copy: Sends a file by the system's own client, and fetches it into another.
    """

    name: str
    port: int
    uris: Callable[[int, str], Mapping[str, str]]
    environment: Callable[[int], Mapping[str, str]]
    copy: Callable[[int, str, Path, Path], tuple[float, float]]


def main() -> int:
    """Print the tables; returns 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size-mib", type=int, default=1024)
    parsed = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    good = True
    with tempfile.TemporaryDirectory() as made, _servers(Path(made)) as servers:
        given = Path(made) / "given"
        given.mkdir()
        for number in range(parsed.files):
            (given / f"{number:05}").write_bytes(os.urandom(FILE_BYTES))
        large = Path(made) / "large"
        with large.open("wb") as file:
            for _ in range(parsed.size_mib):
                file.write(os.urandom(1024 * 1024))
        for server in servers:
            rows: dict[str, Figure] = {}
            for latency_s, least in ((LATENCY_S, 5.0), (0.0, 1.5)):
                rows |= _many(server, given, latency_s, parsed.rounds, least)
            rows |= _one(server, large, parsed.rounds, Path(made) / "back")
            title = f"{server.name}: {parsed.files} files of 10 KB, one of {parsed.size_mib} MiB"
            good = show_figures(title, rows) and good
    return 0 if good else 1


def _many(
    server: Server, given: Path, latency_s: float, rounds: int, least: float
) -> dict[str, Figure]:
    took_s: dict[str, list[float]] = {OURS: [], THEIRS: []}
    with delayed(server.port, latency_s) as port, patch.dict(os.environ, server.environment(port)):
        for who in (OURS, THEIRS) * rounds:
            repository = _repository(server, port, who)
            begun_s = time.monotonic()
            repository.log_artifacts(str(given))
            took_s[who].append(time.monotonic() - begun_s)
            assert len(repository.list_artifacts()) == len(list(given.iterdir()))
            repository.delete_artifacts()
    ours, theirs = (statistics.median(took_s[who]) for who in (OURS, THEIRS))
    what = f"upload, {latency_s * 1000:g} ms of latency"
    return {
        f"{what}: MLflow's, s": Figure(theirs),
        f"{what}: ours, s": Figure(ours),
        f"{what}: times as fast": Figure(theirs / ours, at_least=least),
    }


def _one(server: Server, large: Path, rounds: int, back: Path) -> dict[str, Figure]:
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    with patch.dict(os.environ, server.environment(server.port)):
        for _ in range(rounds):
            repository = _repository(server, server.port, OURS)
            begun_s = time.monotonic()
            repository.log_artifact(str(large))
            sent_s = time.monotonic() - begun_s
            back.mkdir()
            begun_s = time.monotonic()
            fetched = repository.download_artifacts("large", str(back))
            ours.append((sent_s, time.monotonic() - begun_s))
            assert Path(fetched).stat().st_size == large.stat().st_size
            Path(fetched).unlink()
            back.rmdir()
            repository.delete_artifacts()
            theirs.append(server.copy(server.port, uuid.uuid4().hex, large, back))
            back.unlink()
    rows = {}
    for index, way in enumerate(("up", "down")):
        our_s, their_s = (statistics.median(t[index] for t in took) for took in (ours, theirs))
        rows[f"one large file {way}: the system's own client, s"] = Figure(their_s)
        rows[f"one large file {way}: ours, s"] = Figure(our_s)
        rows[f"one large file {way}: times as fast"] = Figure(their_s / our_s, at_least=0.9)
    return rows


def _repository(server: Server, port: int, who: str) -> ArtifactRepository:
    return get_artifact_repository(server.uris(port, uuid.uuid4().hex)[who])


@contextlib.contextmanager
def _servers(folder: Path) -> Iterator[list[Server]]:
    for name in ("ssh", "s3"):
        (folder / name).mkdir()
    with ssh_server(folder / "ssh") as ssh, gofakes3(folder / "s3") as s3:
        yield [_sftp(ssh, folder / "home"), _s3(s3)]


# -- SFTP -------------------------------------------------------------------------------------


def _sftp(ssh: SshServer, home: Path) -> Server:
    (home / ".ssh").mkdir(parents=True)
    key = home / "key"
    key.touch(0o600)
    key.write_text(ssh.private_key)
    (home / ".ssh" / "config").write_text(f"Host 127.0.0.1\n  IdentityFile {key}\n")

    def uris(port: int, name: str) -> Mapping[str, str]:
        rest = f"{ssh.user}@127.0.0.1:{port}{ssh.folder}/{name}"
        return {OURS: f"fsspec+sftp://{rest}", THEIRS: f"sftp://{rest}"}

    def environment(port: int) -> Mapping[str, str]:
        known = "".join(f"{host} {ssh.host_key}" for host in ("127.0.0.1", f"[127.0.0.1]:{port}"))
        (home / ".ssh" / "known_hosts").write_text(known)
        return {
            "HOME": str(home),
            "MLFLOW_EXEC_SSH_HOST": "127.0.0.1",
            "MLFLOW_EXEC_SSH_PRIVATE_KEY": ssh.private_key,
            "MLFLOW_EXEC_SSH_HOST_KEY": ssh.host_key,
        }

    def copy(port: int, name: str, large: Path, back: Path) -> tuple[float, float]:
        return asyncio.run(_copy_by_asyncssh(ssh, port, name, large, back))

    return Server("SFTP (OpenSSH)", ssh.port, uris, environment, copy)


async def _copy_by_asyncssh(
    ssh: SshServer, port: int, name: str, large: Path, back: Path
) -> tuple[float, float]:
    import asyncssh

    there = f"{ssh.folder}/{name}"
    keys = [asyncssh.import_private_key(ssh.private_key)]
    async with asyncssh.connect(
        "127.0.0.1", port, username=ssh.user, client_keys=keys, known_hosts=None
    ) as connection, connection.start_sftp_client() as client:
        begun_s = time.monotonic()
        await client.put(str(large), there)
        sent_s = time.monotonic() - begun_s
        begun_s = time.monotonic()
        await client.get(there, str(back))
        took_s = time.monotonic() - begun_s
        await client.remove(there)
    return sent_s, took_s


# -- S3 ---------------------------------------------------------------------------------------


def _s3(server: ObjectServer) -> Server:
    def uris(_: int, name: str) -> Mapping[str, str]:
        rest = f"{BUCKET}/{name}"
        return {OURS: f"fsspec+s3://{rest}", THEIRS: f"s3://{rest}"}

    def environment(port: int) -> Mapping[str, str]:
        return {
            "MLFLOW_S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "a-secret-key",
            "AWS_DEFAULT_REGION": "us-east-1",
        }

    def copy(port: int, name: str, large: Path, back: Path) -> tuple[float, float]:
        import boto3

        client = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}")
        begun_s = time.monotonic()
        client.upload_file(str(large), BUCKET, name)
        sent_s = time.monotonic() - begun_s
        begun_s = time.monotonic()
        client.download_file(BUCKET, name, str(back))
        took_s = time.monotonic() - begun_s
        client.delete_object(Bucket=BUCKET, Key=name)
        return sent_s, took_s

    return Server("S3 (gofakes3)", server.port, uris, environment, copy)


if __name__ == "__main__":
    sys.exit(main())

"""Uploads beside MLflow's own repositories and beside the systems' own clients, on one server.

1,000 files of 10 KB by `log_artifacts`, with and without 20 ms of latency for each request; one
file of 1 GiB, up and down. OpenSSH, gofakes3 and Hadoop's HDFS are started here.

MLflow's SFTP needs pysftp, which needs an old paramiko: pip install pysftp 'paramiko<4'. Its HDFS
needs libhdfs, which is built here for which cargo, a C compiler and Java's headers are needed.

The latency is that of a relay before every port of the server that a client asks. The NameNode
tells clients where the DataNode is: at an address of the loopback where there are only relays, on
the daemon's own ports. Daemons ask each other without latency. Neither side has Hadoop's wait of
400 ms before a file is closed whose block is not known yet: both have the tests' configuration.

    python -m benchmarks.artifacts
    python -m benchmarks.artifacts --only hdfs --files 100 --rounds 1 --size-mib 64
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from benchmarks import libhdfs
from benchmarks.delay import delayed
from benchmarks.figures import Figure, show_figures
from tests.clusters.yarn import configuration
from tests.clusters.yarn.hdfs import HdfsCluster
from tests.file_servers import SshServer, ssh_server
from tests.object_servers import BUCKET, gofakes3

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

FILE_BYTES = 10_000
LATENCY_S = 0.02
_PIECE_BYTES = 1024 * 1024  # as MLflow's own repository copies
OURS, THEIRS = "ours", "theirs"
Copy = Callable[[str, Path, Path], tuple[float, float]]


@dataclass(frozen=True)
class Reached:
    """A server as clients reach it, MLflow's repository and ours by URIs.

    Attributes:
        uris: Returns them for a folder.
        environment: What both are signed in with.
        copy: Sends a file by the system's own client, and fetches it into another.
    """

    uris: Callable[[str], Mapping[str, str]]
    environment: Mapping[str, str]
    copy: Copy


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        name: For people.
        reached: Yields it with a latency, in seconds.
    """

    name: str
    reached: Callable[[float], AbstractContextManager[Reached]]


def main() -> int:
    """Print the tables; returns 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted(_SERVERS), help="all three by default")
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size-mib", type=int, default=1024)
    parsed = parser.parse_args()
    warnings.simplefilter("ignore")
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    good = True
    with tempfile.TemporaryDirectory() as made:
        given = Path(made) / "given"
        given.mkdir()
        for number in range(parsed.files):
            (given / f"{number:05}").write_bytes(os.urandom(FILE_BYTES))
        large = Path(made) / "large"
        with large.open("wb") as file:
            for _ in range(parsed.size_mib):
                file.write(os.urandom(1024 * 1024))
        for name in [parsed.only] if parsed.only else _SERVERS:
            (folder := Path(made) / name).mkdir()
            with _SERVERS[name](folder) as server:
                rows = _measure(server, given, large, parsed.rounds)
            title = f"{server.name}: {parsed.files} files of 10 KB, one of {parsed.size_mib} MiB"
            good = show_figures(title, rows) and good
    return 0 if good else 1


def _measure(server: Server, given: Path, large: Path, rounds: int) -> dict[str, Figure]:
    rows: dict[str, Figure] = {}
    for latency_s, least in ((LATENCY_S, 5.0), (0.0, 1.5)):
        with server.reached(latency_s) as reached, patch.dict(os.environ, reached.environment):
            what = f"upload, {latency_s * 1000:g} ms of latency"
            rows |= _many(reached, given, what, rounds, least)
            if not latency_s:
                rows |= _one(reached, large, rounds, large.with_name("back"))
    return rows


def _many(reached: Reached, given: Path, what: str, rounds: int, least: float) -> dict[str, Figure]:
    took_s: dict[str, list[float]] = {OURS: [], THEIRS: []}
    for turn in range(rounds + 1):  # the first is not counted: a Java starts, a client is made
        for who in (OURS, THEIRS):
            uris = reached.uris(uuid.uuid4().hex)
            begun_s = time.monotonic()
            repository = get_artifact_repository(uris[who])  # where MLflow's for SFTP connects
            if turn:
                repository.log_artifacts(str(given))
                took_s[who].append(time.monotonic() - begun_s)
            else:
                repository.log_artifact(str(next(given.iterdir())))
            sent = get_artifact_repository(uris[OURS])
            assert len(sent.list_artifacts()) == (len(list(given.iterdir())) if turn else 1)
            sent.delete_artifacts()
    ours, theirs = (statistics.median(took_s[who]) for who in (OURS, THEIRS))
    return {
        f"{what}: MLflow's, s": Figure(theirs),
        f"{what}: ours, s": Figure(ours),
        f"{what}: times as fast": Figure(theirs / ours, at_least=least),
    }


def _one(reached: Reached, large: Path, rounds: int, back: Path) -> dict[str, Figure]:
    ways: dict[str, Copy] = {OURS: partial(_copy_by_ours, reached), THEIRS: reached.copy}
    took: dict[str, list[tuple[float, float]]] = {OURS: [], THEIRS: []}
    # Who is first makes room for the files in memory: they take turns, the first is not counted.
    for turn in range(rounds + 1):
        for who in (OURS, THEIRS) if turn % 2 else (THEIRS, OURS):
            times = ways[who](uuid.uuid4().hex, large, back)
            assert back.stat().st_size == large.stat().st_size
            back.unlink()
            if turn:
                took[who].append(times)
    rows = {}
    for index, way in enumerate(("up", "down")):
        our_s, their_s = (statistics.median(t[index] for t in took[who]) for who in (OURS, THEIRS))
        rows[f"one large file {way}: the system's own client, s"] = Figure(their_s)
        rows[f"one large file {way}: ours, s"] = Figure(our_s)
        rows[f"one large file {way}: times as fast"] = Figure(their_s / our_s, at_least=0.9)
    return rows


def _copy_by_ours(reached: Reached, name: str, large: Path, back: Path) -> tuple[float, float]:
    repository = get_artifact_repository(reached.uris(name)[OURS])
    begun_s = time.monotonic()
    repository.log_artifact(str(large))
    sent_s = time.monotonic() - begun_s
    folder = back.with_name(name)
    folder.mkdir()
    begun_s = time.monotonic()
    fetched = repository.download_artifacts(large.name, str(folder))
    took_s = time.monotonic() - begun_s
    Path(fetched).rename(back)
    folder.rmdir()
    repository.delete_artifacts()
    return sent_s, took_s


# -- SFTP -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _sftp(folder: Path) -> Iterator[Server]:
    home = folder / "home"
    (home / ".ssh").mkdir(parents=True)
    key = home / "key"
    key.touch(0o600)
    with ssh_server(folder) as ssh:
        key.write_text(ssh.private_key)
        (home / ".ssh" / "config").write_text(f"Host 127.0.0.1\n  IdentityFile {key}\n")

        @contextlib.contextmanager
        def reached(latency_s: float) -> Iterator[Reached]:
            with delayed(ssh.port, latency_s) as port:
                yield _reached_sftp(ssh, home, port)

        yield Server("SFTP (OpenSSH)", reached)


def _reached_sftp(ssh: SshServer, home: Path, port: int) -> Reached:
    known = "".join(f"{host} {ssh.host_key}" for host in ("127.0.0.1", f"[127.0.0.1]:{port}"))
    (home / ".ssh" / "known_hosts").write_text(known)

    def uris(name: str) -> Mapping[str, str]:
        rest = f"{ssh.user}@127.0.0.1:{port}{ssh.folder}/{name}"
        return {OURS: f"fsspec+sftp://{rest}", THEIRS: f"sftp://{rest}"}

    environment = {
        "HOME": str(home),
        "MLFLOW_EXEC_SSH_HOST": "127.0.0.1",
        "MLFLOW_EXEC_SSH_PRIVATE_KEY": ssh.private_key,
        "MLFLOW_EXEC_SSH_HOST_KEY": ssh.host_key,
    }

    def copy(name: str, large: Path, back: Path) -> tuple[float, float]:
        return asyncio.run(_copy_by_asyncssh(ssh, port, name, large, back))

    return Reached(uris, environment, copy)


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


@contextlib.contextmanager
def _s3(folder: Path) -> Iterator[Server]:
    with gofakes3(folder) as server:

        @contextlib.contextmanager
        def reached(latency_s: float) -> Iterator[Reached]:
            with delayed(server.port, latency_s) as port:
                yield _reached_s3(port)

        yield Server("S3 (gofakes3)", reached)


def _reached_s3(port: int) -> Reached:
    def uris(name: str) -> Mapping[str, str]:
        rest = f"{BUCKET}/{name}"
        return {OURS: f"fsspec+s3://{rest}", THEIRS: f"s3://{rest}"}

    url = f"http://127.0.0.1:{port}"
    environment = {
        "MLFLOW_S3_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "a-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    def copy(name: str, large: Path, back: Path) -> tuple[float, float]:
        import boto3

        client = boto3.client("s3", endpoint_url=url)
        begun_s = time.monotonic()
        client.upload_file(str(large), BUCKET, name)
        sent_s = time.monotonic() - begun_s
        begun_s = time.monotonic()
        client.download_file(BUCKET, name, str(back))
        took_s = time.monotonic() - begun_s
        client.delete_object(Bucket=BUCKET, Key=name)
        return sent_s, took_s

    return Reached(uris, environment, copy)


# -- HDFS -------------------------------------------------------------------------------------


@contextlib.contextmanager
def _hdfs(_: Path) -> Iterator[Server]:
    # The first Java of a process is its only one.
    with patch.dict(os.environ, libhdfs.variables()):
        yield Server("HDFS (ours by WebHDFS, MLflow's by libhdfs)", _reached_hdfs)


@contextlib.contextmanager
def _reached_hdfs(latency_s: float) -> Iterator[Reached]:
    host = "127.0.0.2" if latency_s else "127.0.0.1"
    cluster = HdfsCluster(properties={"hdfs-site": {"dfs.datanode.hostname": host}})
    with contextlib.ExitStack() as stack:
        cluster.start()
        stack.callback(cluster.stop)
        ports = cluster.ports
        for name in ("namenode", "namenode-web", "datanode", "datanode-web"):
            stack.enter_context(delayed(ports[name], latency_s, at=(host, ports[name])))
        user = cluster.superuser
        site = configuration.read(cluster.conf_dir / "hdfs-site.xml")
        of_clients = ("dfs.replication", "dfs.client.")
        conf = {key: value for key, value in site.items() if key.startswith(of_clients)}
        conf["dfs.client.use.datanode.hostname"] = "true"

        def uris(name: str) -> Mapping[str, str]:
            return {
                OURS: f"webhdfs://{user}@{host}:{ports['namenode-web']}/{name}",
                THEIRS: f"hdfs://{host}:{ports['namenode']}/{name}",
            }

        def copy(name: str, large: Path, back: Path) -> tuple[float, float]:
            from pyarrow.fs import HadoopFileSystem

            client = HadoopFileSystem(
                f"hdfs://{host}", ports["namenode"], user=user, extra_conf=conf
            )
            return _copy_by_pyarrow(client, f"/{name}", large, back)

        environment = {
            "MLFLOW_KERBEROS_USER": user,
            "MLFLOW_PYARROW_EXTRA_CONF": ",".join(f"{key}={conf[key]}" for key in conf),
        }
        yield Reached(uris, environment, copy)


def _copy_by_pyarrow(
    client: FileSystem, there: str, large: Path, back: Path
) -> tuple[float, float]:
    begun_s = time.monotonic()
    with large.open("rb") as source, client.open_output_stream(there) as kept:
        shutil.copyfileobj(source, kept, _PIECE_BYTES)
    sent_s = time.monotonic() - begun_s
    begun_s = time.monotonic()
    with client.open_input_stream(there) as stream, back.open("wb") as target:
        shutil.copyfileobj(stream, target, _PIECE_BYTES)
    took_s = time.monotonic() - begun_s
    client.delete_file(there)
    return sent_s, took_s


_SERVERS = {"sftp": _sftp, "s3": _s3, "hdfs": _hdfs}

if __name__ == "__main__":
    sys.exit(main())

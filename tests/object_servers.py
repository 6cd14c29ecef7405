"""Servers of objects for tests: gofakes3 (S3), fake-gcs-server (Google), Azurite (Azure's blobs).

Each is built or installed once per version, in the cache of the tests.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

from mlflow_exec.clients.ports import free_port
from tests.clusters.cache import build_once, cache_folder
from tests.clusters.pytest_kubernetes import unavailable
from tests.databases import running

GOFAKES3 = "github.com/johannesboyne/gofakes3/cmd/gofakes3@v1.2.0"
FAKE_GCS = "github.com/fsouza/fake-gcs-server@v1.56.1"
AZURITE = "azurite@3.37.0"
BUCKET = "artifacts"
# https://learn.microsoft.com/azure/storage/common/storage-use-azurite, known to everybody.
ACCOUNT = "devstoreaccount1"
ACCOUNT_KEY = (
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
)


@dataclass(frozen=True)
class ObjectServer:
    """A server with one bucket, `BUCKET`.

    Attributes:
        port: On the loopback.
    """

    port: int

    @property
    def url(self) -> str:
        """As clients reach it."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def connection_string(self) -> str:
        """As Azure's SDK reads it."""
        return (
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={ACCOUNT_KEY};"
            f"BlobEndpoint={self.url}/{ACCOUNT};"
        )


@contextlib.contextmanager
def gofakes3(folder: Path) -> Iterator[ObjectServer]:
    """An S3 in memory; any credential is right."""
    built = _built_by_go(GOFAKES3)
    port = free_port()
    serve = [str(built), "-backend", "memory", "-initialbucket", BUCKET, "-quiet"]
    with running([*serve, "-host", f"127.0.0.1:{port}"], folder / "log", port):
        yield ObjectServer(port)


@contextlib.contextmanager
def fake_gcs(folder: Path) -> Iterator[ObjectServer]:
    """Google's buckets in memory; nobody is asked who he is."""
    built = _built_by_go(FAKE_GCS)
    port = free_port()
    command = [
        str(built), "-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port",
        str(port), "-log-level", "error",
    ]  # fmt: skip
    with running(command, folder / "log", port):
        server = ObjectServer(port)
        requests.post(f"{server.url}/storage/v1/b", json={"name": BUCKET}).raise_for_status()
        yield server


def _built_by_go(package: str) -> Path:
    """Return the program of a package of Go's."""
    name, version = package.rpartition("/")[2].split("@")
    if shutil.which("go") is None:
        unavailable(f"{name} is built by Go: https://go.dev/doc/install")

    def build(part: Path) -> None:
        environment = {**os.environ, "GOBIN": str(part)}
        subprocess.run(["go", "install", package], env=environment, check=True)

    return build_once(cache_folder() / f"{name}@{version}", build) / name


@contextlib.contextmanager
def azurite(folder: Path) -> Iterator[ObjectServer]:
    """Azure's blobs; its account and key are those that everybody knows."""
    if shutil.which("npm") is None:
        unavailable("Azurite is installed by npm: https://nodejs.org")

    def build(part: Path) -> None:
        part.mkdir()
        subprocess.run(
            ["npm", "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(part),
             AZURITE],
            check=True,
        )  # fmt: skip

    built = build_once(cache_folder() / AZURITE, build)
    port = free_port()
    command = [
        "node", str(built / "node_modules/azurite/dist/src/blob/main.js"), "--silent", "--loose",
        "--skipApiVersionCheck", "--disableTelemetry", "--blobPort", str(port), "--location",
        str(folder / "data"),
    ]  # fmt: skip
    with running(command, folder / "log", port):
        server = ObjectServer(port)
        _make_container(server)
        yield server


def _make_container(server: ObjectServer) -> None:
    from azure.storage.blob import BlobServiceClient

    with BlobServiceClient.from_connection_string(server.connection_string) as client:
        client.create_container(BUCKET)

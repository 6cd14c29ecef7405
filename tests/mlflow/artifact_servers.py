"""Real servers of artifacts for a test: S3 with a bucket, and FTP."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import patch

from mlflow_exec.clients.ports import free_port
from mlflow_exec.testing.collecting import until
from tests.clusters.pytest_kubernetes import unavailable


@dataclass(frozen=True)
class S3Server:
    """Where artifacts go, and the process that takes them, to stop or to kill."""

    bucket: str
    process: subprocess.Popen[bytes]


@contextmanager
def s3_server(host: str) -> Iterator[S3Server]:
    """Start a server that pods reach under this host; its credentials are in our environment."""
    if not (find_spec("boto3") and find_spec("moto")):
        unavailable("an S3 server for the test needs: pip install 'moto[s3]' boto3")
    boto3 = import_module("boto3")
    port = free_port("0.0.0.0")
    argv = [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "0.0.0.0", "-p", str(port)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    endpoint = f"http://{host}:{port}"
    credentials = {
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "s3cret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }

    def answers() -> bool:
        with suppress(OSError):
            urllib.request.urlopen(f"{endpoint}/moto-api/", timeout=5).close()
            return True
        return False

    try:
        until(answers, "the S3 server answers")
        with patch.dict(os.environ, credentials):
            boto3.client("s3", endpoint_url=endpoint).create_bucket(Bucket="artifacts")
            yield S3Server("s3://artifacts/root", process)
    finally:
        process.kill()
        process.wait()


@contextmanager
def ftp_server(host: str, folder: Path) -> Iterator[str]:
    """Start a server that lets everybody write; yields a URI in it that pods reach."""
    if not find_spec("pyftpdlib"):
        unavailable("an FTP server for the test needs: pip install pyftpdlib")
    (folder / "served").mkdir(parents=True)
    log = folder / "log"
    argv = [sys.executable, "-W", "ignore", "-m", "pyftpdlib", "--write", "--interface", "0.0.0.0"]
    argv += ["--port", "0", "--directory", str(folder / "served")]
    with log.open("wb") as file:
        process = subprocess.Popen(argv, stdout=file, stderr=file)

    def port() -> str:
        assert process.poll() is None, log.read_text()
        found = re.search(r"starting FTP server on [\d.]+:(\d+)", log.read_text())
        return found.group(1) if found else ""

    try:
        yield f"ftp://{host}:{until(port, 'the FTP server says its port')}/root"
    finally:
        process.kill()
        process.wait()

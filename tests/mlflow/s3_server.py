"""A real S3 server for a test, with a bucket for artifacts."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from unittest.mock import patch

from mlflow_exec.testing.collecting import until
from tests.clusters.pytest_kubernetes import unavailable
from tests.servers import free_port


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
    port = free_port()
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

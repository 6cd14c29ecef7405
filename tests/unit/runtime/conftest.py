"""Fixtures of the tests of what runs inside the cluster."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import MlflowServer, mlflow_server
from tests.unit.runtime.job_in_cluster import Cluster


@pytest.fixture(scope="session")
def tracking_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with mlflow_server(tmp_path_factory.mktemp("tracking")) as server:
        yield server


@pytest.fixture
def cluster(tmp_path: Path, tracking_server: MlflowServer) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, tracking_server)
    yield cluster
    cluster.end()
    assert list(cluster.tmp.iterdir()) == [] or cluster.killed, "temporary files are left behind"

"""Two Rays of one machine, each started for a home of its own, serve at once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.deployments import BaseDeploymentClient

from mlflow_exec.clients import ray_embedded
from mlflow_exec.testing.served import steady_load
from mlflow_exec.testing.served_models import save_model
from tests.clusters.pytest_kubernetes import unavailable
from tests.clusters.pytest_ray import RayCluster
from tests.mlflow.ray_deployments import SMALL, asks


@pytest.fixture
def homes(
    ray_cluster: RayCluster, deployments: BaseDeploymentClient, tmp_path: Path
) -> Iterator[tuple[str, str]]:
    """The home of the tests' Ray, and one whose Ray the first deployment starts."""
    if ray_cluster.home is None:
        unavailable("this Ray was not started here")
    here = os.environ["MLFLOW_EXEC_HOME"]
    yield here, str(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_EXEC_HOME", str(tmp_path))
        ray_embedded.stop()


def test_each_serves_its_own_while_one_is_updated(
    deployments: BaseDeploymentClient,
    homes: tuple[str, str],
    models: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    urls = []
    for answer, home in enumerate(homes, 1):
        monkeypatch.setenv("MLFLOW_EXEC_HOME", home)
        model = str(save_model(models, answer))
        urls.append(deployments.create_deployment("iris", model, config=SMALL)["url"])
    with steady_load(asks(urls[0]), 1) as first, steady_load(asks(urls[1]), 1) as second:
        # As long as Serve builds, HAProxy leaves the requests to a proxy in Python.
        monkeypatch.setenv("MLFLOW_EXEC_HOME", homes[0])
        deployments.update_deployment("iris", config={"env.ANY": "other"})
        first.reaches(5)
        second.reaches(5)
    assert (set(first.answers), set(second.answers)) == ({1}, {2})
    deployments.delete_deployment("iris")

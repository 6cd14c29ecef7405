"""What a deployment on a real Ray Serve refuses, and what it cannot bear."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.deployments import BaseDeploymentClient
from mlflow.exceptions import MlflowException

from mlflow_exec.testing.served_models import ROW, save_model
from tests.clusters.pytest_kubernetes import unavailable
from tests.clusters.pytest_ray import RayCluster
from tests.mlflow.ray_deployments import SMALL

TOKEN = "MLFLOW_EXEC_TOKEN"


@pytest.fixture(scope="module")
def guarded(
    deployments: BaseDeploymentClient, one: str, ray_cluster: RayCluster
) -> Iterator[str]:
    """A deployment whose token the nodes have in their environment; returns the token."""
    if ray_cluster.node_secret is None:
        unavailable("the nodes of this Ray have no secret that the tests know")
    token = json.dumps({"node_env": "NODE_SECRET"})
    deployments.create_deployment("guarded", one, config={**SMALL, "token": token})
    deployments.create_endpoint("guards", {"weights": {"guarded": 1}})
    yield ray_cluster.node_secret
    deployments.delete_endpoint("guards")
    deployments.delete_deployment("guarded")


@pytest.mark.parametrize("asked", [{"deployment_name": "guarded"}, {"endpoint": "guards"}])
def test_a_token_is_missing_wrong_and_right(
    deployments: BaseDeploymentClient,
    guarded: str,
    asked: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for given in (None, "wrong"):
        if given:
            monkeypatch.setenv(TOKEN, given)
        with pytest.raises(MlflowException, match="it answers 401: This server asks for a token"):
            deployments.predict(inputs=ROW, **asked)
    monkeypatch.setenv(TOKEN, guarded)
    assert deployments.predict(inputs=ROW, **asked)["predictions"] == [1]


def test_the_token_is_nowhere_to_be_seen(
    deployments: BaseDeploymentClient, guarded: str
) -> None:
    target = deployments._place().target
    shown = json.dumps([target.get("guarded").native, target.get("guards").native], default=str)
    assert "NODE_SECRET" in shown
    assert guarded not in shown


def test_a_model_bigger_than_memory_says_so_and_the_one_before_serves_on(
    deployments: BaseDeploymentClient, one: str, models: Path, ray_cluster: RayCluster
) -> None:
    if ray_cluster.memory_limit_bytes is None:
        unavailable("this Ray has no limit on memory that a test may run into")
    deployments.create_deployment("large", one, config=SMALL)
    piece = "b'x' * 2**26"
    loading = f"self.weights = [{piece} for _ in range({ray_cluster.memory_limit_bytes >> 26})]"
    greedy = str(save_model(models, 2, loading=loading))
    with pytest.raises(MlflowException, match=r"(?s)out_of_memory.*Revision 1 serves again"):
        deployments.update_deployment("large", greedy)
    assert deployments.predict("large", ROW)["predictions"] == [1]
    deployments.delete_deployment("large")

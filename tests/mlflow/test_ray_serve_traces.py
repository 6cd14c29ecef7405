"""A deployment's traces reach a collector, by its settings alone."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow.deployments import BaseDeploymentClient, get_deploy_client

from mlflow_exec.testing.served_models import BODY, JSON, save_model
from tests.clusters.pytest_ray import RayCluster
from tests.servers import MlflowServer
from tests.unit.scoring.collector import collecting

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def deployments(
    ray_cluster: RayCluster, ray_tracking: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BaseDeploymentClient]:
    if ray_cluster.home is not None:
        monkeypatch.setenv("MLFLOW_EXEC_HOME", str(ray_cluster.home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ray_tracking.url)
    mlflow.set_tracking_uri(ray_tracking.url)
    yield get_deploy_client("ray-serve")
    mlflow.set_tracking_uri(None)


def test_a_replica_that_goes_has_sent_its_traces(
    deployments: BaseDeploymentClient, tmp_path: Path
) -> None:
    with collecting() as collector:
        config = {
            "environment": "local", "resources.cpu": "0.1",
            "env.OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "env.OTEL_BSP_SCHEDULE_DELAY": "600000",  # ms, so only the end sends them
        }  # fmt: skip
        model = str(save_model(tmp_path, 5))
        try:
            made = deployments.create_deployment("traced", model, config=config)
            headers = {**JSON, "traceparent": f"00-{TRACE}-{PARENT}-01"}
            request = urllib.request.Request(f"{made['url']}/invocations", BODY, headers)
            with urllib.request.urlopen(request, timeout=60) as answer:
                assert json.load(answer) == {"predictions": [5]}
            assert collector.spans == []
        finally:
            deployments.delete_deployment("traced")
    [span] = [span for span in collector.spans if span.sent.trace_id.hex() == TRACE]
    assert span.attributes["http.route"] == "/traced/invocations"
    assert span.attributes["mlflow_exec.model.name"] == "traced"
    assert span.resource["service.name"] == "traced"

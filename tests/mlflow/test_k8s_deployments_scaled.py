"""Replicas by load: the real autoscaler of Kubernetes, by what a real metrics-server measures."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
from kubernetes import client

from mlflow_exec.releases import RolloutState
from mlflow_exec.testing.collecting import until
from mlflow_exec.testing.served import steady_load
from tests.clusters.metrics import server
from tests.clusters.pytest_kubernetes import unavailable
from tests.mlflow.k8s_deployments import K8sDeployments

# Much more than the half of a tenth of a processor, at a few requests a second.
BUSY = "sum(number * number for number in range(200_000))"
SCALED: dict[str, Any] = {
    "max_replicas": 2, "target_cpu_percent": 50,
    "resources": {"cpu": 0.1, "memory": "600Mi"},
}  # fmt: skip


@pytest.mark.large
def test_load_brings_a_second_replica_and_loses_no_request(served: K8sDeployments) -> None:
    cluster = served.cluster.processes()
    if shutil.which("go") is None and not server.cached():
        unavailable("Go is missing, to build metrics-server: https://go.dev/doc/install")
    with server.running(cluster), served.cluster.api_client() as api:
        model = served.model(5, predicting=BUSY)
        assert served.deploy("busy", model, **SCALED).state is RolloutState.READY
        scalers, target = client.AutoscalingV2Api(api), served.target()
        with steady_load(served.ask_once("busy"), threads=2) as load:
            until(lambda: target.get("busy").replicas == 2, "the autoscaler wants two", 240)
            until(lambda: target.get("busy").state is RolloutState.READY, "both answer")
            load.reaches(20)
        found = scalers.read_namespaced_horizontal_pod_autoscaler("busy", served.namespace)
        [metric] = found.status.current_metrics
        assert metric.resource.current.average_utilization > 50
        assert len(served.ready_pods("busy")) == 2
        # What the autoscaler has decided stays when something else changes.
        again = served.deploy("busy", model, 2, drain_s=6, **SCALED)
        assert (again.state, again.replicas) == (RolloutState.READY, 2)

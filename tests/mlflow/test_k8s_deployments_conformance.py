"""Deployments on a real Kubernetes keep the contract of targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pytest

from mlflow_exec.testing.deployments import DeploymentConformance
from mlflow_exec.testing.served import Served
from tests.clusters.pytest_kubernetes import KubernetesCluster
from tests.mlflow.k8s_deployments import K8sDeployments, served_by
from tests.servers import MlflowServer


@pytest.fixture(scope="module")
def served(
    kubernetes_cluster: KubernetesCluster,
    k8s_namespace: str,
    k8s_tracking: MlflowServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("conformance")
    made = K8sDeployments(kubernetes_cluster, k8s_namespace, folder)
    with served_by(made, k8s_tracking.url) as found:
        yield found


class TestDeploymentsOnKubernetes(DeploymentConformance):
    broken: ClassVar[Mapping[str, tuple[Mapping[str, Any], Mapping[str, str], str]]] = {
        **DeploymentConformance.broken,
        "more memory than it may take": (
            {"loading": "self.weights = bytes(bytearray(800 * 1024 * 1024))"},
            {"resources.memory": "600Mi"}, "out_of_memory.*more memory than its limit",
        ),
    }  # fmt: skip

"""A deployment's traces reach a collector, by its settings alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_exec.releases import RolloutState
from mlflow_exec.testing.collecting import until
from tests.clusters.kubernetes.pods import pod_patch
from tests.clusters.pytest_kubernetes import KubernetesCluster
from tests.mlflow.k8s_deployments import K8sDeployments
from tests.unit.scoring.collector import collecting


def test_a_pod_that_goes_has_sent_its_traces(
    kubernetes_cluster: KubernetesCluster, k8s_namespace: str, tmp_path: Path
) -> None:
    if kubernetes_cluster.node_ip is None:
        pytest.skip("the pods of this cluster cannot reach a collector of the tests")
    served = K8sDeployments(kubernetes_cluster, k8s_namespace, tmp_path)
    pods = pod_patch("model")["spec"]
    pods["initContainers"] = [{**pods["containers"][0], "name": "prepare"}]
    exporter = "opentelemetry-exporter-otlp-proto-http"
    with collecting(str(kubernetes_cluster.node_ip)) as collector:
        variables = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_BSP_SCHEDULE_DELAY": "600000",  # ms, so only the end sends them
        }
        rollout = served.deploy(
            "traced", served.model(5), image=kubernetes_cluster.image, environment="uv",
            requirements=["mlflow-skinny", "pandas", exporter], env=variables,
            patch={"spec": {"template": {"spec": pods}}},
        )  # fmt: skip
        try:
            assert rollout.state is RolloutState.READY, rollout
            assert served.answer("traced") == 5
            assert collector.spans == []
        finally:
            served.close()
        until(lambda: collector.spans, "the pod has sent its spans")
    [span] = collector.spans
    assert span.attributes["http.route"] == "/invocations"
    assert span.attributes["mlflow_exec.model.version"] == "5"
    assert span.resource["service.name"] == "traced"

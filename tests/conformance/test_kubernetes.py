"""The conformance suite on a real Kubernetes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from kubernetes import client

from mlflow_exec.jobs import JobHandle
from mlflow_exec.schedulers.kubernetes import KubernetesScheduler
from mlflow_exec.settings import KubernetesSettings
from mlflow_exec.testing.schedulers import SchedulerConformance
from tests.clusters.pytest_kubernetes import KubernetesCluster


class TestKubernetes(SchedulerConformance):
    scheduler_class = KubernetesScheduler
    settings_class = KubernetesSettings
    queued: ClassVar = {"node_selector": {"mlflow-exec-test": "no-node-has-this"}}
    starting: ClassVar = {"image": "registry.invalid/there-is/none:1"}
    memory_limit: ClassVar = {"resources": {"memory": "64Mi"}}

    @pytest.fixture
    def settings(self, kubernetes_cluster: KubernetesCluster, namespace: str) -> dict[str, Any]:
        return {
            "kubeconfig": str(kubernetes_cluster.kubeconfig),
            "context": kubernetes_cluster.context,
            "namespace": namespace,
            "image": kubernetes_cluster.image,
            "image_pull_policy": "IfNotPresent",
        }

    @pytest.fixture
    def other_settings(self, kubernetes_cluster: KubernetesCluster) -> dict[str, Any]:
        return {"kubeconfig": str(kubernetes_cluster.kubeconfig)}

    @pytest.fixture
    def still_running(
        self, kubernetes_cluster: KubernetesCluster
    ) -> Callable[[JobHandle], list[str]]:
        def running(handle: JobHandle) -> list[str]:
            namespace, name = handle.path
            selector = f"batch.kubernetes.io/job-name={name}"
            with kubernetes_cluster.api_client() as api:
                pods = client.CoreV1Api(api).list_namespaced_pod(namespace, label_selector=selector)
            return [p.metadata.name for p in pods.items
                    if p.status.phase not in ("Succeeded", "Failed")]  # fmt: skip

        return running

    @pytest.fixture
    def occupy(
        self, kubernetes_cluster: KubernetesCluster, namespace: str
    ) -> Callable[[str], None]:
        def start(name: str) -> None:
            pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "none"}]}
            spec = {"suspend": True, "template": {"spec": pod}}
            with kubernetes_cluster.api_client() as api:
                try:
                    client.BatchV1Api(api).create_namespaced_job(
                        namespace, {"metadata": {"name": name}, "spec": spec}
                    )
                except client.ApiException as error:
                    raise AssertionError(f"the name is taken: {error.reason}") from error

        return start

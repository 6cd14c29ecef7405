"""Submissions of MLflow projects to a real Kubernetes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from kubernetes import client

from tests.clusters.pytest_kubernetes import KubernetesCluster
from tests.mlflow.submitted_runs import ENDS, PLAIN, WAIT, SubmittedRuns

__all__ = ["ENDS", "PLAIN", "WAIT", "K8sRuns"]


@dataclass
class K8sRuns(SubmittedRuns):
    """Submits projects to a namespace of a cluster."""

    backend: ClassVar[str] = "k8s"

    cluster: KubernetesCluster
    namespace: str

    def config(self, **changes: Any) -> dict[str, Any]:
        """Return the backend configuration of these tests, with changes."""
        base = {
            "context": self.cluster.context,
            "namespace": self.namespace,
            "image": self.cluster.image,
            "image_pull_policy": "IfNotPresent",
        }
        return {**base, **changes}

    def objects(self, namespace: str = "") -> set[str]:
        """Return the Jobs, Secrets, ConfigMaps and pods of a namespace that a job may leave."""
        where = namespace or self.namespace
        with self.cluster.api_client() as api:
            core = client.CoreV1Api(api)
            lists = (
                client.BatchV1Api(api).list_namespaced_job(where),
                core.list_namespaced_secret(where),
                core.list_namespaced_config_map(where),
                core.list_namespaced_pod(where),
            )
            return {f"{type(o).__name__}/{o.metadata.name}" for found in lists for o in found.items}

    def environment(self, **changes: str) -> dict[str, str]:
        """See `SubmittedRuns.environment`."""
        return super().environment(**{"KUBECONFIG": str(self.cluster.kubeconfig), **changes})

"""``mlflow run --backend k8s``."""

from __future__ import annotations

from mlflow_exec.plugins.project_backend import ProjectBackend


class KubernetesBackend(ProjectBackend):
    """Runs MLflow projects on Kubernetes."""

    name = "k8s"

"""``mlflow run --backend yarn``."""

from __future__ import annotations

from mlflow_exec.plugins.project_backend import ProjectBackend


class YarnBackend(ProjectBackend):
    """Runs MLflow projects on YARN."""

    name = "yarn"

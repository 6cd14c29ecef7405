"""``mlflow run --backend ray``."""

from __future__ import annotations

from mlflow_exec.plugins.project_backend import ProjectBackend


class RayBackend(ProjectBackend):
    """Runs MLflow projects on Ray."""

    name = "ray"

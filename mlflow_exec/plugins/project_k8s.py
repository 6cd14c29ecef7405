"""``mlflow run --backend k8s``."""

from __future__ import annotations

from typing import Any

from mlflow.projects.backend.abstract_backend import AbstractBackend
from mlflow.projects.submitted_run import SubmittedRun


class KubernetesBackend(AbstractBackend):  # type: ignore[misc]
    """Runs MLflow projects on Kubernetes."""

    def run(
        self,
        project_uri: str,
        entry_point: str,
        params: dict[str, Any],
        version: str | None,
        backend_config: dict[str, Any],
        tracking_uri: str,
        experiment_id: str,
    ) -> SubmittedRun:
        """Submit the project; see MLflow's ``AbstractBackend.run``."""
        from mlflow_exec.plugins.project_backend import run_project

        return run_project(
            "k8s", project_uri, entry_point, params, version, backend_config, tracking_uri,
            experiment_id,
        )  # fmt: skip

"""The deployment target ``k8s``, as MLflow loads it: exactly one class of a client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow.deployments import base

from mlflow_exec.plugins import deployments


class KubernetesDeployments(deployments.Deployments, base.BaseDeploymentClient):  # type: ignore[misc]
    """See `mlflow_exec.plugins.deployments`."""

    target_name = "k8s"


def run_local(
    name: str,
    model_uri: str,
    flavor: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Serve the model on this machine."""
    deployments.run_local("k8s", name, model_uri, flavor, config)


def target_help() -> str:
    """Return the text of ``mlflow deployments help -t k8s``."""
    return deployments.target_help("k8s")

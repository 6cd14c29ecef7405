"""The deployment target ``k8s``, as MLflow loads it: exactly one class of a client."""

from __future__ import annotations

from functools import partial

from mlflow.deployments import base

from mlflow_exec.plugins import deployments


class KubernetesDeployments(deployments.Deployments, base.BaseDeploymentClient):  # type: ignore[misc]
    """See `mlflow_exec.plugins.deployments`."""


run_local = partial(deployments.run_local, "k8s")
target_help = partial(deployments.target_help, "k8s")

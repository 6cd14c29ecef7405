"""The deployment target ``ray-serve``, as MLflow loads it: exactly one class of a client."""

from __future__ import annotations

from functools import partial

from mlflow.deployments import base

from mlflow_exec.plugins import deployments


class RayServeDeployments(deployments.Deployments, base.BaseDeploymentClient):  # type: ignore[misc]
    """See `mlflow_exec.plugins.deployments`."""


run_local = partial(deployments.run_local, "ray-serve")
target_help = partial(deployments.target_help, "ray-serve")

"""Deployments on a real Ray Serve keep the contract of targets."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlflow_exec.clients.ray_serve import ServeClient
from mlflow_exec.testing.deployments import DeploymentConformance
from mlflow_exec.testing.served import Served
from tests.mlflow.ray_deployments import served_by


@pytest.fixture(scope="module")
def serving(served_on: Callable[[], ServeClient], models: Path) -> Served:
    return served_by(served_on, models)


class TestDeploymentsOnRayServe(DeploymentConformance):
    broken: ClassVar[Mapping[str, tuple[Mapping[str, Any], Mapping[str, str], str]]] = {
        **DeploymentConformance.broken,
        "a requirement that is not there": (
            {"requirements": ("surely-not-on-any-index==7.7",)}, {"environment": "uv"},
            "environment_setup.*surely-not-on-any-index",
        ),
        "more CPUs than are free": (
            {}, {"resources.cpu": str(os.cpu_count()), "timeout_s": "60"},
            "not ready after timeout_s.*to be scheduled",
        ),
    }  # fmt: skip

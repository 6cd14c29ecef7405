"""Endpoints on a real Ray Serve."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mlflow_exec.clients.ray_serve import ServeClient
from mlflow_exec.testing.endpoints import EndpointConformance
from mlflow_exec.testing.served import Served
from tests.mlflow.ray_deployments import served_by


@pytest.fixture(scope="module")
def serving(served_on: Callable[[], ServeClient], models: Path) -> Served:
    return served_by(served_on, models)


class TestEndpointsOnRayServe(EndpointConformance):
    pass

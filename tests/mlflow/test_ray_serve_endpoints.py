"""Endpoints on a real Ray Serve."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from mlflow.deployments import BaseDeploymentClient

from mlflow_exec.clients.ray_serve import ServeClient
from tests.mlflow.endpoint_suite import Endpoints, EndpointSuite, wine
from tests.mlflow.ray_deployments import SMALL
from tests.mlflow.served_models import BODY, JSON

__all__ = ["wine"]


@pytest.fixture(scope="module")
def endpoints(
    deployments: BaseDeploymentClient, served_on: Callable[[], ServeClient], models: Path
) -> Endpoints:
    def asks(name: str, headers: Mapping[str, str]) -> Callable[[], tuple[int, bytes]]:
        parts = urlsplit(deployments.get_endpoint(name)["url"])

        def ask() -> tuple[int, bytes]:
            connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
            path = f"{parts.path}/invocations"
            connection.request("POST", path, BODY, {**JSON, **headers})
            answer = connection.getresponse()
            try:
                return answer.status, answer.read()
            finally:
                connection.close()

        return ask

    def routers(name: str) -> set[str]:
        application = served_on().applications()["applications"][name]
        return {str(r["pid"]) for r in application["deployments"]["Router"]["replicas"]}

    return Endpoints(deployments, "ray-serve", SMALL, {}, SMALL, asks, routers, models)


class TestEndpointsOnRayServe(EndpointSuite):
    pass

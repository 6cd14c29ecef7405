"""Steps of the tests of Ray Serve."""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from mlflow.deployments import BaseDeploymentClient, get_deploy_client

from mlflow_exec.clients.ray_serve import ServeClient
from mlflow_exec.testing.served import Ask, Served
from mlflow_exec.testing.served_models import BODY, JSON

SMALL = {"environment": "local", "resources.cpu": "0.1"}


def asks(url: str, headers: Mapping[str, str] | None = None) -> Ask:
    """Return what asks a deployment once, on a connection of its own."""
    parts = urlsplit(url)

    def ask() -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
        sent = {**JSON, **(headers or {})}
        connection.request("POST", f"{parts.path}/invocations", BODY, sent)
        answer = connection.getresponse()
        try:
            return answer.status, answer.read()
        finally:
            connection.close()

    return ask


def served_by(
    client: Callable[[], ServeClient], models: Path, **settings: str
) -> Served:
    """Return the deployments and endpoints of a Ray, as the suites use them."""
    deployments: BaseDeploymentClient = get_deploy_client("ray-serve")
    small = {**SMALL, **settings}

    def asks_of(name: str, headers: Mapping[str, str]) -> Ask:
        application = client().applications()["applications"][name]
        port = client().applications()["http_options"]["port"]
        return asks(f"http://127.0.0.1:{port}{application['route_prefix']}", headers)

    def running(name: str) -> set[str]:
        found = client().applications()["applications"].get(name) or {"deployments": {}}
        return {
            str(replica["pid"])
            for deployment in found["deployments"].values()
            for replica in deployment["replicas"]
            if replica["state"] == "RUNNING"
        }

    def leftovers(name: str) -> list[str]:
        return [found for found in client().applications()["applications"] if found == name]

    return Served(
        deployments, "ray-serve", small, {}, small, asks_of, running,
        lambda replica: os.kill(int(replica), signal.SIGKILL), leftovers, models,
    )  # fmt: skip

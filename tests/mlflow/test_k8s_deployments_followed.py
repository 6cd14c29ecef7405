"""Deployments of an alias on Kubernetes: compared, and applied anew when it moves."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from typing import Any

import mlflow
import pytest
from click.testing import CliRunner
from mlflow import MlflowClient
from mlflow.deployments import get_deploy_client

from mlflow_exec.cli import cli
from mlflow_exec.testing.served_models import ROW, save_model
from tests.mlflow.k8s_deployments import K8sDeployments
from tests.servers import MlflowServer


@pytest.fixture
def registered(
    served: K8sDeployments, k8s_tracking: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """A model with three versions, of which the third cannot be loaded."""
    monkeypatch.setenv("KUBECONFIG", str(served.cluster.kubeconfig))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", k8s_tracking.url)
    mlflow.set_tracking_uri(k8s_tracking.url)
    name, registry = f"followed-{os.getpid()}", MlflowClient()
    registry.create_registered_model(name)
    for answer, loading in ((7, "pass"), (8, "pass"), (9, "raise ValueError('no weights')")):
        path = save_model(served.folder, answer, loading=loading)
        with mlflow.start_run() as run:
            mlflow.log_artifacts(str(path), "model")
        registry.create_model_version(name, f"{run.info.artifact_uri}/model", run.info.run_id)
    registry.set_registered_model_alias(name, "champion", "1")
    yield name
    mlflow.set_tracking_uri(None)


def versions(diff: list[str], name: str) -> dict[str, set[str]]:
    """Return which versions of a model the lines that go, and those that come, name."""
    found: dict[str, set[str]] = {}
    for line in diff:
        if line[0] in "-+":
            found.setdefault(line[0], set()).update(re.findall(rf"models:/{name}/(\d+)", line))
    return found


def test_an_alias_is_pinned_compared_and_followed(served: K8sDeployments, registered: str) -> None:
    deployments, registry = get_deploy_client(served.uri), MlflowClient()
    place = ("-t", served.uri, "-n", "wine")

    def command(*verb: str, code: int = 0) -> Any:
        done = CliRunner().invoke(cli, ["deployments", *verb, *place, "-o", "json"])
        assert done.exit_code == code, f"{done.output}\n{done.exception!r}"
        return json.loads(done.stdout) if not code else done

    config = {key: value for key, value in served.given().items() if key != "kubeconfig"}
    config |= {"model_source": "package", "timeout_s": 120}
    made = deployments.create_deployment("wine", f"models:/{registered}@champion", config=config)
    assert made["pinned_uri"] == f"models:/{registered}/1"
    assert command("follow", "--once")["pinned_uri"] is None, "it has not moved"

    registry.set_registered_model_alias(registered, "champion", "2")
    assert deployments.predict("wine", ROW)["predictions"] == [7], "it stays what it was"
    would = command("diff", "-m", f"models:/{registered}@champion", "-C", "num_replicas=2")["diff"]
    assert versions(would, registered) == {"-": {"1"}, "+": {"2"}}
    assert "+  replicas: 2" in would
    assert command("follow", "--once")["pinned_uri"] == f"models:/{registered}/2"
    assert deployments.predict("wine", ROW)["predictions"] == [8]
    between = command("diff", "--from", "1", "--to", "2")["diff"]
    assert versions(between, registered) == {"-": {"1"}, "+": {"2"}}

    registry.set_registered_model_alias(registered, "champion", "3")
    failed = command("follow", "--once", code=1)
    assert "no weights" in str(failed.exception), "it says why, and goes back"
    assert deployments.predict("wine", ROW)["predictions"] == [8]
    assert command("follow", "--once")["pinned_uri"] is None, "what has failed is not tried again"
    deployments.delete_deployment("wine")

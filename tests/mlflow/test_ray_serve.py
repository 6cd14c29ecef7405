"""Models on a real Ray Serve, by MLflow's own command line and client and by ours."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.deployments import BaseDeploymentClient, get_deploy_client

from mlflow_exec.clients.ray_packages import package_name
from mlflow_exec.clients.ray_serve import ServeClient
from mlflow_exec.shipping import zipped
from mlflow_exec.targets.ray_serve.document import with_application, without_application
from mlflow_exec.testing.collecting import until
from mlflow_exec.testing.commands import run
from mlflow_exec.testing.served import steady_load
from mlflow_exec.testing.served_models import ROW, save_model
from tests.mlflow.ray_deployments import SMALL, asks
from tests.servers import MlflowServer


@pytest.fixture(scope="module")
def iris(deployments: BaseDeploymentClient, one: str) -> Iterator[dict[str, Any]]:
    """A deployment that answers 1."""
    yield deployments.create_deployment("iris", one, config=SMALL)
    deployments.delete_deployment("iris")


def test_an_alias_is_pinned_and_followed(
    deployments: BaseDeploymentClient, models: Path, ray_tracking: MlflowServer
) -> None:
    client = mlflow.MlflowClient()
    client.create_registered_model("wine")
    for answer in (7, 8):
        path = save_model(models, answer)
        with mlflow.start_run() as started:
            mlflow.log_artifacts(str(path), "model")
        source = f"{started.info.artifact_uri}/model"
        client.create_model_version("wine", source, started.info.run_id)
    client.set_registered_model_alias("wine", "champion", "1")
    made = deployments.create_deployment("wine", "models:/wine@champion", config=SMALL)
    assert (made["model_uri"], made["pinned_uri"]) == ("models:/wine@champion", "models:/wine/1")
    client.set_registered_model_alias("wine", "champion", "2")
    assert deployments.predict("wine", ROW)["predictions"] == [7], "it stays what it was"
    follow = ("mlflow-exec", "deployments", "follow", "-t", "ray-serve", "-n", "wine", "--once")
    assert "models:/wine/2" in run(*follow)
    assert deployments.predict("wine", ROW)["predictions"] == [8]
    assert run(*follow).strip() == ""
    deployments.delete_deployment("wine")


NEIGHBOUR = """
from ray import serve

@serve.deployment(ray_actor_options={"num_cpus": 0.1})
class Neighbour:
    async def __call__(self, request):
        return {"predictions": [99]}

app = Neighbour.bind()
"""
# What one of several deployers does; it prints what is to stand there at its end.
DEPLOYER = """
import sys
from mlflow.deployments import get_deploy_client
me, model, operations = sys.argv[1], sys.argv[2], int(sys.argv[3])
client = get_deploy_client("ray-serve")
# No replica, as nobody asks it.
none = {"min_replicas": 0, "initial_replicas": 0}
config = {
    "environment": "local", "wait": "false", "max_replicas": "2",
    "patch": {"deployments": [{"name": "Model", "autoscaling_config": none}]},
}
there = False
for number in range(operations):
    if not there:
        client.create_deployment(me, model, config=config)
        there = True
    elif number % 5 == 4:
        client.delete_deployment(me)
        there = False
    else:
        client.update_deployment(me, config={"max_replicas": str(2 + number % 2), "wait": "false"})
print("there" if there else "gone")
"""


@pytest.fixture
def neighbour(served_on: Callable[[], ServeClient], tmp_path: Path) -> Iterator[dict[str, Any]]:
    """An application that is not ours."""
    serve = served_on()
    sha256, content = zipped({"neighbour.py": NEIGHBOUR.encode()})
    serve.put_package(package_name(sha256), content)
    config = {
        "name": "theirs", "route_prefix": "/theirs", "import_path": "neighbour:app",
        "runtime_env": {"working_dir": f"gcs://{package_name(sha256)}"},
    }  # fmt: skip

    def state() -> dict[str, Any]:
        return dict(serve.applications()["applications"].get("theirs") or {})

    serve.put_applications(with_application(serve.applications(), config, {}))
    until(lambda: state().get("status") == "RUNNING", "the neighbour runs")
    yield state()
    serve.put_applications(without_application(serve.applications(), "theirs"))
    until(lambda: not state(), "the neighbour is gone")


def replicas_of(application: dict[str, Any]) -> list[str]:
    (deployment,) = application["deployments"].values()
    return sorted(replica["replica_id"] for replica in deployment["replicas"])


@pytest.mark.parametrize(
    "operations", [40, pytest.param(200, marks=pytest.mark.large)], ids=lambda n: f"{n} operations"
)
def test_a_neighbour_is_untouched_by_four_who_deploy_at_once(
    iris: dict[str, Any],
    neighbour: dict[str, Any],
    served_on: Callable[[], ServeClient],
    one: str,
    operations: int,
) -> None:
    url = iris["url"].replace("/iris", "/theirs")
    with steady_load(asks(url), threads=1) as load:
        deployers = {
            name: subprocess.Popen(
                [sys.executable, "-c", DEPLOYER, name, one, str(operations // 4)],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            )
            for name in ("first", "second", "third", "fourth")
        }  # fmt: skip
        ends = {name: deployer.communicate(timeout=900) for name, deployer in deployers.items()}
        load.reaches(5)
    found = served_on().applications()["applications"]
    for name, (said, errors) in ends.items():
        assert said.strip() in ("there", "gone"), errors
        assert (name in found) == (said.strip() == "there"), f"{name}: {said}"
    assert found["theirs"]["deployed_app_config"] == neighbour["deployed_app_config"]
    assert replicas_of(found["theirs"]) == replicas_of(neighbour)
    assert found["iris"]["status"] == "RUNNING"
    with ThreadPoolExecutor() as pool:
        list(pool.map(get_deploy_client("ray-serve").delete_deployment, deployers))


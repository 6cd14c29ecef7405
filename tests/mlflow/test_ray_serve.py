"""Models on a real Ray Serve, by MLflow's own command line and client and by ours."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.deployments import BaseDeploymentClient, get_deploy_client
from mlflow.exceptions import MlflowException

from mlflow_exec.clients.ray_packages import package_name
from mlflow_exec.clients.ray_serve import ServeClient
from mlflow_exec.runs.deploy import place
from mlflow_exec.shipping import zipped
from mlflow_exec.targets.ray_serve.document import with_application, without_application
from mlflow_exec.testing.collecting import until
from tests.mlflow.ray_deployments import SMALL, asks, mlflow_deployments, run
from tests.mlflow.served_models import BODY, JSON, ROW, save_model, steady_load
from tests.servers import MlflowServer


@pytest.fixture(scope="module")
def iris(deployments: BaseDeploymentClient, one: str) -> Iterator[dict[str, Any]]:
    """A deployment that answers 1."""
    yield deployments.create_deployment("iris", one, config=SMALL)
    deployments.delete_deployment("iris")


def test_a_model_answers_and_is_listed(
    deployments: BaseDeploymentClient, iris: dict[str, Any]
) -> None:
    assert (iris["name"], iris["state"], iris["revision"], iris["serving"]) == (
        "iris", "READY", 1, 1,
    )  # fmt: skip
    assert deployments.predict("iris", ROW)["predictions"] == [1]
    assert "iris" in [found["name"] for found in deployments.list_deployments()]
    found = deployments.get_deployment("iris")
    assert (found["replicas"], found["failure"]) == ("1/1", None)
    with pytest.raises(MlflowException, match="there is a deployment 'iris'; 'update'"):
        deployments.create_deployment("iris", "models:/none", config=SMALL)


def test_an_update_a_scaling_and_a_way_back_lose_no_request(
    deployments: BaseDeploymentClient, iris: dict[str, Any], models: Path
) -> None:
    two = save_model(models, 2)
    with steady_load(asks(iris["url"]), threads=2) as load:
        load.reaches(20)
        deployments.update_deployment("iris", str(two), config={"num_replicas": "2"})
        load.reaches(20)
        deployments.update_deployment("iris", config={"num_replicas": "1"})
        load.reaches(20)
        assert load.answers[-1] == 2
        back = json.loads(
            run("mlflow-exec", "deployments", "rollback", "-t", "ray-serve", "-n", "iris",
                "--to", "1", "-o", "json")
        )  # fmt: skip
        load.reaches(20)
    assert (back["revision"], back["state"]) == (4, "READY")
    assert load.answers[-1] == 1
    switches = sum(a != b for a, b in zip(load.answers, load.answers[1:], strict=False))
    assert set(load.answers) == {1, 2}
    assert switches >= 2


def test_revisions_are_kept_and_compared(iris: dict[str, Any]) -> None:
    where = ("-t", "ray-serve", "-n", "iris", "-o", "json")
    kept = json.loads(run("mlflow-exec", "deployments", "revisions", *where))
    assert [r["number"] for r in kept] == list(range(1, len(kept) + 1))
    assert kept[-1]["rolled_back_to"] == 1
    lines = json.loads(
        run("mlflow-exec", "deployments", "diff", *where, "--from", "1", "--to", "2")
    )["diff"]
    assert [line for line in lines if line.startswith("+") and "num_replicas: 2" in line]


def test_a_killed_replica_loses_no_request_of_our_clients(
    deployments: BaseDeploymentClient,
    iris: dict[str, Any],
    served_on: Callable[[], ServeClient],
) -> None:
    deployments.update_deployment("iris", config={"num_replicas": "2"})
    serve = served_on()
    target = place("ray-serve", {}).target

    def running() -> list[int]:
        application = serve.applications()["applications"]["iris"]
        replicas = application["deployments"]["Model"]["replicas"]
        return [r["pid"] for r in replicas if r["state"] == "RUNNING"]

    def ask() -> tuple[int, bytes]:
        answer = target.request("iris", "/invocations", BODY, JSON)
        return answer.status, answer.body

    with steady_load(ask) as load:
        for _ in range(2):
            load.reaches(20)
            victim = running()[0]
            os.kill(victim, signal.SIGKILL)
            load.reaches(50)
            until(lambda gone=victim: len(set(running()) - {gone}) == 2, "it is whole again", 120)  # type: ignore[misc]
    deployments.update_deployment("iris", config={"num_replicas": "1"})


BROKEN = {
    "an exception while loading": (
        {"loading": "raise ValueError('no such weights')"}, {}, "no such weights",
    ),
    "a missing dependency": (
        {"loading": "import surely_missing"}, {}, "environment_setup.*surely_missing",
    ),
    "a requirement that is not there": (
        {"requirements": ("surely-not-on-any-index==7.7",)}, {"environment": "uv"},
        "environment_setup.*surely-not-on-any-index",
    ),
    "more CPUs than there are": (
        {}, {"resources.cpu": "1000", "timeout_s": "90"}, "not ready after timeout_s.*1000",
    ),
}  # fmt: skip




@dataclass
class Attempt:
    """An update of a deployment, which did not become ready.

    Attributes:
        name: The deployment.
        answers: What it answered meanwhile.
        error: What the update said.
    """

    name: str
    answers: list[int]
    error: str


@pytest.fixture(scope="module")
def attempts(
    deployments: BaseDeploymentClient, one: str, models: Path
) -> Iterator[dict[str, Attempt]]:
    """Each deployment gets a model that is broken in its own way, all at once."""

    def attempt(what: str) -> Attempt:
        making, settings, _ = BROKEN[what]
        name = f"broken-{list(BROKEN).index(what)}"
        made = deployments.create_deployment(name, one, config=SMALL)
        with steady_load(asks(made["url"]), threads=1) as load:
            broken = save_model(models, 3, **making)  # type: ignore[arg-type]
            with pytest.raises(MlflowException) as raised:
                deployments.update_deployment(name, str(broken), config={**SMALL, **settings})
            load.reaches(5)
        return Attempt(name, load.answers, str(raised.value))

    with ThreadPoolExecutor() as pool:
        yield dict(zip(BROKEN, pool.map(attempt, BROKEN), strict=True))
        names = [f"broken-{number}" for number in range(len(BROKEN))]
        list(pool.map(deployments.delete_deployment, names))


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_model_leaves_the_one_before_serving_and_says_why(
    deployments: BaseDeploymentClient, attempts: dict[str, Attempt], what: str
) -> None:
    attempt = attempts[what]
    assert re.search(f"(?s){BROKEN[what][2]}", attempt.error), attempt.error
    assert set(attempt.answers) == {1}
    assert "Revision 1 serves again, as revision 3" in attempt.error
    found = deployments.get_deployment(attempt.name)
    assert (found["state"], found["revision"]) == ("READY", 3)


def test_mlflows_command_line(
    deployments: BaseDeploymentClient, models: Path, tmp_path: Path
) -> None:
    five = str(save_model(models, 5))
    where = ("-t", "ray-serve", "--name", "five")
    config = [part for key, value in SMALL.items() for part in ("-C", f"{key}={value}")]
    create = ("create", *where, "-m", five, *config)
    rendered = mlflow_deployments(*create, "-C", "render=only")
    assert "import_path: mlflow_exec.scoring.ray_serve:build" in rendered
    assert "is created" not in rendered
    ours = run("mlflow-exec", "deployments", "render", *where, "-m", five, *config)
    assert ours.strip() == rendered.strip()
    wrong = mlflow_deployments(*create, "-C", "num_replica=2", fails=True)
    assert "unknown setting 'num_replica' (did you mean 'num_replicas'?)" in wrong
    assert "five" not in mlflow_deployments("list", "-t", "ray-serve")
    made = run("mlflow", "deployments", *create)
    assert "python_function deployment five is created" in made
    body = tmp_path / "body.json"
    body.write_text(json.dumps(ROW))
    asked = mlflow_deployments("predict", *where, "-I", str(body))
    assert json.loads(asked) == {"predictions": [5]}
    updated = mlflow_deployments("update", *where, "-C", "num_replicas=1")
    assert "Deployment five is updated" in updated
    assert "state: READY" in mlflow_deployments("get", *where)
    for _ in range(2):
        assert "five is deleted" in mlflow_deployments("delete", *where)
    gone = mlflow_deployments("get", *where, fails=True)
    assert "there is no deployment 'five'" in gone
    assert "num_replicas" in mlflow_deployments("help", "-t", "ray-serve")


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
# No node has so many, so that nothing starts.
config = {"environment": "local", "resources.cpu": "1000", "wait": "false"}
there = False
for number in range(operations):
    if not there:
        client.create_deployment(me, model, config=config)
        there = True
    elif number % 5 == 4:
        client.delete_deployment(me)
        there = False
    else:
        client.update_deployment(me, config={"num_replicas": str(1 + number % 2), "wait": "false"})
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
    until(lambda: state().get("status") == "RUNNING", "the neighbour runs", 120)
    yield state()
    serve.put_applications(without_application(serve.applications(), "theirs"))
    until(lambda: not state(), "the neighbour is gone", 120)


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


def test_what_is_deleted_is_gone_and_what_is_not_ours_stays(
    deployments: BaseDeploymentClient, served_on: Callable[[], ServeClient], one: str
) -> None:
    deployments.create_deployment("gone", one, config=SMALL)
    deployments.delete_deployment("gone")
    deployments.delete_deployment("gone")
    assert "gone" not in served_on().applications()["applications"]
    says = "there is no deployment 'gone'"
    with pytest.raises(MlflowException, match=says):
        deployments.get_deployment("gone")
    with pytest.raises(MlflowException, match=says):
        deployments.update_deployment("gone", one)
    with pytest.raises(MlflowException, match=says):
        deployments.predict("gone", ROW)

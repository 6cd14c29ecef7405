"""Deployments by Serve's Python interface on a real Ray: what no writer of the document undoes."""

from __future__ import annotations

import json
import os
import shlex
import signal
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from mlflow.deployments import BaseDeploymentClient
from mlflow.exceptions import MlflowException

from mlflow_exec.clients.ray_serve import ServeClient
from mlflow_exec.errors import ConflictError
from mlflow_exec.releases import Revision
from mlflow_exec.runs.deploy import place
from mlflow_exec.targets.base import ReleasePlan
from mlflow_exec.targets.ray_serve.document import without_application
from mlflow_exec.targets.ray_serve.imperative import ImperativeWriter
from mlflow_exec.testing.collecting import until
from mlflow_exec.testing.commands import run
from mlflow_exec.testing.served import steady_load
from mlflow_exec.testing.served_models import ROW, save_model
from tests.mlflow.ray_deployments import SMALL, asks

IMPERATIVE = {**SMALL, "api": "imperative"}


@pytest.fixture(scope="module")
def iris(deployments: BaseDeploymentClient, one: str) -> Iterator[dict[str, Any]]:
    """A deployment by Serve's Python interface that answers 1."""
    yield deployments.create_deployment("iris", one, config=IMPERATIVE)
    deployments.delete_deployment("iris")


def applications(serve: ServeClient) -> dict[str, Any]:
    return dict(serve.applications()["applications"])


def replicas(serve: ServeClient, name: str) -> set[int]:
    (deployment,) = applications(serve)[name]["deployments"].values()
    return {r["pid"] for r in deployment["replicas"] if r["state"] == "RUNNING"}


def jobs(serve: ServeClient) -> list[str]:
    return [j["submission_id"] for j in serve.jobs() if "mlflow-serve" in j["submission_id"]]


def test_the_life_of_a_deployment(
    deployments: BaseDeploymentClient,
    iris: dict[str, Any],
    served_on: Callable[[], ServeClient],
    models: Path,
) -> None:
    serve = served_on()
    here = applications(serve)["iris"]
    assert (here["source"], here["deployed_app_config"]) == ("imperative", None)
    before = replicas(serve, "iris")
    deployments.update_deployment("iris", config={"num_replicas": "2"})
    assert before < replicas(serve, "iris"), "scaling restarts nothing"
    with steady_load(asks(iris["url"]), threads=2) as load:
        deployments.update_deployment("iris", str(save_model(models, 2)))
        load.reaches(20)
        assert load.answers[-1] == 2
        back = json.loads(
            run("mlflow-exec", "deployments", "rollback", "-t", "ray-serve", "-n", "iris",
                "--to", "1", "-o", "json")
        )  # fmt: skip
        load.reaches(20)
    assert load.answers[-1] == 1
    assert (back["revision"], back["state"], back["replicas"]) == (4, "READY", "1/1")
    kept = place("ray-serve", {}).target.revisions("iris")
    assert [(r.number, r.rolled_back_to) for r in kept] == [(1, None), (2, None), (3, None), (4, 1)]
    assert "iris" in [found["name"] for found in deployments.list_deployments()]
    assert jobs(serve) == [], "the jobs that did it are gone"


def test_whoever_writes_serves_document_without_it_leaves_it_alone(
    deployments: BaseDeploymentClient,
    iris: dict[str, Any],
    served_on: Callable[[], ServeClient],
    one: str,
) -> None:
    serve = served_on()
    deployments.create_deployment("declared", one, config=SMALL)
    before = replicas(serve, "iris")
    with steady_load(asks(iris["url"]), threads=1) as load:
        details = {**serve.applications(), "applications": {}}
        serve.put_applications(without_application(details, "declared"))
        until(lambda: "declared" not in applications(serve), "the declared one is deleted")
        load.reaches(5)
    assert replicas(serve, "iris") == before
    assert deployments.get_deployment("iris")["state"] == "READY"


def test_a_broken_model_leaves_the_one_before_serving_and_says_why(
    deployments: BaseDeploymentClient,
    iris: dict[str, Any],
    served_on: Callable[[], ServeClient],
    models: Path,
) -> None:
    broken = str(save_model(models, 3, loading="raise ValueError('no such weights')"))
    before = replicas(serve := served_on(), "iris")
    with pytest.raises(MlflowException, match=r"(?s)user_error.*no such weights.*serves again"):
        deployments.update_deployment("iris", broken)
    assert replicas(serve, "iris") == before, "they have served all the time"
    assert deployments.get_deployment("iris")["state"] == "READY"
    assert deployments.predict("iris", ROW)["predictions"] == [1]


def test_what_the_job_cannot_do_is_told_and_changes_nothing(
    deployments: BaseDeploymentClient, iris: dict[str, Any], served_on: Callable[[], ServeClient]
) -> None:
    before = deployments.get_deployment("iris")
    none = json.dumps({"deployments": [{"name": "Model", "num_replicas": 0}]})
    says = "(?s)the Ray job that puts it on Serve has FAILED: .*num_replicas is expected"
    with pytest.raises(MlflowException, match=says):
        deployments.update_deployment("iris", config={"patch": none})
    assert deployments.get_deployment("iris") == before
    assert jobs(served_on()) == []


def test_a_job_that_was_overtaken_changes_nothing(
    deployments: BaseDeploymentClient, iris: dict[str, Any], served_on: Callable[[], ServeClient]
) -> None:
    serve = served_on()
    before = deployments.get_deployment("iris")
    settings = applications(serve)["iris"]["deployments"]["Model"]["deployment_config"]
    revision = dict(settings["user_config"]["revision"])
    application = dict(revision["objects"][0])
    config = {"revision": {**revision, "applied_at": "by somebody else"}, "history": []}
    application["deployments"] = [{**application["deployments"][0], "user_config": config}]
    order = {"application": application, "version": "1", "before": {**revision, "number": 0}}
    with pytest.raises(ConflictError, match="was applied by somebody else meanwhile"):
        ImperativeWriter(serve, 10)._run("iris", order)
    assert deployments.get_deployment("iris") == before


def test_of_writers_at_the_same_moment_each_knows_whether_its_revision_stands(
    deployments: BaseDeploymentClient, iris: dict[str, Any], served_on: Callable[[], ServeClient]
) -> None:
    def revisions() -> list[Revision]:
        return place("ray-serve", {}).target.revisions("iris")

    before = len(revisions())
    ready = Barrier(3)

    def update(concurrency: int) -> str:
        target = place("ray-serve", {}).target
        newest = target.revisions("iris")[-1]
        settings = {**newest.settings, "max_ongoing_requests": concurrency}
        plan = ReleasePlan(replace(newest, number=newest.number + 1, settings=settings))
        ready.wait(60)
        try:
            target.apply(plan)
        except ConflictError:
            return ""
        return str(concurrency)

    with ThreadPoolExecutor() as pool:
        applied = [done for done in pool.map(update, (11, 12, 13)) if done]
    stand = [str(r.settings["max_ongoing_requests"]) for r in revisions()[before:]]
    assert len(applied) == 1
    assert stand == applied, "who was told that it stands is the one who stands"


HOLDS_A_TURN = """
import pathlib, sys, time
import ray
ray.init(namespace="mlflow-exec")
turn = ray.remote(type("Turn", (), {})).options(name="turn-iris", num_cpus=0).remote()
while not pathlib.Path(sys.argv[1]).exists():
    time.sleep(0.1)
"""


def test_a_job_waits_while_another_one_changes_the_application(
    deployments: BaseDeploymentClient,
    iris: dict[str, Any],
    served_on: Callable[[], ServeClient],
    tmp_path: Path,
) -> None:
    serve, gate, holder = served_on(), tmp_path / "gate", f"holder-{uuid.uuid4().hex}"
    command = f"python -c {shlex.quote(HOLDS_A_TURN)} {shlex.quote(str(gate))}"
    serve.submit({"submission_id": holder, "entrypoint": command})
    until(lambda: "turn-iris" in str(serve._json("GET", "/api/v0/actors")), "it has the turn")
    before = deployments.get_deployment("iris")
    with ThreadPoolExecutor() as pool:
        update = pool.submit(
            deployments.update_deployment, "iris", config={"max_queued_requests": "77"}
        )
        until(lambda: any("waits: another" in serve.job_log(j) for j in jobs(serve)), "ours waits")
        assert deployments.get_deployment("iris") == before
        gate.touch()
        assert update.result()["revision"] == before["revision"] + 1


def test_a_killed_replica_comes_back_after_the_job_is_gone(
    deployments: BaseDeploymentClient, iris: dict[str, Any], served_on: Callable[[], ServeClient]
) -> None:
    serve = served_on()
    assert jobs(serve) == []
    (victim,) = replicas(serve, "iris")
    os.kill(victim, signal.SIGKILL)
    until(lambda: replicas(serve, "iris") - {victim}, "another one is there")
    assert deployments.predict("iris", ROW)["predictions"] == [1]


def test_an_endpoint_is_made_so_too_over_deployments_of_both_kinds(
    deployments: BaseDeploymentClient,
    iris: dict[str, Any],
    served_on: Callable[[], ServeClient],
    models: Path,
) -> None:
    deployments.create_deployment("declared", str(save_model(models, 4)), config=SMALL)
    config = {"weights": {"iris": 1, "declared": 1}, "api": "imperative"}
    deployments.create_endpoint("both", config)
    assert applications(served_on())["both"]["source"] == "imperative"
    answers = [deployments.predict(endpoint="both", inputs=ROW)["predictions"] for _ in range(4)]
    assert sorted(answers) == [[1], [1], [4], [4]]
    routers = replicas(served_on(), "both")
    deployments.update_endpoint("both", {"weights": {"iris": 0}})
    assert deployments.predict(endpoint="both", inputs=ROW)["predictions"] == [4]
    assert replicas(served_on(), "both") == routers
    deployments.delete_endpoint("both")


def test_a_deployment_moves_from_one_way_to_the_other_and_back_without_a_lost_request(
    deployments: BaseDeploymentClient, served_on: Callable[[], ServeClient]
) -> None:
    serve = served_on()
    url = deployments.get_deployment("declared")["url"]
    with steady_load(asks(url), threads=1) as load:
        moved = deployments.update_deployment("declared", config={"api": "imperative"})
        here = applications(serve)["declared"]
        # A controller that is started anew would apply an entry that was left there.
        assert (here["source"], here["deployed_app_config"]) == ("imperative", None)
        deployments.update_deployment("declared", config={"api": "declarative"})
        here = applications(serve)["declared"]
        assert (here["source"], here["route_prefix"]) == ("declarative", "/declared")
        load.reaches(5)
    assert moved["revision"] == 2
    kept = place("ray-serve", {}).target.revisions("declared")
    assert [r.settings.get("api") for r in kept] == [None, "imperative", "declarative"]
    deployments.delete_deployment("declared")


def test_what_is_deleted_is_gone(
    deployments: BaseDeploymentClient, iris: dict[str, Any], served_on: Callable[[], ServeClient]
) -> None:
    for _ in range(2):
        deployments.delete_deployment("iris")
    assert "iris" not in applications(served_on())
    with pytest.raises(MlflowException, match="there is no deployment 'iris'"):
        deployments.update_deployment("iris", config={"num_replicas": "2"})

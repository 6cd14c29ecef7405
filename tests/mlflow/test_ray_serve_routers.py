"""Several routers of an endpoint on a real Ray Serve, answers by pieces, a variant that goes."""

from __future__ import annotations

import json
import time
import urllib.request
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.deployments import BaseDeploymentClient

from mlflow_exec.clients.ray_serve import ServeClient
from mlflow_exec.targets.ray_serve.document import without_application
from mlflow_exec.testing.collecting import until
from mlflow_exec.testing.served_models import BODY, JSON
from tests.mlflow.ray_deployments import SMALL, asks

# Says its second piece when the file is there.
_TALKS = """
import mlflow, pathlib, time
class Talks(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return [5] * len(model_input)
    def predict_stream(self, context, model_input, params=None):
        yield "first"
        while not pathlib.Path({gate!r}).exists():
            time.sleep(0.02)
        yield "second"
mlflow.models.set_model(Talks())
"""


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate") / "open"


@pytest.fixture(scope="module")
def talk(
    deployments: BaseDeploymentClient, one: str, models: Path, gate: Path
) -> Iterator[dict[str, Any]]:
    """An endpoint with two routers over a model that streams and one that does not."""
    code = models / "talks.py"
    code.write_text(_TALKS.format(gate=str(gate)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's advice on type hints and examples
        mlflow.pyfunc.save_model(
            str(models / "talks"), python_model=str(code), pip_requirements=["mlflow-skinny"]
        )
    both = {"plain": one, "talks": str(models / "talks")}
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda n: deployments.create_deployment(n, both[n], config=SMALL), both))
    config = {"weights": {"plain": 3, "talks": 1}, "num_replicas": "2"}
    yield deployments.create_endpoint("talk", config)
    deployments.delete_endpoint("talk")
    for name in both:
        deployments.delete_deployment(name)


def test_several_routers_keep_the_weights_in_sum(talk: dict[str, Any]) -> None:
    assert talk["replicas"] == "2/2"

    def answer(_: int) -> int:
        status, body = asks(talk["url"])()
        assert status == 200, body
        return int(json.loads(body)["predictions"][0])

    with ThreadPoolExecutor(4) as pool:
        found = Counter(pool.map(answer, range(200)))
    # Each keeps them exactly for its own requests, and has one cycle that it has not finished.
    assert abs(found[1] - 150) <= 2, found
    assert found.total() == 200


def test_each_router_counts_its_own(talk: dict[str, Any]) -> None:
    counted: dict[str, int] = {}

    def total() -> int:
        with urllib.request.urlopen(f"{talk['url']}/routes", timeout=30) as answer:
            found: dict[str, Any] = json.load(answer)
        of_variants = found["counts"]["answers"].values()
        counted[found["router"]] = sum(sum(by_status.values()) for by_status in of_variants)
        return sum(counted.values())

    until(lambda: total() and len(counted) == 2, "both routers tell their counts")
    before = dict(counted)
    ask = asks(talk["url"])
    assert [ask()[0] for _ in range(20)] == [200] * 20
    until(lambda: total() == sum(before.values()) + 20, "all are counted, each by one")


def test_pieces_come_through_an_endpoint_as_the_model_makes_them(
    deployments: BaseDeploymentClient, talk: dict[str, Any], gate: Path
) -> None:
    deployments.update_endpoint("talk", {"weights": {"plain": 0, "talks": 1}})
    headers = {**JSON, "Accept": "text/event-stream"}
    request = urllib.request.Request(f"{talk['url']}/invocations", BODY, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        assert answer.headers["x-mlflow-exec-variant"] == "talks"
        assert answer.readline() == b'data: "first"\n'
        gate.touch()  # the second is made only now
        assert answer.read() == b'\ndata: "second"\n\ndata: [DONE]\n\n'


def test_a_variant_that_others_delete_is_a_quick_error_and_back_it_answers(
    deployments: BaseDeploymentClient,
    talk: dict[str, Any],
    served_on: Callable[[], ServeClient],
    models: Path,
) -> None:
    ask, serve = asks(talk["url"]), served_on()
    assert [ask()[0] for _ in range(4)] == [200] * 4, "both routers have a way to it"
    took_s: list[float] = []

    def refused(_: int) -> str:
        """Ask until it is gone, by far sooner than the time limit of 60 s."""
        while True:
            begun_s = time.monotonic()
            status, body = ask()
            took_s.append(time.monotonic() - begun_s)
            if status != 200:
                assert status == 503, body
                return str(json.loads(body)["message"])

    with ThreadPoolExecutor(4) as pool:
        messages = pool.map(refused, range(4))
        serve.put_applications(without_application(serve.applications(), "talks"))
        for message in messages:
            assert "variant 'talks' does not answer: " in message
            assert "was deleted" in message or "does not exist" in message
    assert max(took_s) < 30
    deployments.create_deployment("talks", str(models / "talks"), config=SMALL)
    assert json.loads(ask()[1])["predictions"] == [5]

"""What a deployment behind an endpoint on Kubernetes still decides itself: tokens, and pieces."""

from __future__ import annotations

import http.client
import json
import warnings
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import mlflow
import pytest
from kubernetes import client
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from mlflow_exec.targets.base import TOKEN_VARIABLE
from mlflow_exec.testing.served import Served
from mlflow_exec.testing.served_models import BODY, JSON, ROW
from tests.mlflow.k8s_deployments import K8sDeployments

TOKEN = "a-token-that-nobody-may-see"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
# The second piece comes when somebody has asked for a prediction after the first.
_CODE = """
import mlflow, threading
asked = threading.Event()
class Pieces(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        asked.set()
        return [3] * len(model_input)
    def predict_stream(self, context, model_input, params=None):
        asked.clear()
        yield "one"
        yield "two" if asked.wait(120) else "nobody has asked"
mlflow.models.set_model(Pieces())
"""


def model_in_pieces(folder: Path) -> Path:
    """Save the model, and return its folder."""
    code = folder / "pieces.py"
    code.write_text(_CODE)
    schema = Schema([ColSpec(DataType.double, "x")])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's advice on type hints and examples
        mlflow.pyfunc.save_model(
            str(folder / "pieces"), python_model=str(code), pip_requirements=["mlflow-skinny"],
            signature=ModelSignature(inputs=schema),
        )  # fmt: skip
    return folder / "pieces"


@pytest.fixture(scope="module")
def guarded(serving: Served) -> Iterator[str]:
    """An endpoint over a deployment that asks for a token."""
    made = serving.client
    path = str(model_in_pieces(serving.models))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GUARD_TOKEN", TOKEN)
        token = json.dumps({"env": "GUARD_TOKEN"})
        # One worker, so that both requests meet the same model.
        made.create_deployment("guard-1", path, config={**serving.of_deployments, "token": token})
    made.create_endpoint("guarded", {**serving.of_endpoints, "weights": {"guard-1": 1}})
    yield "guarded"
    made.delete_endpoint("guarded")
    made.delete_deployment("guard-1")


def router(served: K8sDeployments, name: str) -> closing[http.client.HTTPConnection]:
    """Return a connection to the router of an endpoint, at its pod's own address."""
    [pod] = served.ready_pods(name)
    with served.cluster.api_client() as api:
        found = client.CoreV1Api(api).read_namespaced_pod(pod, served.namespace)
    return closing(http.client.HTTPConnection(found.status.pod_ip, 8080, timeout=40))


def test_a_token_is_asked_for_by_the_deployment_and_passed_on_by_the_router(
    serving: Served, served: K8sDeployments, guarded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    status, body = served.ask_once(guarded)()
    assert status == 401, body
    status, body = served.ask_once(guarded, {"X-Mlflow-Exec-Token": TOKEN})()
    assert (status, json.loads(body)) == (200, {"predictions": [3]})
    with router(served, guarded) as direct:
        direct.request("POST", "/invocations", BODY, {**JSON, **BEARER})
        assert json.loads(direct.getresponse().read()) == {"predictions": [3]}
    with pytest.raises(MlflowException, match="401"):
        serving.client.predict(endpoint=guarded, inputs=ROW)
    monkeypatch.setenv(TOKEN_VARIABLE, TOKEN)
    assert serving.client.predict(endpoint=guarded, inputs=ROW) == {"predictions": [3]}


def test_an_endpoint_has_no_token_of_its_own(serving: Served, guarded: str) -> None:
    before = serving.client.get_endpoint(guarded)["revision"]
    token = {"token": json.dumps({"env": "GUARD_TOKEN"})}
    with pytest.raises(MlflowException, match=r"token: it is of models, .*give it to the depl"):
        serving.client.update_endpoint(guarded, token)
    assert serving.client.get_endpoint(guarded)["revision"] == before


def test_pieces_of_an_answer_come_as_they_are_made(served: K8sDeployments, guarded: str) -> None:
    events = {**JSON, **BEARER, "Accept": "text/event-stream"}
    with router(served, guarded) as stream, router(served, guarded) as other:
        stream.request("POST", "/invocations", BODY, events)
        with stream.getresponse() as answer:
            assert (answer.status, answer.getheader("content-type")) == (200, "text/event-stream")
            assert answer.readline() == b'data: "one"\n'
            other.request("POST", "/invocations", BODY, {**JSON, **BEARER})
            assert json.loads(other.getresponse().read()) == {"predictions": [3]}
            assert answer.read().split(b"\n\n")[0].strip() == b'data: "two"'

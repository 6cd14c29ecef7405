"""The deployment plugins as MLflow loads and calls them."""

from __future__ import annotations

import inspect
import io
import json
import warnings

import pandas as pd
import pytest
from mlflow.deployments import BaseDeploymentClient, get_deploy_client
from mlflow.exceptions import MlflowException
from mlflow.utils.proto_json_utils import NumpyEncoder

from mlflow_exec.errors import ConfigError
from mlflow_exec.plugins import deploy_k8s, deploy_ray_serve
from mlflow_exec.plugins.deployments import request_body, target_help
from mlflow_exec.settings import RayServeSettings, cast_options, known_keys, parse_settings


@pytest.mark.parametrize("plugin", [deploy_k8s, deploy_ray_serve])
def test_a_plugin_has_exactly_one_client(plugin: object) -> None:
    classes = [
        member
        for _, member in inspect.getmembers(plugin, inspect.isclass)
        if issubclass(member, BaseDeploymentClient)
    ]
    assert len(classes) == 1


def test_the_client_is_made_without_asking_anybody() -> None:
    client = get_deploy_client("ray-serve://192.0.2.1:8265")
    assert type(client).__name__ == "RayServeDeployments"


def test_the_help_tells_every_setting() -> None:
    text = target_help("ray-serve")
    for key in known_keys(RayServeSettings):
        assert f"\n  {key}" in text


def test_mlflows_command_line_reads_a_body_as_a_frame_and_it_is_unwrapped() -> None:
    split = '{"dataframe_split": {"columns": ["a"], "data": [[1], [2]]}}'
    assert request_body(pd.read_json(io.StringIO(split))) == {
        "dataframe_split": {"columns": ["a"], "data": [[1], [2]]}
    }
    records = '{"dataframe_records": [{"a": 1}, {"a": 2}]}'
    assert request_body(pd.read_json(io.StringIO(records))) == {
        "dataframe_records": [{"a": 1}, {"a": 2}]
    }
    inputs = '{"inputs": [[1, 2], [3, 4]]}'
    assert request_body(pd.read_json(io.StringIO(inputs))) == {"inputs": [[1, 2], [3, 4]]}


def test_a_frame_is_sent_as_one() -> None:
    sent = request_body(pd.DataFrame({"a": [1.5], "b": ["x"]}))
    assert sent == {"dataframe_split": {"columns": ["a", "b"], "data": [[1.5, "x"]]}}
    named = request_body(pd.DataFrame({"a": [1.5]}, index=["r"]))
    assert named == {"dataframe_split": {"columns": ["a"], "index": ["r"], "data": [[1.5]]}}
    assert request_body([[1.0]]) == {"inputs": [[1.0]]}
    assert request_body({"inputs": [1]}) == {"inputs": [1]}


def test_a_frame_keeps_its_digits_and_dates() -> None:
    frame = pd.DataFrame({"a": [1e-12], "b": pd.to_datetime(["2024-05-06T07:08:09"])})
    sent = json.loads(json.dumps(request_body(frame), cls=NumpyEncoder))["dataframe_split"]
    assert sent["data"] == [[1e-12, "2024-05-06T07:08:09"]]


@pytest.mark.parametrize("key", ["token.file", "secrets", "env.A", "requirements", "num_replicas"])
def test_what_has_no_effect_on_this_machine_is_refused(key: str) -> None:
    with pytest.raises(MlflowException, match=f"{key.split('.')[0]}: it has no effect"):
        deploy_ray_serve.run_local("iris", "/none", config={key: "1"})


def test_options_are_cast_by_their_settings() -> None:
    given = cast_options(
        {"num_replicas": "2", "resources.cpu": "500m", "env.A": "1", "warmup": "false",
         "requirements": '["boto3"]', "max_replicas": "null", "batch.max_rows": "32"}, "-C",
    )  # fmt: skip
    settings = parse_settings(RayServeSettings, given, "-C")
    assert (settings.num_replicas, settings.resources.cpu, settings.env) == (2, 0.5, {"A": "1"})
    assert (settings.warmup, settings.requirements) == (False, ["boto3"])
    assert (settings.max_replicas, settings.batch.max_rows) == (None, 32)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"num_replica": "2"}, r"unknown setting 'num_replica' \(did you mean 'num_replicas'\?\)"),
        ({"num_replicas": "two"}, "-C: num_replicas: .*given \"two\""),
        ({"requirements": "[1,"}, "-C: requirements: not valid JSON"),
        ({"resources.cpus": "2"}, r"resources.cpus' \(did you mean 'cpu'"),
        ({"resources": "{}", "resources.cpu": "2", "resources.cpu.x": "1"}, "given twice"),
    ],
)
def test_a_wrong_option_is_one_sentence(options: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        parse_settings(RayServeSettings, cast_options(options, "-C"), "-C")


def test_calls_that_cannot_be_honoured_are_refused() -> None:
    client = get_deploy_client("ray-serve://192.0.2.1:8265")
    with pytest.raises(MlflowException, match="python_function"):
        client.create_deployment("iris", "models:/x", flavor="sklearn")
    with pytest.raises(MlflowException, match="small letters"):
        client.create_deployment("iris", "models:/x", endpoint="E")
    with pytest.raises(MlflowException, match="exactly one of them is needed"):
        client.predict("iris", [1], endpoint="e")
    with pytest.raises(MlflowException, match="small letters"):
        client.create_deployment("Iris_1", "models:/x")
    with pytest.raises(MlflowException, match="small letters"):
        client.delete_deployment("")
    with pytest.raises(MlflowException, match="small letters"):
        client.get_deployment("")


def test_mlflows_create_endpoint_is_still_broken() -> None:
    """Where this fails MLflow has mended it, and endpoints can be made by its command line."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.deployments.cli import create_endpoint
    passed = {parameter.name for parameter in create_endpoint.params}
    assert passed - set(inspect.signature(create_endpoint.callback).parameters) == {"endpoint"}

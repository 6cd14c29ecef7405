"""A release as an application of Ray Serve."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from mlflow_exec.errors import ConfigError, MlflowExecError
from mlflow_exec.releases import Revision
from mlflow_exec.settings import RayServeSettings
from mlflow_exec.targets.base import ReleasePlan
from mlflow_exec.targets.ray_serve import RayServeTarget
from mlflow_exec.targets.ray_serve.plan import IMPORT_PATH, make_plan, requirements
from tests.unit.releases import model, packaged, release


def plan(number: int = 1, **given: Any) -> ReleasePlan:
    asked = release(RayServeSettings, number, **given)
    assert isinstance(asked.settings, RayServeSettings)
    return make_plan(asked, asked.settings)


def application(**given: Any) -> Any:
    (only,) = plan(**given).revision.objects
    return only


def test_an_application_is_what_serve_takes() -> None:
    serve = pytest.importorskip("ray.serve.schema")
    sent = application(num_replicas=2, max_ongoing_requests=7, resources={"cpu": 2, "gpu": 1})
    schema = serve.ServeApplicationSchema.model_validate(sent)
    (deployment,) = schema.deployments
    assert (schema.name, schema.route_prefix, schema.import_path) == ("iris", "/iris", IMPORT_PATH)
    assert (deployment.num_replicas, deployment.max_ongoing_requests) == (2, 7)
    assert deployment.ray_actor_options.num_cpus == 2
    assert deployment.ray_actor_options.num_gpus == 1
    known = set(serve.DeploymentSchema.model_fields)
    assert set(sent["deployments"][0]) <= known, "Serve passes over what it does not know"
    assert set(sent) <= set(serve.ServeApplicationSchema.model_fields)


def test_an_update_surges_and_scaling_is_by_load_where_asked() -> None:
    assert application()["deployments"][0]["max_surge_percent"] == 100
    scaled = application(num_replicas=2, max_replicas=5)["deployments"][0]
    assert "num_replicas" not in scaled
    assert scaled["autoscaling_config"]["min_replicas"] == 2
    assert scaled["autoscaling_config"]["max_replicas"] == 5


def test_a_patch_is_merged_into_the_one_deployment() -> None:
    change = {"name": "Model", "health_check_period_s": 5}
    deployment = application(num_replicas=2, patch={"deployments": [change]})["deployments"][0]
    assert (deployment["num_replicas"], deployment["health_check_period_s"]) == (2, 5)


def test_what_a_replica_has_begun_may_take_as_long_as_a_request() -> None:
    deployment = application(request_timeout_s=100, drain_s=20)["deployments"][0]
    assert deployment["graceful_shutdown_timeout_s"] == 120


def test_batches_can_fill() -> None:
    deployment = application(batch={"max_rows": 128})["deployments"][0]
    assert deployment["max_ongoing_requests"] >= 128


def test_the_model_is_pinned_and_where_it_comes_from_is_told() -> None:
    sent = application()
    assert sent["args"]["model"] == {"uri": "models:/iris/3"}
    assert sent["runtime_env"]["env_vars"] == {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}
    assert sent["args"]["python"] == "3.11"
    assert application(any_python=True)["args"]["python"] == ""


def test_our_code_travels_along_and_the_same_code_is_the_same_package() -> None:
    first, second = plan(), plan(num_replicas=3)
    assert first.data == second.data
    (name,) = first.data
    assert first.revision.objects[0]["runtime_env"]["py_modules"] == [f"gcs://{name}"]
    names = zipfile.ZipFile(io.BytesIO(first.data[name])).namelist()
    assert {"mlflow_exec/__init__.py", "mlflow_exec/scoring/ray_serve.py"} <= set(names)
    assert not [n for n in names if n.startswith(("mlflow_exec/clients", "mlflow_exec/runs"))]


def test_a_model_of_this_machine_travels_along(tmp_path: Path) -> None:
    asked = release(RayServeSettings, of=packaged(tmp_path))
    assert isinstance(asked.settings, RayServeSettings)
    made = make_plan(asked, asked.settings)
    (sent,) = made.revision.objects
    folder = sent["args"]["model"]["folder"]
    packages = [zipfile.ZipFile(io.BytesIO(content)).namelist() for content in made.data.values()]
    assert [f"{folder}/MLmodel"] in packages


def test_requirements_are_the_models_without_ray() -> None:
    lines = ["ray[serve]==2.9", "Ray-Tools", "scikit_learn==1.7 # pinned", "", "# note",
             "--extra-index-url https://example.org/simple"]  # fmt: skip
    found, options = requirements(lines, ["scikit-learn==1.8", "boto3"])
    assert "scikit-learn==1.8" in found
    assert "scikit_learn==1.7" not in found
    assert {"Ray-Tools", "boto3"} <= set(found)
    assert not [line for line in found if line.lower().startswith("ray[")]
    assert options == ["--extra-index-url", "https://example.org/simple"]
    with pytest.raises(ConfigError, match="names a file"):
        requirements(["-r other.txt"], [])


def test_lines_of_one_package_stay_together() -> None:
    lines = ["numpy==1.26; python_version < '3.12'", "numpy==2.1; python_version >= '3.12'"]
    assert requirements(lines, [])[0][-2:] == lines
    assert [line for line in requirements(lines, ["numpy==2.2"])[0] if "numpy" in line] == [
        "numpy==2.2"
    ]


def test_secrets_travel_as_references() -> None:
    sent = application(secrets={"HF_TOKEN": {"node_env": "HF"}}, token={"file": "/run/token"})
    assert sent["args"]["secrets"] == {"HF_TOKEN": {"env": "HF", "file": None}}
    assert sent["args"]["scoring"]["token_file"] == "/run/token"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"env": {"HF_TOKEN": "x"}}, "secret"),
        ({"env": {"A": "x$y"}}, r"Ray replaces what follows a '\$'"),
        ({"environment": "local", "requirements": ["x"]}, "nothing is installed"),
        ({"patch": {"name": "other"}}, "name must stay"),
        ({"patch": {"runtime_env": {"env_vars": {"API_KEY": "v"}}}}, "secret"),
        ({"patch": {"deployments": [{"name": "Other"}]}}, "'Model', is needed"),
        ({"patch": {"deployments": [{"name": "Model", "ray_actor_options": {"runtime_env": {
            "env_vars": {"HF_TOKEN": "hf"}}}}]}}, "HF_TOKEN.*secret"),
        ({"requirements": ["x @ https://me:pw@example.org/x.whl"]}, "credentials"),
        ({"route_prefix": "iris"}, "begins with '/'"),
        ({"num_replicas": 3, "max_replicas": 2}, "at least num_replicas"),
    ],
)
def test_what_cannot_be_honoured_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(MlflowExecError, match=says):
        plan(**given)


def test_a_revision_can_be_read_back() -> None:
    made = plan(4, num_replicas=2).revision
    assert Revision.from_json(made.to_json()) == made
    assert Revision.from_data(json.loads(made.to_json()) | {"later": 1}) == made
    with pytest.raises(ValueError, match="not a revision"):
        Revision.from_data({"name": "x"})


def test_going_back_sends_what_was_sent() -> None:
    made = plan(4).revision
    settings = RayServeSettings.model_validate({})
    again = RayServeTarget(settings, "ray-serve").repeat(made, 6, "later").revision
    assert (again.number, again.rolled_back_to, again.objects) == (6, 4, made.objects)


@pytest.mark.parametrize(
    "uri", ["ray-serve:", "ray-serve://", "ray-serve:///x", "ray://h", "ray-serve://h?x=1"]
)
def test_a_uri_that_names_no_dashboard_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="'ray-serve://host:8265'"):
        RayServeTarget(RayServeSettings.model_validate({}), uri)


def test_a_uri_names_the_dashboard() -> None:
    settings = RayServeSettings.model_validate({})
    assert RayServeTarget(settings, "ray-serve://h:8265").address == "http://h:8265"
    assert RayServeTarget(settings, "ray-serve+https://h/p/").address == "https://h/p"
    assert model().uri == "models:/iris@champion"

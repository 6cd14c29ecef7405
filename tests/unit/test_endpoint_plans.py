"""What an endpoint becomes on each target: a router, and routes that are no part of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlflow_exec.errors import ConfigError
from mlflow_exec.releases import EndpointRelease, Revision
from mlflow_exec.runs.endpoints import place
from mlflow_exec.scoring.routes import Routes
from mlflow_exec.settings import KubernetesTargetSettings, RayServeSettings, Routing
from mlflow_exec.targets.base import ReleasePlan
from mlflow_exec.targets.kubernetes.gateway import route_values
from mlflow_exec.targets.kubernetes.plan import is_kept, make_endpoint_plan, repeated, routes_number
from mlflow_exec.targets.ray_serve.plan import make_endpoint_plan as make_ray_plan

WEIGHTS = {"iris-1": 90.0, "iris-2": 10.0}


def release(settings: Any, number: int = 1, **routes: Any) -> EndpointRelease:
    routing = Routing(**{"weights": WEIGHTS, **routes})
    return EndpointRelease("iris", number, routing, settings, {}, "2026-01-01T00:00:00Z")


def on_kubernetes(number: int = 1, given: Any = None, **routes: Any) -> ReleasePlan:
    settings = KubernetesTargetSettings(**(given or {}))
    return make_endpoint_plan(release(settings, number, **routes), settings, "team")


def on_ray(number: int = 1, given: Any = None, **routes: Any) -> ReleasePlan:
    settings = RayServeSettings(**(given or {}))
    return make_ray_plan(release(settings, number, **routes), settings)


@pytest.mark.parametrize("plan", [on_kubernetes, on_ray])
def test_the_revision_has_the_routes_and_comes_back_from_json(plan: Any) -> None:
    revision = plan(3, shadows={"iris-3": 5}, sticky_header="X-User").revision
    assert revision.routes == {
        "weights": WEIGHTS, "shadows": {"iris-3": 5.0}, "sticky_header": "X-User",
    }  # fmt: skip
    assert Revision.from_json(revision.to_json()) == revision


def test_on_ray_routes_change_nothing_of_the_application() -> None:
    one, two = on_ray(1), on_ray(2, weights={"iris-2": 1})
    assert one.revision.objects == two.revision.objects
    [application] = one.revision.objects
    assert application["import_path"] == "mlflow_exec.scoring.ray_router:build"
    [deployment] = application["deployments"]
    assert deployment["ray_actor_options"] == {"num_cpus": 0}
    assert "uv" not in application["runtime_env"], "it needs nothing but Ray"


def test_on_kubernetes_routes_change_only_what_pods_read_while_they_run() -> None:
    one, two = on_kubernetes(1), on_kubernetes(2, weights={"iris-2": 1})
    pods = [plan.revision.objects[0]["spec"]["template"]["spec"] for plan in (one, two)]
    assert pods[0] == pods[1]
    [routes] = [o for o in two.revision.objects if o["kind"] == "ConfigMap" and not is_kept(o)]
    found = Routes.from_data(json.loads(routes["data"]["routes.json"]))
    assert found == Routes(2, {"iris-2": 1.0})
    assert routes_number(two.revision) == 2
    assert routes_number(repeated(one.revision, 3, "").revision) == 1


@pytest.mark.parametrize(
    ("weights", "whole"),
    [
        ({"a": 90, "b": 10}, {"a": 90, "b": 10}),
        ({"a": 99.5, "b": 0.5}, {"a": 199, "b": 1}),
        ({"a": 1 / 3, "b": 2 / 3}, {"a": 1, "b": 2}),
        ({"a": 3e6, "b": 1e6, "c": 0}, {"a": 1_000_000, "b": 333_333, "c": 0}),
    ],
)
def test_a_gateway_gets_whole_weights_in_the_same_proportion(
    weights: dict[str, float], whole: dict[str, int]
) -> None:
    settings = KubernetesTargetSettings(gateway={"name": "public"})
    values = route_values("iris", settings, Routing(weights=weights))
    [rule] = values["route_rules"]
    assert {b["name"]: b["weight"] for b in rule["backendRefs"]} == whole


@pytest.mark.parametrize("uri", ["k8s", "ray-serve"])
@pytest.mark.parametrize("key", ["batch.max_rows", "token", "model_source", "requirements"])
def test_settings_of_models_are_refused(uri: str, key: str) -> None:
    value = {"token": '{"file": "/run/token"}', "requirements": '["x"]', "model_source": "package"}
    with pytest.raises(ConfigError, match=f"{key.split('.')[0]}: it is of models"):
        place(uri, {key: value.get(key, "5")})

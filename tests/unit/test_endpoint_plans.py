"""What an endpoint becomes on each target: a router, and routes that are no part of it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import pytest

from mlflow_exec.errors import ConfigError, UnreachableError
from mlflow_exec.releases import EndpointRelease, Revision, Rollout, RolloutState
from mlflow_exec.runs.endpoints import place
from mlflow_exec.scoring.routes import Routes
from mlflow_exec.settings import KubernetesTargetSettings, RayServeSettings, Routing
from mlflow_exec.targets.base import ReleasePlan
from mlflow_exec.targets.kubernetes.gateway import route_values
from mlflow_exec.targets.kubernetes.plan import is_kept, make_endpoint_plan, repeated, routes_number
from mlflow_exec.targets.kubernetes.routers import with_routes
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
        ({"a": 0.0003, "b": 0.0001}, {"a": 3, "b": 1}),
        ({"a": 1 / 3, "b": 2 / 3}, {"a": 500_000, "b": 1_000_000}),
        ({"a": 1e6, "b": 1e-9, "c": 0}, {"a": 1_000_000, "b": 1, "c": 0}),
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


class Routers:
    """In a cluster's place: answers for routers, or does not."""

    def __init__(self, answers: dict[str, tuple[int, str]]) -> None:
        self.answers = answers
        self.asked: list[str] = []

    def exchange(self, method: str, path: str, *_: Any, **__: Any) -> Any:
        pod = unquote(path).split("/pods/")[1].split(":")[0]
        self.asked.append(pod)
        status, body = self.answers[pod]
        if status == 0:
            raise UnreachableError(body)
        return SimpleNamespace(status=status, data=body.encode())


READY = {"type": "Ready", "status": "True"}
PODS = [
    {"metadata": {"name": "one"}, "status": {"conditions": [READY]}},
    {"metadata": {"name": "starts"}, "status": {"conditions": [{**READY, "status": "False"}]}},
    {"metadata": {"name": "goes", "deletionTimestamp": "now"}, "status": {"conditions": [READY]}},
]


@pytest.mark.parametrize("patient", [True, False])
@pytest.mark.parametrize(
    ("answer", "state", "asked"),
    [
        ((200, '{"number": 2}'), RolloutState.READY, 2),
        ((200, '{"number": 1}'), RolloutState.DEPLOYING, 2),
        ((403, "forbidden"), RolloutState.READY, 1),
        ((200, "somebody else's"), RolloutState.READY, 1),
    ],
)
def test_routers_that_may_not_be_asked_are_not_waited_for(
    answer: tuple[int, str], state: RolloutState, asked: int, patient: bool
) -> None:
    rollout = Rollout("iris", RolloutState.READY, on_kubernetes(2).revision, replicas=1)
    client: Any = Routers({"one": answer})
    unreachable = set[str]()
    for _ in range(2):
        seen = with_routes(client, "team", rollout, PODS, unreachable, patient=patient)
        assert seen.state is state
    assert client.asked == ["one"] * asked
    assert unreachable == (set() if asked == 2 else {"one"})


@pytest.mark.parametrize("silent", [(503, "no way leads there"), (0, "timed out")])
def test_routers_that_do_not_answer_are_waited_for_a_while(silent: tuple[int, str]) -> None:
    rollout = Rollout("iris", RolloutState.READY, on_kubernetes(2).revision, replicas=1)
    client: Any = Routers({"one": silent})
    unreachable = set[str]()
    waits = with_routes(client, "team", rollout, PODS, unreachable, patient=True)
    assert (waits.state, unreachable) == (RolloutState.DEPLOYING, set())
    assert waits.message == "1 of 1 routers have not confirmed the new routes yet"
    for _ in range(2):
        given_up = with_routes(client, "team", rollout, PODS, unreachable)
        assert given_up.state is RolloutState.READY
    assert unreachable == {"one"}
    assert client.asked == ["one"] * 4

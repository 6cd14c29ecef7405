"""Endpoints on a real Kubernetes, where our router has pods of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client
from mlflow.exceptions import MlflowException

from mlflow_exec.testing.collecting import until
from mlflow_exec.testing.endpoints import EndpointConformance, answers
from mlflow_exec.testing.served import Served
from tests.clusters.kubernetes.gateway_api import install_http_routes, remove_http_routes
from tests.mlflow.k8s_deployments import K8sDeployments


class TestEndpointsOnKubernetes(EndpointConformance):
    def test_each_of_several_routers_hears_of_new_routes(
        self, serving: Served, wine: dict[str, Any]
    ) -> None:
        deployments = serving.client
        deployments.update_endpoint("wine", {"num_replicas": 2})
        routers = serving.replicas("wine")
        assert len(routers) == 2
        for answer in (1, 2, 1):
            weights = {"wine-1": 0, "wine-2": 0, f"wine-{answer}": 1}
            deployments.update_endpoint("wine", {"weights": weights})
            assert answers(serving, "wine", 20) == [answer] * 20
        assert serving.replicas("wine") == routers


@pytest.fixture
def http_routes(served: K8sDeployments) -> Iterator[client.CustomObjectsApi]:
    with served.cluster.api_client() as api:
        install_http_routes(api)
        yield client.CustomObjectsApi(api)
        remove_http_routes(api)


def test_a_cluster_without_the_gateway_api_says_so(
    serving: Served, served: K8sDeployments
) -> None:
    path = serving.model(9)
    gateway = {**serving.of_deployments, "gateway": {"name": "public"}}
    with pytest.raises(MlflowException, match=r"has no HTTPRoutes .*; have the Gateway API"):
        serving.client.create_deployment("tea-5", path, config=gateway)
    assert served.everything("tea-5") == []


def test_a_gateway_gets_a_route_that_splits_by_the_weights_and_goes_with_the_setting(
    serving: Served, served: K8sDeployments, http_routes: client.CustomObjectsApi
) -> None:
    deployments = serving.client

    def route(name: str) -> Any:
        found = http_routes.list_namespaced_custom_object(
            "gateway.networking.k8s.io", "v1", served.namespace, "httproutes"
        )
        specs = [item["spec"] for item in found["items"] if item["metadata"]["name"] == name]
        return specs[0] if specs else None

    gateway = {"name": "public", "namespace": "edge", "hostnames": ["tea.example.org"]}
    for answer in (5, 6):
        path = serving.model(answer)
        config = {**serving.of_deployments, "gateway": gateway if answer == 5 else None}
        given = {key: value for key, value in config.items() if value is not None}
        deployments.create_deployment(f"tea-{answer}", path, config=given)
    spec = route("tea-5")
    assert (spec["parentRefs"][0]["name"], spec["hostnames"]) == ("public", ["tea.example.org"])
    assert [b["name"] for b in spec["rules"][0]["backendRefs"]] == ["tea-5"]
    deployments.update_deployment("tea-5", config={"gateway": "null"})
    assert route("tea-5") is None

    weights = {"tea-5": 99.5, "tea-6": 0.5}
    routes = {"weights": weights, "gateway": gateway}
    deployments.create_endpoint("tea", {**serving.of_endpoints, **routes})
    backends = {b["name"]: b["weight"] for b in route("tea")["rules"][0]["backendRefs"]}
    assert backends == {"tea-5": 199, "tea-6": 1}
    deployments.update_endpoint("tea", {"weights": {"tea-5": 1, "tea-6": 0}, "shadows": {
        "tea-6": 12.5}})  # fmt: skip
    [rule] = route("tea")["rules"]
    assert {b["name"]: b["weight"] for b in rule["backendRefs"]} == {"tea-5": 1, "tea-6": 0}
    mirror = rule["filters"][0]["requestMirror"]
    assert mirror["backendRef"]["name"] == "tea-6"
    assert mirror["fraction"] == {"numerator": 12500, "denominator": 100_000}
    deployments.update_endpoint("tea", {"sticky_header": "X-User"})
    assert [b["name"] for b in route("tea")["rules"][0]["backendRefs"]] == ["tea"]
    deployments.delete_endpoint("tea")
    until(lambda: route("tea") is None, "the route goes with the endpoint")
    for name in ("tea-5", "tea-6"):
        deployments.delete_deployment(name)

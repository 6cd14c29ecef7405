"""The kinds of the Gateway API, without anything that acts on them."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from kubernetes import client

from mlflow_exec.testing.collecting import until
from tests.clusters.kubernetes.build import go

# Kueue asks for a version of it.
_MODULE = Path(__file__).parents[1] / "kueue"
_NAME = "sigs.k8s.io/gateway-api"
_KIND = "httproutes.gateway.networking.k8s.io"


def install_http_routes(api: client.ApiClient) -> None:
    """Let the cluster know HTTPRoutes, and check them as the Gateway API does."""
    folder = json.loads(go("mod", "download", "-json", _NAME, module=_MODULE))["Dir"]
    file = Path(folder) / "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"
    extensions = client.ApiextensionsV1Api(api)
    extensions.create_custom_resource_definition(yaml.safe_load(file.read_text()))

    def established() -> bool:
        conditions = extensions.read_custom_resource_definition(_KIND).status.conditions or ()
        return any(c.type == "Established" and c.status == "True" for c in conditions)

    until(established, "HTTPRoutes are known")


def remove_http_routes(api: client.ApiClient) -> None:
    """Let the cluster forget them."""
    client.ApiextensionsV1Api(api).delete_custom_resource_definition(_KIND)

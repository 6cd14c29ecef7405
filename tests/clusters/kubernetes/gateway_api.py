"""The kinds of the Gateway API, without anything that acts on them."""

from __future__ import annotations

import json
from pathlib import Path

import yaml
from kubernetes import client

from tests.clusters.kubernetes.build import go
from tests.clusters.kubernetes.custom_kinds import install

# Kueue asks for a version of it.
_MODULE = Path(__file__).parents[1] / "kueue"
_NAME = "sigs.k8s.io/gateway-api"
_KIND = "httproutes.gateway.networking.k8s.io"


def install_http_routes(api: client.ApiClient) -> None:
    """Let the cluster know HTTPRoutes, and check them as the Gateway API does."""
    folder = json.loads(go("mod", "download", "-json", _NAME, module=_MODULE))["Dir"]
    file = Path(folder) / "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"
    install(api, yaml.safe_load(file.read_text()))


def remove_http_routes(api: client.ApiClient) -> None:
    """Let the cluster forget them."""
    client.ApiextensionsV1Api(api).delete_custom_resource_definition(_KIND)

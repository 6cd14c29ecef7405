"""Patches merge as the API server's own strategic merge does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kubernetes import client

from mlflow_exec.templates import merge
from tests.clusters.pytest_kubernetes import KubernetesCluster

BASE: dict[str, Any] = {
    "metadata": {"labels": {"a": "1", "b": "2"}},
    "spec": {
        "restartPolicy": "Never",
        "nodeSelector": {"disk": "ssd"},
        "imagePullSecrets": [{"name": "one"}],
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "initContainers": [{"name": "source", "image": "git"}],
        "containers": [
            {
                "name": "job",
                "image": "python",
                "command": ["python3", "entry.py"],
                "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
                "resources": {"limits": {"memory": "1Gi"}, "requests": {"cpu": "1"}},
                "volumeMounts": [{"name": "files", "mountPath": "/files"}],
                "ports": [{"containerPort": 80, "name": "http"}],
            },
            {"name": "side", "image": "side"},
        ],
        "volumes": [{"name": "files", "emptyDir": {}}],
    },
}


def container(**fields: Any) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": "job", **fields}]}}


PATCHES: dict[str, dict[str, Any]] = {
    "a label": {"metadata": {"labels": {"b": "3", "c": "4"}}},
    "a label is deleted": {"metadata": {"labels": {"a": None}}},
    "an image": container(image="other"),
    "a command": container(command=["sh"]),
    "variables": container(env=[{"name": "B", "value": "3"}, {"name": "C", "value": "4"}]),
    "a variable is deleted": container(env=[{"name": "A", "$patch": "delete"}]),
    "all variables are replaced": container(env=[{"$patch": "replace"}, {"name": "Z"}]),
    "a limit": container(resources={"limits": {"nvidia.com/gpu": "1"}}),
    "no limits": container(resources={"limits": None}),
    "a mount": container(volumeMounts=[{"name": "files", "mountPath": "/other"}]),
    "a mount is changed": container(
        volumeMounts=[{"name": "files", "mountPath": "/files", "readOnly": True}]
    ),
    "a port": container(ports=[{"containerPort": 81}]),
    "a sidecar": {"spec": {"containers": [{"name": "new", "image": "new"}]}},
    "a sidecar goes": {"spec": {"containers": [{"name": "side", "$patch": "delete"}]}},
    "an init container": {"spec": {"initContainers": [{"name": "source", "image": "other"}]}},
    "a volume": {"spec": {"volumes": [{"name": "more", "emptyDir": {}}]}},
    "pull secrets": {"spec": {"imagePullSecrets": [{"name": "two"}]}},
    "tolerations": {"spec": {"tolerations": [{"key": "b", "operator": "Exists"}]}},
    "a selector": {"spec": {"nodeSelector": {"zone": "x"}}},
    "a selector is replaced": {"spec": {"nodeSelector": {"$patch": "replace", "zone": "x"}}},
    "an affinity": {"spec": {"affinity": {"nodeAffinity": {}}}},
    "host aliases": {"spec": {"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["a"]}]}},
}


@pytest.fixture(scope="module")
def on_server(
    kubernetes_cluster: KubernetesCluster,
) -> Callable[[dict[str, Any]], tuple[Any, Any]]:
    """Return what the server makes of the base with a patch, and with our merge of it."""

    def both(patch: dict[str, Any]) -> tuple[Any, Any]:
        with kubernetes_cluster.api_client() as api:
            core = client.CoreV1Api(api)
            name = {"metadata": {"generateName": "merge-"}}
            made = core.create_namespaced_pod_template("default", {**name, "template": BASE})
            try:
                api.set_default_header("Content-Type", "application/strategic-merge-patch+json")
                theirs = core.patch_namespaced_pod_template(
                    made.metadata.name, "default", {"template": patch}, dry_run="All"
                )
            finally:
                core.delete_namespaced_pod_template(made.metadata.name, "default")
        with kubernetes_cluster.api_client() as api:
            ours = client.CoreV1Api(api).create_namespaced_pod_template(
                "default", {**name, "template": merge(BASE, patch)}, dry_run="All"
            )
        return theirs.template.to_dict(), ours.template.to_dict()

    return both


@pytest.mark.parametrize("case", PATCHES)
def test_a_patch(on_server: Callable[[dict[str, Any]], tuple[Any, Any]], case: str) -> None:
    theirs, ours = on_server(PATCHES[case])
    assert in_order(ours) == in_order(theirs)


def in_order(value: Any) -> Any:
    """Return a value with its lists of objects sorted: the order of named ones says nothing."""
    if isinstance(value, dict):
        return {key: in_order(item) for key, item in value.items()}
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return sorted((in_order(item) for item in value), key=repr)
    return value

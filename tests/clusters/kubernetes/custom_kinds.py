"""Custom kinds that a cluster is to know."""

from __future__ import annotations

import contextlib
from typing import Any

from kubernetes import client

from mlflow_exec.testing.collecting import until


def install(api: client.ApiClient, definition: dict[str, Any]) -> None:
    """Let the cluster know a kind; returns when its objects can be asked for and it is listed.

    Args:
        api: As the cluster's administrator.
        definition: A CustomResourceDefinition.
    """
    client.ApiextensionsV1Api(api).create_custom_resource_definition(definition)
    spec, objects = definition["spec"], client.CustomObjectsApi(api)
    plural = spec["names"]["plural"]
    served = [version["name"] for version in spec["versions"] if version["served"]]

    def is_known() -> bool:
        with contextlib.suppress(client.ApiException):  # a moment after it is established, too
            for version in served:
                listed = objects.get_api_resources(spec["group"], version).resources
                if plural not in {resource.name for resource in listed}:
                    return False
                objects.list_cluster_custom_object(spec["group"], version, plural, limit=1)
            return True
        return False

    until(is_known, f"{spec['names']['kind']} is known")

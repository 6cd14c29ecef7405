"""Rights that have been given a moment ago."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kubernetes import client

from mlflow_exec.testing.collecting import until


def await_right(
    api: client.ApiClient, namespace: str, account: str, rule: Mapping[str, Any]
) -> None:
    """Wait until whoever decides has heard that a service account has what a rule gives it.

    Args:
        api: As the cluster's administrator.
        namespace: Of the account, and of the rule.
        account: Its name.
        rule: Of the role that is bound to it.
    """
    resource, _, part = rule["resources"][0].partition("/")
    asked = {
        "user": f"system:serviceaccount:{namespace}:{account}",
        "resourceAttributes": {
            "namespace": namespace, "verb": rule["verbs"][0], "group": rule["apiGroups"][0],
            "resource": resource, "subresource": part,
            **({"name": names[0]} if (names := rule.get("resourceNames")) else {}),
        },
    }  # fmt: skip
    reviews = client.AuthorizationV1Api(api)
    until(
        lambda: reviews.create_subject_access_review({"spec": asked}).status.allowed,
        f"{account} may {rule['verbs'][0]} {rule['resources'][0]}",
    )

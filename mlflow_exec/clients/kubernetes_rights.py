"""Which rights in a namespace the credentials have."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlflow_exec.clients.kubernetes import KubernetesClient

Rights = Sequence[tuple[str, str, str, tuple[str, ...]]]
"""The verbs that are used: group, resource, subresource, verbs."""

_AUTHORIZATION = "/apis/authorization.k8s.io/v1"


def missing_rights(
    client: KubernetesClient, namespace: str, rights: Rights
) -> Iterator[str]:
    """Yield the rights that the credentials lack, such as ``create jobs``.

    One request where the rules of the credentials tell all; what they do not grant is asked one
    by one, because authorizers outside of the cluster know more than its rules.

    Raises:
        ClusterError: The cluster cannot be asked.
    """
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    answer = client.request("POST", f"{_AUTHORIZATION}/selfsubjectrulesreviews", body=body)
    rules = answer["status"].get("resourceRules") or []
    for group, resource, sub, verbs in rights:
        full = f"{resource}/{sub}" if sub else resource
        for verb in verbs:
            granted = any(
                {verb, "*"} & set(rule.get("verbs") or ())
                and {group, "*"} & set(rule.get("apiGroups") or ())
                and {full, "*"} & set(rule.get("resources") or ())
                and not rule.get("resourceNames")
                for rule in rules
            )
            if not granted and not _allowed(client, namespace, (group, resource, sub), verb):
                yield f"{verb} {full}"


def _allowed(
    client: KubernetesClient, namespace: str, what: tuple[str, str, str], verb: str
) -> bool:
    group, resource, sub = what
    attributes = {
        "namespace": namespace, "verb": verb, "group": group, "resource": resource,
        "subresource": sub,
    }  # fmt: skip
    body = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": attributes},
    }
    answer = client.request("POST", f"{_AUTHORIZATION}/selfsubjectaccessreviews", body=body)
    return bool(answer["status"]["allowed"])

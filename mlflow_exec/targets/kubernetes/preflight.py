"""Whether a cluster would take a release, asked before anything is changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_exec.clients.kubernetes import KubernetesClient
from mlflow_exec.clients.kubernetes_apply import apply, collection_of, path_of
from mlflow_exec.clients.kubernetes_preflight import (
    check_nodes,
    check_pod,
    check_references,
    dry_run,
    find,
)
from mlflow_exec.clients.kubernetes_rights import Rights, missing_rights
from mlflow_exec.errors import AccessDeniedError, ConfigError, ConflictError, NotFoundError
from mlflow_exec.reports import Report
from mlflow_exec.targets.base import ReleasePlan
from mlflow_exec.targets.kubernetes.changes import with_replicas
from mlflow_exec.targets.kubernetes.gateway import ROUTE
from mlflow_exec.targets.kubernetes.kinds import CHANGED, DEPLOYMENT, INFERENCE_SERVICE, kind_of
from mlflow_exec.targets.kubernetes.objects import (
    find_head,
    refuse_another_kind,
    refuse_foreign,
    revision_of,
    with_contents,
)
from mlflow_exec.targets.kubernetes.plan import KEPT_KINDS, is_kept

_OPTIONAL = {
    "HorizontalPodAutoscaler": ("autoscaling", "horizontalpodautoscalers", "", CHANGED),
    "Ingress": ("networking.k8s.io", "ingresses", "", CHANGED),
    ROUTE: ("gateway.networking.k8s.io", "httproutes", "", CHANGED),
    "Secret": ("", "secrets", "", ("create", "get", "list", "delete")),
}
_ALWAYS: Rights = (
    ("apps", "replicasets", "", ("list",)),
    ("", "pods", "", ("list",)),
    ("", "services", "", CHANGED),
    ("policy", "poddisruptionbudgets", "", CHANGED),
    ("", "configmaps", "", CHANGED),
)
RIGHTS: Rights = (*DEPLOYMENT.rights, *_ALWAYS)
"""Every verb that each deployment uses; the Role in the docs has these and the optional ones."""
ROLE = "docs/serving-kubernetes.md"


def check(client: KubernetesClient, plan: ReleasePlan) -> Report:
    """Refuse a release that can never become ready, and return warnings; nothing is changed.

    Raises:
        AccessDeniedError: A right is missing, or something in the cluster forbids it.
        ConfigError: Something that it refers to does not exist.
        ConflictError: Something that is to be changed is somebody else's.
        ClusterError: The cluster refuses it, or cannot be asked.
    """
    head, *others = plan.revision.objects
    kind, namespace = kind_of(head), head["metadata"]["namespace"]
    _check_rights(client, namespace, plan)
    live = find_head(client, namespace, plan.revision.name)
    refuse_another_kind(head, live)
    if live is None:
        for made, name in kind.made(plan.revision.name):
            metadata = {**head["metadata"], "name": name}
            refuse_foreign(client, {"kind": made, "metadata": metadata})
        for item in plan.revision.objects:
            if not is_kept(item):
                refuse_foreign(client, item)
    for item in others:
        if is_kept(item):
            _check_contents(client, namespace, item, plan)
        else:
            _check_other(client, item)
    _check_head(client, head, live)
    template = kind.pods_of(head)
    own = {i["metadata"]["name"] for i in others if i["kind"] in KEPT_KINDS}
    who = "the deployment"
    warnings = [*check_references(client, namespace, template["spec"], own)]
    warnings += check_pod(client, head["metadata"], template, who)
    warnings += check_nodes(client, template["spec"], kind.container, who)
    return Report(tuple(warnings))


def _check_other(client: KubernetesClient, item: Mapping[str, Any]) -> None:
    try:
        apply(client, item, dry=True)
    except NotFoundError as error:
        if item["kind"] != ROUTE:
            raise
        raise ConfigError(
            f"gateway: {client.name} has no HTTPRoutes ({item['apiVersion']}); have the Gateway "
            f"API installed there, or leave 'gateway' out"
        ) from error


def _check_head(
    client: KubernetesClient, head: Mapping[str, Any], live: Mapping[str, Any] | None
) -> None:
    item, kind = dict(head), kind_of(head)
    if live is not None:
        item, replicas = with_replicas(head, live, revision_of(client, live))
        if replicas is not None:  # it is set before
            del item["spec"]["replicas"]
    try:
        apply(client, item, dry=True)
    except NotFoundError as error:
        if not kind.not_known:
            raise
        raise ConfigError(f"kind: {client.name} {kind.not_known}") from error


def _check_contents(
    client: KubernetesClient, namespace: str, item: Mapping[str, Any], plan: ReleasePlan
) -> None:
    """Let the cluster look at what pods mount; what an earlier revision has made must be there."""
    revision = plan.revision
    if revision.rolled_back_to is not None:
        if find(client, path_of(item)) is None:
            raise ConfigError(
                f"revision {revision.rolled_back_to}: somebody has removed its {item['kind']} "
                f"{item['metadata']['name']!r}; deploy it again instead"
            )
        return
    path = collection_of(item["kind"], namespace)
    try:
        dry_run(client, path, with_contents(item, plan, dry=True))
    except ConflictError:  # it is there already
        refuse_foreign(client, item)


def _check_rights(client: KubernetesClient, namespace: str, plan: ReleasePlan) -> None:
    kinds = {item["kind"] for item in plan.revision.objects}
    optional = (right for kind, right in _OPTIONAL.items() if kind in kinds)
    wanted = [*kind_of(plan.revision.objects[0]).rights, *_ALWAYS, *optional]
    missing = list(missing_rights(client, namespace, wanted))
    if missing:
        raise AccessDeniedError(
            f"preflight: {client.name}: in namespace {namespace!r} these rights are missing: "
            f"{', '.join(missing)}; ask for the Role in {ROLE}",
            status=403,
        )


def optional_rights() -> Iterator[tuple[str, str, str, tuple[str, ...]]]:
    """Yield what only some deployments need."""
    yield from _OPTIONAL.values()
    yield INFERENCE_SERVICE.rights[0]
    yield ("", "services", "proxy", ("get", "create"))
    yield ("", "pods", "", ("patch",))
    yield ("", "pods", "proxy", ("get",))

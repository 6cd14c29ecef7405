"""What ``mlflow-exec doctor`` finds out about a Kubernetes cluster."""

from __future__ import annotations

from collections.abc import Iterator

from mlflow_exec.clients.kubernetes import KubernetesClient
from mlflow_exec.clients.kubernetes_rights import Rights, missing_rights
from mlflow_exec.errors import ClusterError, ConfigError
from mlflow_exec.reports import Finding


def findings(
    client: KubernetesClient, namespace: str, cluster_name: str | None, rights: Rights, role: str
) -> Iterator[Finding]:
    """Yield what is right and what is missing, the most basic first.

    Args:
        client: The cluster.
        namespace: The namespace.
        cluster_name: The setting.
        rights: What is needed in the namespace.
        role: The page with the Role that gives it.
    """
    try:
        version = client.request("GET", "/version")["gitVersion"]
        yield Finding(True, "cluster", f"{client.host} ({client.name}), Kubernetes {version}")
        who = _user(client)
        yield Finding(True, "user", who)
        yield Finding(True, "identity", client.identity(cluster_name))
    except (ClusterError, ConfigError) as error:
        yield Finding(False, "cluster", str(error), "Check the kubeconfig and its context.")
        return
    missing = list(missing_rights(client, namespace, rights))
    if missing:
        way = f"Ask for the Role in {role}."
        yield Finding(False, "rights", f"in {namespace!r} missing: {', '.join(missing)}", way)
    else:
        yield Finding(True, "rights", f"all that is needed in namespace {namespace!r}")


def _user(client: KubernetesClient) -> str:
    body = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    try:
        path = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
        answer = client.request("POST", path, body=body)
        return str(answer["status"]["userInfo"]["username"])
    except ClusterError as error:
        return f"not told: {error}"

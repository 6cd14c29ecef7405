"""What ``mlflow-exec doctor`` finds out about a Ray cluster."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from mlflow_exec.clients.ray import RayClient
from mlflow_exec.errors import AccessDeniedError, ClusterError
from mlflow_exec.reports import Finding


def findings(client: RayClient, where_from: str) -> Iterator[Finding]:
    """Yield what is right and what is missing, the most basic first.

    Args:
        client: The cluster.
        where_from: Where its address comes from, for people.
    """
    try:
        version = client.version()
        text = f"{client.address} ({where_from}), Ray {version.get('ray_version')}"
        yield Finding(True, "cluster", text)
        client.jobs()
        yield Finding(True, "jobs", "the Jobs API answers")
    except AccessDeniedError as error:
        yield Finding(False, "token", str(error), "Set token_file or RAY_AUTH_TOKEN.")
        return
    except ClusterError as error:
        yield Finding(False, "cluster", str(error), "Check the address and that Ray runs there.")
        return
    yield Finding(True, "identity", str(version.get("session_name")))
    yield _transport(client)
    yield _capacity(client)


def _transport(client: RayClient) -> Finding:
    parts = urlsplit(client.address)
    local = parts.hostname in ("localhost", "127.0.0.1", "::1")
    if parts.scheme == "https" or local or not client.has_token:
        return Finding(True, "transport", "encrypted" if parts.scheme == "https" else "plain HTTP")
    return Finding(
        False, "transport", "the token is sent over plain HTTP", "Use https, or forward the port."
    )


def _capacity(client: RayClient) -> Finding:
    try:
        nodes = client.node_resources()
    except (ClusterError, KeyError, TypeError, ValueError) as error:
        return Finding(True, "nodes", f"not told: {error}")
    cpus = sum(node.get("CPU", 0) for node in nodes)
    gpus = sum(node.get("GPU", 0) for node in nodes)
    text = f"{len(nodes)}, with {cpus:g} CPUs and {gpus:g} GPUs"
    return Finding(bool(nodes), "nodes", text, "" if nodes else "Start a node of the cluster.")

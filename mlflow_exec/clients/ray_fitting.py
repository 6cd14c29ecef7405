"""Whether a Ray cluster has a node that can hold something at all."""

from __future__ import annotations

from collections.abc import Mapping

from mlflow_exec.clients.ray import RayClient
from mlflow_exec.errors import ClusterError


def unfit(asked: Mapping[str, float], what: str, client: RayClient) -> str:
    """Say what is asked for that no node of the cluster has; empty if one could hold it.

    A cluster that grows by itself may get a larger node, which is why this is not always an error.

    Args:
        asked: By Ray's names of resources: ``CPU``, ``GPU``, ``memory`` (bytes), one's own.
        what: What asks for it, for the message.
        client: The cluster.
    """
    try:
        nodes = client.node_resources()
    except (ClusterError, KeyError, TypeError, ValueError):
        return ""  # an answer of another version of Ray; it will tell itself
    if not nodes or any(all(n.get(k, 0) >= v for k, v in asked.items()) for n in nodes):
        return ""
    wanted = ", ".join(f"{value:g} {name}" for name, value in asked.items() if value)
    largest = ", ".join(
        f"{max(node.get(name, 0) for node in nodes):g} {name}" for name, v in asked.items() if v
    )
    return f"no node can hold {what} of {wanted}; the largest have {largest}"

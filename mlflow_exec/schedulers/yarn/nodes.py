"""The node of an application's container, as YARN's ResourceManager knows it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlflow_exec.clients.yarn import ResourceManager

# A NodeManager that leaves in order ends its containers first:
# https://hadoop.apache.org/docs/r3.4.1/hadoop-yarn/hadoop-yarn-site/NodeManagerRestart.html
EMPTIED = ("SHUTDOWN", "DECOMMISSIONED")
GONE = ("LOST", *EMPTIED)


def node_state(manager: ResourceManager, record: Mapping[str, Any]) -> str:
    """Return the state of the node with an application's container; empty if none is known.

    Raises:
        NotFoundError: YARN does not know the application.
        UnreachableError: The ResourceManager does not answer.
    """
    attempts = manager.attempts(str(record["id"]))
    # YARN keeps the web address of a node, by which a record names it, only while it lives.
    node_id = attempts[-1].get("nodeId") if attempts else None
    known = (node for node in manager.nodes() if node_id and node.get("id") == node_id)
    return next((str(node.get("state")) for node in known), "")

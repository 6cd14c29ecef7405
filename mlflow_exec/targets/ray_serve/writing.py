"""The seam between deployments on Ray Serve and the two ways in which Serve takes applications."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from mlflow_exec.clients import ray_embedded
from mlflow_exec.clients.ports import free_port
from mlflow_exec.clients.ray_serve import ServeClient
from mlflow_exec.releases import Revision

TRIES = 5
"""So often a write that others have overtaken is begun anew."""


class Writer(ABC):
    """Changes one application of a Serve, and leaves all others as they are."""

    def __init__(self, client: ServeClient, revision_limit: int) -> None:
        self.client = client
        self.revision_limit = revision_limit

    @abstractmethod
    def write(self, revision: Revision) -> None:
        """Make a revision the newest, and return when Serve has taken note of it; idempotent.

        Raises:
            ConflictError: The name or the route is taken, or somebody else has applied a revision
                meanwhile.
            ClusterError: Serve has not taken note of it; the message says why.
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Tell Serve to remove an application; returns before it is gone. Idempotent.

        Raises:
            ClusterError: Serve has not taken note of it; the message says why.
        """


def start_options(client: ServeClient) -> Mapping[str, Any]:
    """Return the options of a Serve that is started by us.

    On the Ray of this machine nobody else is let in; a cluster's has Ray's own defaults.
    """
    own = ray_embedded.recorded()
    if own is None or own.address != client.address:
        return {}
    options = {"host": "127.0.0.1", "port": free_port()}
    return {"proxy_location": "HeadOnly", "http_options": options}

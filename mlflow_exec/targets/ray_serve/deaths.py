"""Why replicas have died, where Serve says no more than that they have."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

from mlflow_exec.clients.ray_serve import ServeClient
from mlflow_exec.errors import ClusterError
from mlflow_exec.releases import Rollout
from mlflow_exec.targets.ray_serve.status import failure_of

_SAYS_NO_MORE = "ActorDiedError()"


def with_deaths(client: ServeClient, rollout: Rollout) -> Rollout:
    """Return a rollout whose failure has what Ray itself tells of the processes that died."""
    if rollout.failure is None or _SAYS_NO_MORE not in rollout.message:
        return rollout
    deaths: list[str] = []
    with suppress(ClusterError):
        deaths = client.replica_deaths(rollout.name)
    if not deaths:
        return rollout
    message = f"{rollout.message}\n{deaths[-1]}"
    return replace(rollout, message=message, failure=failure_of(message))

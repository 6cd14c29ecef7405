"""What can be said of an application before it is sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_exec.clients import ray_embedded
from mlflow_exec.clients.ray_fitting import unfit
from mlflow_exec.clients.ray_serve import ServeClient
from mlflow_exec.errors import ConfigError


def check_room(application: Mapping[str, Any], client: ServeClient) -> Iterator[str]:
    """Yield a warning where no node of the cluster can hold a replica.

    Raises:
        ConfigError: The Ray of this machine cannot, and gets no larger node.
    """
    (deployment,) = application["deployments"]
    options = deployment.get("ray_actor_options") or {}
    asked = {str(k): float(v) for k, v in (options.get("resources") or {}).items()}
    for name, key in (("CPU", "num_cpus"), ("GPU", "num_gpus"), ("memory", "memory")):
        asked[name] = float(options.get(key) or 0)
    if lacking := unfit(asked, "a replica", client):
        own = ray_embedded.recorded()
        if own is not None and own.address == client.address:
            raise ConfigError(f"resources: {lacking}; ask for less")
        yield f"resources: {lacking}; it waits unless a larger node is added"


def check_python(needed: str, model_uri: str, client: ServeClient) -> None:
    """Refuse a model that was logged with another Python than the cluster's.

    Raises:
        ConfigError: It was.
    """
    there = client.python_version()
    if needed and there and needed != there:
        raise ConfigError(
            f"model_uri: {model_uri} was logged with Python {needed}, and the cluster "
            f"{client.address} runs {there}; deploy it to a cluster with {needed}, or accept "
            f"another Python by 'any_python'"
        )

"""What a container asks of its node. Pure."""

from __future__ import annotations

from typing import Any

from mlflow_exec.settings import Resources


def container_resources(asked: Resources, gpu_resource: str) -> dict[str, Any]:
    """Return the ``resources`` of a container.

    Args:
        asked: CPU is a request and no limit; memory and GPUs are both.
        gpu_resource: What a GPU is called on the nodes.
    """
    requests: dict[str, str] = {}
    limits: dict[str, str] = {}
    if asked.cpu is not None:
        requests["cpu"] = f"{round(asked.cpu * 1000)}m"
    if asked.memory is not None:
        requests["memory"] = limits["memory"] = str(asked.memory)
    if asked.gpu:
        requests[gpu_resource] = limits[gpu_resource] = str(asked.gpu)
    return {"requests": requests, "limits": limits}

"""What can be said of a Ray job before it is submitted."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlflow_exec.clients import ray_embedded, ray_fitting
from mlflow_exec.clients.ray import RayClient
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ConfigError
from mlflow_exec.settings import NodeSecret


def unsent_secrets(
    secrets: Mapping[str, Secret], embedded: ray_embedded.EmbeddedRay | None
) -> list[str]:
    """Return a warning for secrets that the job will not find, or find with another value.

    Args:
        secrets: What the job needs; none of it is sent, because Ray shows variables to everybody.
        embedded: The Ray of this machine, if the job goes there.
    """
    if not secrets:
        return []
    if embedded is None:
        names = ", ".join(sorted(secrets))
        return [
            f"{names}: not sent, because Ray shows a job's variables to everybody who can list "
            f"jobs; name where the nodes have them by 'secrets', or the environment of the "
            f"cluster's nodes must have them under these names"
        ]
    there = ray_embedded.environment_of(embedded)
    if there is None:
        return []
    differing = sorted(n for n, secret in secrets.items() if there.get(n) != secret.reveal())
    if not differing:
        return []
    return [
        f"{', '.join(differing)}: the Ray of this machine was started without this value, and its "
        f"jobs inherit that environment; stop it with 'mlflow-exec ray stop' to start it anew"
    ]


def check_here(secrets: Mapping[str, NodeSecret], embedded: ray_embedded.EmbeddedRay) -> None:
    """Refuse references that lead nowhere on the Ray of this machine.

    Raises:
        ConfigError: There is no such variable or file.
    """
    there = ray_embedded.environment_of(embedded)
    for name, reference in secrets.items():
        variable, file = reference.node_env, Path(reference.file or "/").expanduser()
        if variable and there is not None and variable not in there:
            raise ConfigError(
                f"secrets.{name}: the Ray of this machine was started without the variable "
                f"{variable!r}; set it, and stop that Ray with 'mlflow-exec ray stop' to start it "
                f"anew"
            )
        if not os.access(file, os.R_OK):
            raise ConfigError(f"secrets.{name}: there is no file {str(file)!r} that can be read")


def unfit(submission: Mapping[str, Any], client: RayClient) -> str:
    """Say what the job asks for that no node of the cluster has; empty if one could hold it."""
    asked = {str(k): float(v) for k, v in (submission.get("entrypoint_resources") or {}).items()}
    for name, key in (("CPU", "num_cpus"), ("GPU", "num_gpus"), ("memory", "memory")):
        asked[name] = float(submission.get(f"entrypoint_{key}") or 0)
    return ray_fitting.unfit(asked, "a job", client)

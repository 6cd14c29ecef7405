"""Where this process runs, as its environment tells it: no network, no SDK, nothing to install.

MLflow imports this with every client, so it needs the standard library alone.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Mapping
from functools import lru_cache

JOB_VARIABLE = "MLFLOW_EXEC_JOB"
"""Tells a job of ours its name."""
POD_FACTS = {
    "MLFLOW_EXEC_POD": "metadata.name",
    "MLFLOW_EXEC_NAMESPACE": "metadata.namespace",
    "MLFLOW_EXEC_NODE": "spec.nodeName",
}
"""Variables of a pod, and the fields of the downward API that they are taken from."""
IMAGE_VARIABLE = "MLFLOW_EXEC_IMAGE"
"""Tells a pod its image, as it was asked for."""
_NAMESPACE_FILE = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
_RAY_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# https://hadoop.apache.org/docs/stable/api/org/apache/hadoop/yarn/api/records/ContainerId.html
_CONTAINER = re.compile(r"container_(?:e\d+_)?(\d+_\d+)_\d+_\d+")
_DIGEST = re.compile(r"@(sha256:[0-9a-f]{64})$")


def facts(env: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return what is known of the place by name, such as ``k8s.pod``; empty on nobody's cluster.

    None of it is a secret, and nothing in it is empty.
    """
    env = os.environ if env is None else env
    found: dict[str, str | None] = {"job": env.get(JOB_VARIABLE)}
    found |= {**_kubernetes(env), **_ray(env), **_yarn(env), **_slurm(env)}
    return {name: value for name, value in found.items() if value}


def _kubernetes(env: Mapping[str, str]) -> dict[str, str | None]:
    if not env.get("KUBERNETES_SERVICE_HOST"):
        return {}
    image = env.get(IMAGE_VARIABLE, "")
    digest = _DIGEST.search(image)
    return {
        # The names on the right are those that people give by the downward API themselves.
        "k8s.pod": env.get("MLFLOW_EXEC_POD") or env.get("POD_NAME") or _host_name(),
        "k8s.namespace": env.get("MLFLOW_EXEC_NAMESPACE") or env.get("POD_NAMESPACE")
        or _namespace(),
        "k8s.node": env.get("MLFLOW_EXEC_NODE") or env.get("NODE_NAME"),
        "k8s.image": image,
        "k8s.image_digest": env.get("MLFLOW_EXEC_IMAGE_DIGEST")
        or (digest.group(1) if digest else None),
    }  # fmt: skip


@lru_cache(maxsize=1)
def _host_name() -> str:
    return socket.gethostname()


@lru_cache(maxsize=1)
def _namespace() -> str | None:
    try:
        with open(_NAMESPACE_FILE, encoding="utf-8") as file:
            return file.read(256).strip()
    except (OSError, UnicodeDecodeError):
        return None


def _ray(env: Mapping[str, str]) -> dict[str, str | None]:
    if not env.get(_RAY_CONFIG):
        return {"ray.job_id": env.get("RAY_JOB_ID")}
    return {"ray.job_id": env.get("RAY_JOB_ID"), "ray.submission_id": _submission(env[_RAY_CONFIG])}


@lru_cache(maxsize=1)
def _submission(config: str) -> str | None:
    try:
        return str(json.loads(config)["metadata"]["job_submission_id"])
    except (ValueError, KeyError, TypeError):
        return None


def _yarn(env: Mapping[str, str]) -> dict[str, str | None]:
    container = env.get("CONTAINER_ID", "")
    found = _CONTAINER.fullmatch(container)
    if not found:
        return {}
    return {
        "yarn.application_id": f"application_{found.group(1)}",
        "yarn.container_id": container,
        "yarn.node": env.get("NM_HOST"),
    }


def _slurm(env: Mapping[str, str]) -> dict[str, str | None]:
    job = env.get("SLURM_JOB_ID")
    if not job:
        return {}
    of_array = env.get("SLURM_ARRAY_JOB_ID")
    return {
        "slurm.job_id": f"{of_array}_{env.get('SLURM_ARRAY_TASK_ID')}" if of_array else job,
        "slurm.cluster": env.get("SLURM_CLUSTER_NAME"),
        "slurm.node": env.get("SLURMD_NODENAME"),
    }

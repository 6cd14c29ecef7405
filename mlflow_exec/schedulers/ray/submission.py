"""Hands a submission to Ray so that it is there once, however often that is tried."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow_exec.clients.pauses import repeated
from mlflow_exec.clients.ray import RayClient
from mlflow_exec.clients.ray_packages import package_name
from mlflow_exec.errors import ConflictError, RejectedError
from mlflow_exec.jobs import JOB_NAME, job_name
from mlflow_exec.runtime.end import INFRA_RETRIES_VARIABLE
from mlflow_exec.schedulers.ray.plan import META_RUN

_PACKAGE_URI = "gcs://"


def submit_once(client: RayClient, job: Mapping[str, Any]) -> None:
    """Submit, or find what an earlier try has submitted.

    Raises:
        ConflictError: There is a job of that name, of another run.
    """
    name = str(job["submission_id"])

    def attempt() -> None:
        try:
            client.submit(job)
        except RejectedError as error:
            if error.reason != "AlreadyExists":
                raise
            # Perhaps by a try whose answer was lost.
            found = client.job(name) or {}
            if (found.get("metadata") or {}).get(META_RUN) != job["metadata"][META_RUN]:
                raise ConflictError(
                    f"Ray {client.address}: a job {name!r} exists and is not of this run",
                    status=409,
                ) from error

    repeated(attempt)


def submit_again(
    client: RayClient,
    earlier: str,
    objects: Sequence[Mapping[str, Any]],
    data: Mapping[str, bytes],
    count: int,
) -> str:
    """Submit what was planned once more; see `Scheduler.submit_again`.

    Args:
        client: The cluster.
        earlier: The submission id of the job that has ended.
        objects: The submission, as it was printed.
        data: Its package, by name; not needed while Ray has it.
        count: The how-manieth time this is.

    Returns:
        The submission id of the new job.

    Raises:
        RejectedError: This is no submission of that job, or its package is gone.
    """
    match = JOB_NAME.match(earlier)
    job = dict(objects[0]) if len(objects) == 1 and isinstance(objects[0], Mapping) else {}
    if match is None or (job.get("metadata") or {}).get(META_RUN) != match.group(1):
        raise RejectedError(f"{earlier}: the manifest on its run is not that of a job of this run")
    name = job_name(match.group(1), int(match.group(2)) + 1)
    environment = dict(job["runtime_env"])
    package = str(environment.get("working_dir")).removeprefix(_PACKAGE_URI)
    if not repeated(lambda: client.has_package(package)):
        content = data.get(package)
        if content is None:
            raise RejectedError(
                f"{earlier}: its package {package} is neither in Ray's store nor on the run"
            )
        if package_name(hashlib.sha256(content).hexdigest()) != package:
            raise RejectedError(f"{earlier}: its package on the run is not what was submitted")
        repeated(lambda: client.put_package(package, content))
    environment["env_vars"] = {
        **environment.get("env_vars", {}), INFRA_RETRIES_VARIABLE: str(count),
    }  # fmt: skip
    submit_once(client, {**job, "submission_id": name, "runtime_env": environment})
    return name

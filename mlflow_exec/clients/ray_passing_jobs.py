"""Ray jobs that are only a means to something, and of which nothing is to be left."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from mlflow_exec.clients.pauses import PATIENCE_S, repeated
from mlflow_exec.clients.ray import RayClient
from mlflow_exec.errors import ClusterError, RejectedError

_ENDS = ("SUCCEEDED", "FAILED", "STOPPED")
_POLL_S = 0.25
# JOB_MONITOR_LOOP_PERIOD_S of python/ray/dashboard/modules/job/job_manager.py is 1.
_SEEN_S = 2.0
# Ray takes so long at most to end a job that it was told to stop, then kills it.
_STOP_S = 5.0


@dataclass(frozen=True)
class Passed:
    """A job that has been.

    Attributes:
        status: Ray's; empty where somebody has removed the job meanwhile. One that took too long
            has the status that it had before it was stopped.
        message: What Ray says of that.
        log: Its output, empty if it cannot be had.
    """

    status: str
    message: str
    log: str

    @property
    def is_over(self) -> bool:
        """Whether it came to its end by itself, as far as anybody knows."""
        return self.status in (*_ENDS, "")


def run_passing_job(
    client: RayClient, job: Mapping[str, Any], name: str, timeout_s: float
) -> Passed:
    """Run a job until it has ended or its time is over, and leave nothing of it.

    Args:
        client: The cluster.
        job: What is submitted, but for the id.
        name: Begins the id. Each job has its own: Ray keeps one for a while after its end.
        timeout_s: So long it may take; then it is stopped.

    Raises:
        ClusterError: The cluster cannot be asked, or refuses.
    """
    job_id = f"{name}-{secrets.token_hex(4)}"
    end_s = time.monotonic() + timeout_s
    try:
        _submit(client, {**job, "submission_id": job_id}, min(timeout_s, PATIENCE_S))
        record = _followed(client, job_id, end_s)
        passed = Passed(str(record.get("status") or ""), str(record.get("message") or ""), "")
        if passed.is_over and record:
            passed = Passed(passed.status, passed.message, _log(client, job_id))
    finally:
        with suppress(ClusterError):
            _remove(client, job_id)
    return passed


def _submit(client: RayClient, job: Mapping[str, Any], patience_s: float) -> None:
    try:
        repeated(lambda: client.submit(job), patience_s)
    except RejectedError as error:
        if error.reason != "AlreadyExists":  # by a try whose answer was lost
            raise


def _followed(client: RayClient, job_id: str, end_s: float) -> Mapping[str, Any]:
    """Return a job's record when it has ended, or the time has."""
    while True:
        record = repeated(partial(client.job, job_id)) or {}
        if not record or record["status"] in _ENDS or time.monotonic() > end_s:
            return record
        time.sleep(_POLL_S)


def _log(client: RayClient, job_id: str) -> str:
    try:
        return repeated(partial(client.job_log, job_id))
    except ClusterError:
        return ""


def _remove(client: RayClient, job_id: str) -> None:
    """Stop a job that still runs, and delete its record; returns after some seconds.

    Ray looks at each job once a second, and writes a failure for one that it finds without a record
    before it has seen its end.
    """
    record = repeated(partial(client.job, job_id))
    if record is None:
        return
    if record["status"] not in _ENDS:
        repeated(partial(client.stop, job_id))
        _followed(client, job_id, time.monotonic() + _STOP_S)
    client.delete(job_id)
    end_s = time.monotonic() + _SEEN_S
    while time.monotonic() < end_s:
        time.sleep(_POLL_S)
        if client.job(job_id) is not None:
            client.delete(job_id)
            return

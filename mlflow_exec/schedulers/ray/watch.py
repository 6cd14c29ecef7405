"""Follows jobs by asking for their records; Ray has no watch."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mlflow_exec.clients.ray import RayClient
from mlflow_exec.errors import UnreachableError
from mlflow_exec.jobs import JobHandle, JobState, JobStatus
from mlflow_exec.schedulers.polling import Tracked, pause_s
from mlflow_exec.schedulers.ray.logs import count_retries, log_tail
from mlflow_exec.schedulers.ray.place import is_over, was_stopped_here
from mlflow_exec.schedulers.ray.plan import MANAGED_BY, META_MANAGED
from mlflow_exec.schedulers.ray.status import has_ending, job_status, repeats

_TICK_S = 0.4
# Up to so many jobs are asked for one by one; above, one list of all jobs costs less.
_ONE_BY_ONE = 8
_TAIL_LINES = 50


@dataclass
class _Cluster:
    client: RayClient
    session: str | None = None

    def is_another(self, handle: JobHandle) -> bool:
        """Whether this is a later start of the Ray that the job was submitted to."""
        if not handle.uid:
            return False
        if self.session is None:
            self.session = str(self.client.version().get("session_name"))
        return is_over(handle, self.client, self.session)


class JobsWatch:
    """One iteration over the statuses of some jobs, on one cluster or more."""

    def __init__(self, groups: Sequence[tuple[RayClient, Sequence[JobHandle]]]) -> None:
        self._groups = [
            (_Cluster(client), [Tracked(handle) for handle in handles])
            for client, handles in groups
        ]

    def statuses(
        self, stop: threading.Event | None = None
    ) -> Iterator[tuple[JobHandle, JobStatus | None]]:
        """Yield as `Scheduler.watch` promises.

        Raises:
            AccessDeniedError: The cluster does not accept the token (any more).
            HandleError: What answers may be another Ray.
        """
        stop = stop or threading.Event()
        begun_s = time.monotonic()
        while not stop.is_set():
            for cluster, jobs in self._groups:
                yield from self._ask(cluster, [item for item in jobs if not item.over])
            if all(item.over for _, jobs in self._groups for item in jobs):
                return
            stop.wait(pause_s(time.monotonic() - begun_s, _TICK_S))

    def _ask(
        self, cluster: _Cluster, jobs: Sequence[Tracked]
    ) -> Iterator[tuple[JobHandle, JobStatus | None]]:
        client = cluster.client
        listed: dict[str, Mapping[str, Any]] | None = None
        for item in jobs:
            try:
                if cluster.is_another(item.handle):
                    yield from item.say(None)
                    continue
                if len(jobs) > _ONE_BY_ONE and listed is None:
                    listed = {record["submission_id"]: record for record in client.jobs()}
                if listed is not None:
                    record = listed.get(item.handle.name)
                else:
                    record = client.job(item.handle.name)
            except UnreachableError as error:
                cluster.session = None  # what answers next may be another
                for other in jobs:
                    yield from other.say(_unreachable(other.handle, error))
                return
            yield from item.say(known_status(client, record))


def known_status(client: RayClient, record: Mapping[str, Any] | None) -> JobStatus | None:
    """Return the status of a job, with what its log tells beside Ray's record at its end.

    None for a record that is not ours: Ray may write one anew after a job was deleted, as failed
    and with nothing else of it (`put_status` in dashboard/modules/job/common.py).
    """
    if record is None or (record.get("metadata") or {}).get(META_MANAGED) != MANAGED_BY:
        return None
    status = job_status(record, now=client.clock.now())
    if not status.state.is_final:
        return status
    if status.state is JobState.FAILED and not has_ending(record):
        status = job_status(record, log_tail(client, record, _TAIL_LINES))
    if repeats(record):
        status = replace(status, attempt=1 + count_retries(client, record))
    return status


def _unreachable(handle: JobHandle, error: UnreachableError) -> JobStatus | None:
    """Return UNKNOWN, or None where the job cannot exist any more."""
    if was_stopped_here(handle):
        return None
    return JobStatus(JobState.UNKNOWN, f"the cluster cannot be asked: {error}")

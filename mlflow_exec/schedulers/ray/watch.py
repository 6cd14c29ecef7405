"""Follows jobs by asking for their records; Ray has no watch."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mlflow_exec.clients import ray_embedded
from mlflow_exec.clients.ray import RayClient
from mlflow_exec.errors import UnreachableError
from mlflow_exec.jobs import JobHandle, JobState, JobStatus
from mlflow_exec.schedulers.ray.logs import log_tail
from mlflow_exec.schedulers.ray.status import has_ending, job_status

_TICK_S = 0.4
# A job that has run for a minute is not worth being asked for more often than this.
_SLOW_TICK_S = 1.0
_SLOW_AFTER_S = 60.0
# Up to so many jobs are asked for one by one; above, one list of all jobs costs less.
_ONE_BY_ONE = 8
_TAIL_LINES = 50


@dataclass
class _Tracked:
    handle: JobHandle
    said: JobStatus | None = None
    over: bool = False


class JobsWatch:
    """One iteration over the statuses of some jobs, on one cluster or more."""

    def __init__(self, groups: Sequence[tuple[RayClient, Sequence[JobHandle]]]) -> None:
        self._groups = [(client, [_Tracked(h) for h in handles]) for client, handles in groups]

    def statuses(self) -> Iterator[tuple[JobHandle, JobStatus | None]]:
        """Yield as `Scheduler.watch` promises.

        Raises:
            AccessDeniedError: The cluster does not accept the token (any more).
        """
        begun_s = time.monotonic()
        while True:
            for client, jobs in self._groups:
                yield from self._ask(client, [item for item in jobs if not item.over])
            if all(item.over for _, jobs in self._groups for item in jobs):
                return
            slow = time.monotonic() - begun_s > _SLOW_AFTER_S
            time.sleep(_SLOW_TICK_S if slow else _TICK_S)

    def _ask(
        self, client: RayClient, jobs: Sequence[_Tracked]
    ) -> Iterator[tuple[JobHandle, JobStatus | None]]:
        listed: dict[str, Mapping[str, Any]] | None = None
        for item in jobs:
            try:
                if len(jobs) > _ONE_BY_ONE and listed is None:
                    listed = {record["submission_id"]: record for record in client.jobs()}
                if listed is not None:
                    record = listed.get(item.handle.name)
                else:
                    record = client.job(item.handle.name)
            except UnreachableError as error:
                for other in jobs:
                    yield from self._say(other, _unreachable(other.handle, error))
                return
            yield from self._say(item, _status(client, record))

    @staticmethod
    def _say(
        item: _Tracked, status: JobStatus | None
    ) -> Iterator[tuple[JobHandle, JobStatus | None]]:
        if item.over or (status is not None and status == item.said):
            return
        item.said = status
        item.over = status is None or status.state.is_final
        yield item.handle, status


def _status(client: RayClient, record: Mapping[str, Any] | None) -> JobStatus | None:
    if record is None:
        return None
    status = job_status(record)
    if status.state is JobState.FAILED and not has_ending(record):
        return job_status(record, log_tail(client, record, _TAIL_LINES))
    return status


def _unreachable(handle: JobHandle, error: UnreachableError) -> JobStatus | None:
    """Return UNKNOWN, or None where the job cannot exist any more.

    A Ray of this machine that was stopped never comes back, and its jobs are gone with it.
    """
    if handle.uid and ray_embedded.was_here(handle.uid):
        alive = ray_embedded.recorded()
        if alive is None or alive.session_name != handle.uid:
            return None
    return JobStatus(JobState.UNKNOWN, f"the cluster cannot be asked: {error}")

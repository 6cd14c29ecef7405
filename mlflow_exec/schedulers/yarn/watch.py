"""Follows applications by asking for their records: one request for all that are many."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from mlflow_exec.clients.hadoop_config import HadoopConfig
from mlflow_exec.clients.hadoop_login import Login
from mlflow_exec.clients.yarn import ResourceManager
from mlflow_exec.errors import NotFoundError, RejectedError, UnreachableError
from mlflow_exec.jobs import JobHandle, JobState, JobStatus
from mlflow_exec.schedulers.polling import Tracked, pause_s
from mlflow_exec.schedulers.yarn.diagnostics import needs_log
from mlflow_exec.schedulers.yarn.logs import has_output, read_end
from mlflow_exec.schedulers.yarn.plan import MANAGED_BY, RETRIES_TAG
from mlflow_exec.schedulers.yarn.recovery import record_of, valid_id
from mlflow_exec.schedulers.yarn.status import job_status, tags_of

_TICK_S = 0.5
# An application that has been accepted for so long may have been running: its node knows.
_ACCEPTED_S = 15.0
_ASK_NODE_S = 5.0
_READERS = 4
# More watches of one job each, in one process, ask for all jobs together.
_FEW_WATCHES = 3

Json = Mapping[str, Any]


def find(manager: ResourceManager, handle: JobHandle) -> Json | None:
    """Return the record of a job's application; None if the cluster knows none.

    Raises:
        UnreachableError: It cannot be asked, or may not have found it again after a restart.
    """
    if not handle.uid:
        return oldest(manager.apps(tag=handle.name), handle.name)
    if not valid_id(handle.uid):
        return None
    try:
        record = record_of(manager, handle.uid)
    except (NotFoundError, RejectedError):
        return None
    return record if is_job(record, handle.name) else None


def is_job(record: Json, name: str) -> bool:
    """Whether an application is the job of this name."""
    return {MANAGED_BY, name.rpartition("-")[0], name} <= tags_of(record)


def oldest(records: Sequence[Json], name: str) -> Json | None:
    """Return the first application of a name; a repeated submission may have made a second."""
    found = [record for record in records if is_job(record, name)]
    return min(found, key=place_in_time, default=None)


def place_in_time(record: Json) -> tuple[int, str]:
    """Return what tells which application of a name came first: that one counts.

    The first one that YARN took, not the first id: whoever submits is given an id long before, and
    one that looked after its own submission cannot have seen a later one.
    """
    return int(record.get("startedTime") or 0), str(record["id"])


class _SharedList:
    """All jobs of one cluster, listed once for all watches of this process. Thread-safe."""

    def __init__(self) -> None:
        self.watches = 0
        self._lock = threading.Lock()
        self._asked_s = -1.0
        self._jobs: dict[str, Json] | UnreachableError = {}

    def jobs(self, manager: ResourceManager, since_s: float) -> Mapping[str, Json]:
        """Return the jobs by application, as YARN told them after a moment of this clock.

        Raises:
            UnreachableError: It cannot be asked, as one who asked after that moment found out.
        """
        with self._lock:
            if self._asked_s < since_s:
                self._asked_s = time.monotonic()
                try:
                    listed = manager.apps(tag=MANAGED_BY)
                    self._jobs = {str(record["id"]): record for record in listed}
                except UnreachableError as error:
                    self._jobs = error
            found = self._jobs
        if isinstance(found, UnreachableError):
            raise found
        return found


_shared: dict[tuple[int, str, Login], _SharedList] = {}
_shared_lock = threading.Lock()


@contextmanager
def _joined(manager: ResourceManager, config: HadoopConfig) -> Iterator[_SharedList]:
    """Count as one of this process's watches of a cluster."""
    key = (os.getpid(), str(config.folder), manager.login)
    with _shared_lock:
        shared = _shared.setdefault(key, _SharedList())
        shared.watches += 1
    try:
        yield shared
    finally:
        with _shared_lock:
            shared.watches -= 1


@dataclass
class _Tracked(Tracked):
    ran: bool = False
    asked_node_s: float = 0.0
    reading: Future[tuple[str, int]] | None = None


class ApplicationsWatch:
    """One iteration over the statuses of some jobs of one cluster."""

    def __init__(
        self, manager: ResourceManager, config: HadoopConfig, handles: Sequence[JobHandle]
    ) -> None:
        self._manager = manager
        self._config = config
        self._jobs = [_Tracked(handle) for handle in handles]
        self._readers = threading.Semaphore(_READERS)
        # What is told is newer each time: no list of before this moment will do.
        self._told_s = time.monotonic()

    def statuses(
        self, stop: threading.Event | None = None
    ) -> Iterator[tuple[JobHandle, JobStatus | None]]:
        """Yield as `Scheduler.watch` promises.

        Raises:
            AccessDeniedError: The cluster does not accept the user (any more).
        """
        stop = stop or threading.Event()
        begun_s = time.monotonic()
        first = True  # of a job that a list of all may not have yet
        with _joined(self._manager, self._config) as shared:
            while not stop.is_set():
                jobs = [item for item in self._jobs if not item.over]
                lists = len(jobs) > 1 or (shared.watches > _FEW_WATCHES and not first)
                yield from self._round(jobs, shared if lists else None)
                if all(item.over for item in self._jobs):
                    return
                first, self._told_s = False, time.monotonic()
                stop.wait(pause_s(self._told_s - begun_s, _TICK_S))

    def _round(
        self, jobs: Sequence[_Tracked], shared: _SharedList | None
    ) -> Iterator[tuple[JobHandle, JobStatus | None]]:
        try:
            find_record = self._records(shared)
        except UnreachableError as error:
            for item in jobs:
                yield from item.say(_unreachable(error))
            return
        for item in jobs:
            try:
                record = find_record(item.handle)
            except UnreachableError as error:
                yield from item.say(_unreachable(error))
                continue
            if record is None:
                yield from item.say(None)
                continue
            status = self._status(item, record)
            if status is not None:
                yield from item.say(status)

    def _records(self, shared: _SharedList | None) -> Callable[[JobHandle], Json | None]:
        """Return what finds a job's record, by one request for all of them or one for each."""
        listed = {} if shared is None else shared.jobs(self._manager, self._told_s)

        def find_record(handle: JobHandle) -> Json | None:
            by_name = oldest(list(listed.values()), handle.name) if not handle.uid else None
            record = listed.get(handle.uid, by_name)
            if record is not None and is_job(record, handle.name):
                return record
            return find(self._manager, handle)

        return find_record

    def _status(self, item: _Tracked, record: Json) -> JobStatus | None:
        """Return a job's status; None while its log is read for it."""
        now = self._manager.clock.now()
        status = job_status(record, runs=item.ran, now=now)
        if status.state is JobState.RUNNING:
            item.ran = True
        elif status.state is JobState.STARTING and (status.waits_s or 0) > _ACCEPTED_S:
            if time.monotonic() - item.asked_node_s > _ASK_NODE_S:
                item.asked_node_s = time.monotonic()
                item.ran = has_output(self._manager, record)
            status = job_status(record, runs=item.ran, now=now)
        if not status.state.is_final or not needs_end(record):
            return status
        if item.reading is None:
            item.reading = self._read(str(record["id"]))
        if not item.reading.done():
            return None
        tail, retried = item.reading.result()
        return replace(job_status(record, log_tail=tail), attempt=1 + retried)

    def _read(self, application_id: str) -> Future[tuple[str, int]]:
        """Read a log in a thread that keeps no process from its end."""
        result: Future[tuple[str, int]] = Future()

        def run() -> None:
            with self._readers:
                try:
                    result.set_result(read_end(self._manager, self._config, application_id))
                except Exception as error:  # told by whoever waits
                    result.set_exception(error)

        threading.Thread(target=run, name="mlflow-exec-yarn-log", daemon=True).start()
        return result


def needs_end(record: Json) -> bool:
    """Whether the log of an ended application tells what its record does not."""
    repeats = RETRIES_TAG in tags_of(record) and record.get("state") == "FINISHED"
    return repeats or needs_log(str(record.get("diagnostics") or ""))


def _unreachable(error: UnreachableError) -> JobStatus:
    return JobStatus(JobState.UNKNOWN, f"the cluster cannot be asked: {error}")

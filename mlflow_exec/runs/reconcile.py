"""Ends the runs whose jobs have ended while nobody looked, and keeps what is left of ended ones.

One list per cluster and namespace tells how all jobs are; only runs whose job has changed cost
more. Safe beside living clients and other reconcilers: an end is written once (`runtime.end`).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from mlflow_exec import registry
from mlflow_exec.errors import HandleError, MlflowExecError
from mlflow_exec.jobs import Failure, FailureCategory, JobHandle, JobState, JobStatus
from mlflow_exec.runs.attach import job_of
from mlflow_exec.runs.clocks import Clocks
from mlflow_exec.runs.ending import end_of
from mlflow_exec.runs.job import Job
from mlflow_exec.runs.listing import open_runs, unkept_runs
from mlflow_exec.runs.progress import Progress
from mlflow_exec.runs.resubmission import go_on, may_go_on
from mlflow_exec.runs.store import MlflowRunStore
from mlflow_exec.runs.supervise import (
    LOST_GRACE_S,
    describe,
    finish,
    give_up,
    keep_rest,
    look_closer,
    lost,
    note,
)
from mlflow_exec.runs.tracking import entry_can_write
from mlflow_exec.runtime.end import (
    FINAL_STATES,
    TAG_BACKEND,
    TAG_HANDLE,
    TAG_HANDLE_UID,
    TAG_KEPT,
    TAG_STATE,
    TAG_STATE_BY,
    write_end,
)
from mlflow_exec.schedulers.base import Scheduler
from mlflow_exec.settings import parse_settings

INTERVAL_S = 30.0
_WORKERS = 8
# The run is there before it names its job, and names it before the job is there. So long after the
# run was made nobody submits any more; no clocks of two machines differ that much.
_UNCONFIRMED_S = 3600.0
# A cluster that has not been reached for so long after a run's end has nothing left to keep.
_LOOKED_AFTER_S = 30 * 86400.0
_UNCONFIRMED = "its submission is not confirmed, and may still be going on"
_INTERRUPTED = Failure(
    FailureCategory.INFRASTRUCTURE, "The submission was interrupted.", "Submit it again."
)
_NEVER_SUBMITTED = JobStatus(JobState.FAILED, _INTERRUPTED.message, _INTERRUPTED)


@dataclass(frozen=True)
class Outcome:
    """What became of one run.

    Attributes:
        run_id: The run.
        handle: Its job; empty where the run names none.
        action: ``ended`` (its end was written), ``again`` (the cluster took its job, which was
            submitted again), ``open`` (its job goes on), ``missing`` (its job is not known; it is
            lost if that stays so), ``elsewhere`` (it is of a cluster that is surely none of those
            configured here), or ``unknown`` (nobody could be asked). Of a run that had its end:
            ``kept`` (so is what was left of its job) or ``unkept`` (not yet).
        state: The job's state; UNKNOWN where it could not be asked.
        detail: One line for people.
    """

    run_id: str
    handle: str
    action: str
    state: str
    detail: str = ""


@dataclass(frozen=True)
class _Open:
    """A run that is to be looked after, as the search tells it, and its job."""

    run: Run
    handle: JobHandle

    @property
    def has_end(self) -> bool:
        """Whether only what is left of the job matters."""
        return _has_end(self.run)

    def outcome(self, action: str, state: str, detail: str) -> Outcome:
        if self.has_end and action in ("elsewhere", "unknown"):
            action = "unkept"
        return Outcome(self.run.info.run_id, str(self.handle), action, state, detail)


class Reconciler:
    """Looks at all open runs of a tracking server, once or again and again."""

    def __init__(
        self,
        client: MlflowClient,
        configs: Mapping[str, Mapping[str, Any]],
        *,
        namespace: str | None = None,
        dry_run: bool = False,
        lost_grace_s: float = LOST_GRACE_S,
        unconfirmed_s: float = _UNCONFIRMED_S,
        progress: Progress | None = None,
    ) -> None:
        """Ask nobody yet.

        Args:
            client: For the tracking server.
            configs: The backends to look at, with the settings that reach their clusters.
            namespace: Only the jobs of this namespace of Kubernetes; all if None.
            dry_run: Say what would be written, and write nothing.
            lost_grace_s: How long a job must be unknown to its cluster to be lost.
            unconfirmed_s: How long after its run was made a submission may still be going on.
            progress: Told what could not be done.
        """
        self._client = client
        self._configs = configs
        self._namespace = namespace
        self._dry_run = dry_run
        self._lost_grace_s = lost_grace_s
        self._unconfirmed_s = unconfirmed_s
        self._progress = progress or Progress()
        self._jobs_write = entry_can_write(client.tracking_uri)
        self._schedulers: dict[str, Scheduler] = {}
        self._missing_since_s: dict[str, float] = {}
        self._clocks: dict[str, Clocks] = {}

    def once(self) -> Iterator[Outcome]:
        """Yield what became of every open run; waits for the grace where a job is not known."""
        submitted, unsubmitted = self._open()
        yield from map(self._unsubmitted, unsubmitted)
        again: list[_Open] = []
        for run, outcome in self._pass(submitted):
            if outcome.action == "missing":
                again.append(run)
            else:
                yield outcome
        if again:
            time.sleep(self._lost_grace_s)  # the stated grace: a cluster that has just restarted
            yield from (outcome for _, outcome in self._pass(again))

    def forever(
        self, interval_s: float = INTERVAL_S, stop: threading.Event | None = None
    ) -> Iterator[Outcome]:
        """Yield what changed, pass after pass, until told to stop."""
        stop = stop or threading.Event()
        said: dict[str, Outcome] = {}
        while not stop.is_set():
            seen: dict[str, Outcome] = {}
            try:
                submitted, unsubmitted = self._open()
                outcomes = (outcome for _, outcome in self._pass(submitted))
                for outcome in chain(map(self._unsubmitted, unsubmitted), outcomes):
                    seen[outcome.run_id] = outcome
                    if said.get(outcome.run_id) != outcome:
                        yield outcome
            except MlflowException as error:
                self._progress.changed(f"the tracking server cannot be asked: {error}")
                seen = said
            said = seen
            self._clocks = {k: v for k, v in self._clocks.items() if k in seen}
            self._missing_since_s = {
                k: v for k, v in self._missing_since_s.items() if k in seen
            }
            stop.wait(interval_s)

    # -- one pass ---------------------------------------------------------------------------

    def _open(self) -> tuple[list[_Open], list[Run]]:
        """Return the runs that name their job, and those that do not, or not yet."""
        submitted: list[_Open] = []
        unsubmitted: list[Run] = []
        ended_after_ms = int((time.time() - _LOOKED_AFTER_S) * 1000)
        found = chain(open_runs(self._client), unkept_runs(self._client, ended_after_ms))
        for run in {run.info.run_id: run for run in found}.values():  # one may end in between
            tags = run.data.tags
            if tags.get(TAG_BACKEND) not in self._configs:
                continue
            if not tags.get(TAG_HANDLE):
                unsubmitted.append(run)
                continue
            try:
                handle = JobHandle.parse(tags[TAG_HANDLE], tags.get(TAG_HANDLE_UID, ""))
            except HandleError as error:  # whoever may write a run may write this
                self._progress.changed(f"run {run.info.run_id}: {error}")
                continue
            place = (handle.scheme, handle.path[0])
            if self._namespace is None or place == ("k8s", self._namespace):
                submitted.append(_Open(run, handle))
        return submitted, unsubmitted

    def _unsubmitted(self, run: Run) -> Outcome:
        """End a run whose client died before it named a job; so there is none."""
        run_id, action, text = run.info.run_id, "ended", describe(_NEVER_SUBMITTED)
        if _has_end(run):
            action, text = "kept", "it never had a job"
        elif not self._is_over(run):
            return Outcome(run_id, "", "open", "QUEUED", _UNCONFIRMED)
        if self._dry_run:
            return Outcome(run_id, "", action, "FAILED", f"not written: {text}")
        store = MlflowRunStore(self._client)
        try:
            write_end(store, run_id, end_of(_NEVER_SUBMITTED), by="client")
            store.set_tags(run_id, {TAG_KEPT: "true"})
        except MlflowException as error:
            return Outcome(run_id, "", "unknown", "UNKNOWN", str(error))
        return Outcome(run_id, "", action, "FAILED", text)

    def _is_over(self, run: Run) -> bool:
        """Whether the run was made so long ago that nobody submits its job any more."""
        return time.time() - (run.info.start_time or 0) / 1000 >= self._unconfirmed_s

    def _pass(self, runs: Iterable[_Open]) -> Iterator[tuple[_Open, Outcome]]:
        places: dict[tuple[Any, ...], list[_Open]] = {}
        for run in runs:
            handle = run.handle
            places.setdefault((handle.scheme, handle.cluster, handle.path[:-1]), []).append(run)
        with ThreadPoolExecutor(_WORKERS, thread_name_prefix="mlflow-exec-reconcile") as pool:
            for members in places.values():
                try:
                    statuses = self._statuses(members)
                except HandleError:
                    text = "its cluster is none of those configured here"
                    yield from ((r, r.outcome("elsewhere", "UNKNOWN", text)) for r in members)
                    continue
                except MlflowExecError as error:
                    yield from ((r, r.outcome("unknown", "UNKNOWN", str(error))) for r in members)
                    continue
                found = [statuses.get(run.handle.name) for run in members]
                yield from zip(members, pool.map(self._treat, members, found), strict=True)

    def _statuses(self, members: Sequence[_Open]) -> dict[str, JobStatus]:
        """Return how the jobs of one place are, by name, from one list of them."""
        wanted = {run.handle.name: run.handle for run in members}
        statuses: dict[str, JobStatus] = {}
        # Any of them that is there shows the cluster; without one nobody is called lost.
        near = list(wanted.values())
        for handle, status in self._scheduler(near[0]).snapshot(near=near):
            asked = wanted.get(handle.name)
            if asked is None or asked.uid not in ("", handle.uid):
                continue
            # What a living job's record holds is of no use here, and there may be thousands.
            statuses[handle.name] = status if status.state.is_final else replace(status, native={})
        return statuses

    def _scheduler(self, handle: JobHandle) -> Scheduler:
        backend = registry.backend_of_scheme(handle.scheme)
        place = f"{handle.scheme}://{handle.cluster}"
        if place not in self._schedulers:
            settings = parse_settings(
                registry.load(backend.settings), self._configs[backend.name], "--backend-config"
            )
            self._schedulers[place] = registry.load(backend.scheduler, backend.extra)(settings)
        return self._schedulers[place]

    def _treat(self, run: _Open, status: JobStatus | None) -> Outcome:
        """Bring one run to what its job is; nothing that goes wrong stops the others."""
        run_id = run.run.info.run_id
        try:
            if status is None:
                return self._missing(run)
            self._missing_since_s.pop(run_id, None)
            if status.rough:
                status = self._scheduler(run.handle).status(run.handle)
            if status.state.is_final:
                return self._end(run, status)
            if run.has_end:
                return self._left(run, status)
            why = self._expired(run, status)
            if why is not None:
                return self._end(run, status, why)
            told = run.run.data.tags.get(TAG_STATE) == status.state.value
            stale = status.state is JobState.QUEUED
            if not (told or self._dry_run) and (stale or not self._jobs_write):
                note(self._job(run), status)
            return run.outcome("open", status.state.value, describe(status))
        except HandleError as error:
            return run.outcome("elsewhere", "UNKNOWN", str(error))
        except Exception as error:  # artifact stores have errors of their own
            return run.outcome("unknown", "UNKNOWN", f"{type(error).__name__}: {error}")

    def _missing(self, run: _Open) -> Outcome:
        now_s = time.monotonic()
        since_s = self._missing_since_s.setdefault(run.run.info.run_id, now_s)
        restarted = self._scheduler(run.handle).was_restarted(run.handle)
        if now_s - since_s < self._lost_grace_s and not restarted:
            return run.outcome("missing", "UNKNOWN", "its cluster does not know the job")
        if run.has_end:
            return self._kept(run, keep_rest, "its job is gone")
        if run.handle.uid:
            return self._end(run, None)
        if not self._is_over(run.run):
            return run.outcome("open", "UNKNOWN", _UNCONFIRMED)
        queued = run.run.data.tags.get(TAG_STATE) == JobState.QUEUED.value
        return self._interrupted(run) if queued else self._end(run, None)

    def _interrupted(self, run: _Open) -> Outcome:
        """End a run whose client died while it submitted: nothing that the cluster took."""
        if self._dry_run:
            text = f"not written: {describe(_NEVER_SUBMITTED)}"
            return run.outcome("ended", "FAILED", text)
        job = self._job(run)
        status = give_up(job, _INTERRUPTED)  # should there be a job by now, it is nobody's
        finish(job, status, job.log_keeper(), self._progress)
        return run.outcome("ended", status.state.value, describe(status))

    def _left(self, run: _Open, status: JobStatus) -> Outcome:
        """Remove a job that goes on though its run has ended, unless the job itself said so."""
        if run.run.data.tags.get(TAG_STATE_BY) == "entry":
            return run.outcome("unkept", status.state.value, "its run has ended, and it will now")
        return self._kept(run, keep_rest, "its job was left over and is removed")

    def _kept(self, run: _Open, keep: Callable[[Job, Progress], bool], text: str) -> Outcome:
        state = run.run.data.tags[TAG_STATE]
        if self._dry_run:
            return run.outcome("kept", state, f"not written: {text}")
        kept = keep(self._job(run), self._progress)
        return run.outcome("kept" if kept else "unkept", state, text)

    def _expired(self, run: _Open, status: JobStatus) -> Failure | None:
        """Return why a job that waits must be ended now; None if it may go on."""
        if status.state is JobState.UNKNOWN:
            return None
        run_id, now_s = run.run.info.run_id, time.monotonic()
        waits = status.state in (JobState.QUEUED, JobState.STARTING)
        if not waits or (status.held and status.state is JobState.QUEUED):
            self._clocks.pop(run_id, None)
            return None
        clocks = self._clocks.get(run_id)
        if clocks is None:
            clocks = self._clocks[run_id] = Clocks(self._job(run).settings)
        clocks.see(status, now_s)
        if clocks.doubts(now_s):
            clocks.see(look_closer(self._job(run)), now_s)
        return clocks.expired(now_s)

    def _end(self, run: _Open, status: JobStatus | None, why: Failure | None = None) -> Outcome:
        """Write an end: that of the status, of a clock that ran out, or of a lost job."""
        if run.has_end and status is not None:
            final = status
            text = f"its job ended: {describe(status)}"

            def keep(job: Job, progress: Progress) -> bool:
                return finish(job, final, job.log_keeper(final), progress)

            return self._kept(run, keep, text)
        job = self._job(run)
        if status is None:
            status = lost(job)
        if self._dry_run:
            again = why is None and may_go_on(job, status, run.run.data.tags)
            state = "FAILED" if why else status.state.value
            not_done = f"not {'submitted again' if again else 'written'}: {why or describe(status)}"
            return run.outcome("again" if again else "ended", state, not_done)
        if why is not None:
            status = give_up(job, why)
        later = go_on(job, status, job.log_keeper(), self._progress)
        if isinstance(later, Job):
            self._clocks.pop(job.run_id, None)
            text = f"goes on as {later.handle}: {describe(status)}"
            return run.outcome("again", JobState.QUEUED.value, text)
        finish(job, later, job.log_keeper(None if why else status), self._progress)
        return run.outcome("ended", later.state.value, describe(later))

    def _job(self, run: _Open) -> Job:
        config = self._configs[run.run.data.tags[TAG_BACKEND]]
        return job_of(self._client, run.run, config, self._scheduler(run.handle), to_end=True)


def _has_end(run: Run) -> bool:
    return run.data.tags.get(TAG_STATE) in FINAL_STATES

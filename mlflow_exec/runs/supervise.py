"""Follows a job to its end and writes the end on its run.

One path for everybody who waits: the command line, ``synchronous=True``, ``attach``.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator
from contextlib import closing, suppress
from dataclasses import replace

from mlflow.exceptions import MlflowException

from mlflow_exec.errors import (
    CancelError,
    ClusterError,
    JobNotFoundError,
    MlflowExecError,
    UnreachableError,
)
from mlflow_exec.jobs import Failure, FailureCategory, JobState, JobStatus
from mlflow_exec.runs.clocks import Clocks
from mlflow_exec.runs.ending import as_decided, end_of, keep_diagnosis, keep_usage, written_end
from mlflow_exec.runs.following import FollowedLog, Follower
from mlflow_exec.runs.job import Job
from mlflow_exec.runs.logs import LogKeeper
from mlflow_exec.runs.progress import Progress
from mlflow_exec.runs.resubmission import go_on, kept_objects, used_retries
from mlflow_exec.runtime.end import (
    FINAL_STATES,
    GIVEN_UP,
    TAG_ATTEMPT,
    TAG_CANCEL,
    TAG_KEPT,
    TAG_LOG_COMPLETE,
    TAG_STATE,
    failure_tags,
    write_end,
)

# A job that its cluster does not know (any more) is lost only after this time: schedulers answer
# without a job for some seconds after a restart.
LOST_GRACE_S = 30.0
_TICK_S = 1.0
# So long a client waits at a job's end for a tracking server that is away.
_AWAY_S = 3600.0
_AWAY_PAUSE_S = 2.0
_AWAY = "the tracking server does not answer; the end of the run is written when it is back"


def supervise(
    job: Job, *, on_log: Follower | None = None, progress: Progress | None = None
) -> JobStatus:
    """Follow a job until its end is written on the run, and return that end.

    It is the cluster's word, unless somebody else had ended the run before.

    Args:
        job: The job.
        on_log: Called with the pieces of the job's output, live.
        progress: Told of every change of the job's state.

    Raises:
        ClusterError: The cluster refuses to tell of the job (a missing right).
        MlflowException: The end cannot be written on the run.
    """
    followed: Job | tuple[JobStatus, JobStatus | None] = job
    while isinstance(followed, Job):
        job = followed
        followed = _followed(job, on_log, progress)
    status, written = followed
    if written is not None and written.state is not status.state:
        status = written
    if progress is not None:
        progress.changed(describe(status))
    return status


def _followed(
    job: Job, on_log: Follower | None, progress: Progress | None
) -> Job | tuple[JobStatus, JobStatus | None]:
    """Follow one job until its end is on the run; return that and what stands written.

    Or return the job that goes on for it.
    """
    keeper = job.log_keeper()
    with FollowedLog(job, keeper, on_log, progress) as log:
        while True:
            status = _until_final(job, keeper, progress)
            log.flush()
            try:
                ended = _finish_in_time(job, status, keeper, progress)
                log.show_rest()
                return ended
            except UnreachableError as error:  # soon its status says so, too
                if progress is not None:
                    progress.changed(f"the job cannot be submitted again now: {error}")


def _finish_in_time(
    job: Job, status: JobStatus, keeper: LogKeeper, progress: Progress | None
) -> Job | tuple[JobStatus, JobStatus | None]:
    """Write the end as `finish` does, when there is a server to write it to; return what stands.

    A job that the cluster took is submitted again instead, and returned.
    """
    give_up_s = time.monotonic() + _AWAY_S
    while True:
        try:
            # First of all, as a log and a diagnosis that cannot be kept stop nothing.
            job.store.read(job.run_id)
            later = go_on(job, status, keeper, progress)
            if isinstance(later, Job):
                return later
            finish(job, later, keeper, progress)
            return later, written_end(job.store.read(job.run_id).tags)
        except MlflowException as error:
            if error.get_http_status_code() < 500 or time.monotonic() > give_up_s:
                raise
        if progress is not None:
            progress.changed(_AWAY)
        time.sleep(_AWAY_PAUSE_S)  # the pause between two questions for a server that is away


def _until_final(job: Job, keeper: LogKeeper, progress: Progress | None) -> JobStatus:
    clocks = Clocks(job.settings)
    with closing(_statuses(job)) as statuses:
        for status in statuses:
            now_s = time.monotonic()
            if status is not None:
                if status.state.is_final:
                    return status
                if progress is not None:
                    progress.changed(describe(status))
                note(job, status)
                clocks.see(status, now_s)
            if clocks.doubts(now_s):
                clocks.see(look_closer(job), now_s)
            why = clocks.expired(now_s)
            if why is not None:
                keeper.capture(job.scheduler, job.handle)
                return give_up(job, why)
    return lost(job)


def look_closer(job: Job) -> JobStatus:
    """Return a live job's status with all that the cluster tells of how long it has waited."""
    try:
        status = job.scheduler.status(job.handle)
    except (JobNotFoundError, ClusterError) as error:
        return JobStatus(JobState.UNKNOWN, str(error))
    # What it does not tell has been so since now.
    return replace(status, fails_s=status.fails_s or 0.0)


def note(job: Job, status: JobStatus) -> None:
    """Write a live job's state on the run, where the job itself cannot, or does not know it.

    A first step that reaches the run knows better what it does; but not that it was put back into
    the queue, and then its last word is stale.
    """
    wanted = status.state.mlflow_status
    if wanted is None or (job.writes_state and status.state is not JobState.QUEUED):
        return
    tags = {TAG_STATE: status.state.value}
    with suppress(MlflowException):  # the end is what matters; this is for those who look now
        record = job.store.read(job.run_id)
        if record.tags.get(TAG_STATE) in FINAL_STATES:
            return
        if not job.writes_state:
            tags[TAG_ATTEMPT] = str(used_retries(record.tags) + status.attempt)
        if all(record.tags.get(key) == value for key, value in tags.items()):
            return
        if job.writes_state and look_closer(job).state is not status.state:
            return  # it has started since
        job.store.set_tags(job.run_id, tags)
        job.store.set_status(job.run_id, wanted, None)


def _statuses(job: Job) -> Generator[JobStatus | None, None, None]:
    """Yield the job's statuses as they come, and None at least once a second in between.

    Ends when the cluster has not known the job for `LOST_GRACE_S`, or was started anew.
    """
    said: queue.SimpleQueue[JobStatus | Exception | None] = queue.SimpleQueue()
    stop = threading.Event()

    def run() -> None:
        unknown_since_s: float | None = None
        try:
            while not stop.is_set():
                for _, status in job.scheduler.watch([job.handle], stop):
                    if status is None:
                        break
                    unknown_since_s = None
                    said.put(status)
                    if status.state.is_final:
                        return
                unknown_since_s = unknown_since_s or time.monotonic()
                late = time.monotonic() - unknown_since_s > LOST_GRACE_S
                try:
                    if job.scheduler.was_restarted(job.handle) or late:
                        said.put(None)
                        return
                except UnreachableError:
                    unknown_since_s = None
                stop.wait(_TICK_S)  # the pause between two questions for a job not known
        except Exception as error:
            said.put(error)

    threading.Thread(target=run, name="mlflow-exec-watch", daemon=True).start()
    try:
        while True:
            try:
                item = said.get(timeout=_TICK_S)
            except queue.Empty:
                yield None
                continue
            if isinstance(item, Exception):
                raise item
            if item is None:
                return
            yield item
    finally:
        stop.set()


def give_up(job: Job, why: Failure) -> JobStatus:
    """End a job whose clock ran out: the native job goes, the run says why."""
    message = why.message
    # Whoever else follows the job sees it go, and is to know why; and so if we die now.
    decided = {TAG_CANCEL: GIVEN_UP, **failure_tags(end_of(JobStatus(JobState.FAILED, "", why)))}
    try:
        with suppress(MlflowException):
            job.store.set_tags(job.run_id, decided)
        job.scheduler.cancel(job.handle, timeout_s=job.settings.cancel_timeout_s)
        ended = after_cancel(job)
        if ended is not None:
            return ended
    except (CancelError, ClusterError) as error:
        message = f"{message} And the job could not be removed: {error}"
    failure = Failure(why.category, message, why.hint)
    return JobStatus(JobState.FAILED, message, failure, hopeless=True)


def after_cancel(job: Job) -> JobStatus | None:
    """Return how the job ended by itself just before it was cancelled; None if it did not."""
    try:
        status = job.scheduler.status(job.handle)
    except (JobNotFoundError, ClusterError):
        return None
    return status if status.state in (JobState.SUCCEEDED, JobState.FAILED) else None


def lost(job: Job) -> JobStatus:
    """Return the end of a job of which its cluster has no trace: the run's own, if it has one."""
    tags = job.store.read(job.run_id).tags
    written = written_end(tags)
    if written is not None:
        return written
    if tags.get(TAG_CANCEL):  # it went later than the one who cancelled it could wait
        return as_decided(JobStatus(JobState.CANCELLED), tags)
    restarted = False
    with suppress(UnreachableError):  # asked a moment ago, for the same purpose
        restarted = job.scheduler.was_restarted(job.handle)
    if restarted:
        message = "The cluster was started anew, and the job ended with it."
        why = Failure(FailureCategory.NODE_LOST, message, "Submit it again.")
        return JobStatus(JobState.FAILED, message, why)
    message = "The cluster does not know the job any more, and nobody saw how it ended."
    hint = "It was deleted, or its cluster was made anew. Submit it again."
    return JobStatus(JobState.FAILED, message, Failure(FailureCategory.LOST, message, hint))


def finish(
    job: Job, status: JobStatus, keeper: LogKeeper | None = None, progress: Progress | None = None
) -> bool:
    """Keep a finished job's log and diagnosis, then write the end of its run.

    Safe to repeat. The end of a job that was taken away is the one that was decided before. What
    cannot be kept is told and stops nothing: the end matters more.

    Returns:
        Whether all was kept; else what is left of the job is in the cluster only.
    """
    keeper = keeper or job.log_keeper()
    status = as_decided(status, job.store.read(job.run_id).tags)
    say = progress.say if progress is not None else (lambda _: None)
    trouble = keeper.keep(job.scheduler, job.handle)
    if trouble:
        say(trouble)
    kept = keeper.kept
    if status.native or status.failure:
        try:
            keep_diagnosis(job.artifacts, job.handle, status)
        except Exception as error:  # each artifact store has errors of its own
            kept = False
            say(f"the diagnosis could not be kept on the run: {error}")
    write_end(job.store, job.run_id, end_of(status), by="client", log_complete=keeper.whole)
    if status.usage:
        try:
            keep_usage(job.client, job.run_id, job.handle, status)
        except MlflowException as error:
            say(f"what the job used could not be written on the run: {error}")
    return kept and retire(job, progress)


def keep_rest(job: Job, progress: Progress | None = None) -> bool:
    """Keep what there still is of a job whose run has its end, and leave nothing of it running.

    Returns:
        Whether all was kept that there was.

    Raises:
        CancelError: Something of it still runs.
    """
    keeper = job.log_keeper()
    keeper.capture(job.scheduler, job.handle)
    job.scheduler.cancel(job.handle, timeout_s=job.settings.cancel_timeout_s)
    trouble = keeper.keep(job.scheduler, job.handle)
    if trouble and progress is not None:
        progress.say(trouble)
    return keeper.kept and retire(job, progress, keeper.whole)


def retire(
    job: Job, progress: Progress | None = None, log_complete: bool = False
) -> bool:
    """Let the cluster forget a job of which all was kept; then nobody looks at it again.

    Args:
        job: The job.
        progress: Told what could not be done.
        log_complete: Whether the run is to be told to hold the whole log.

    Returns:
        Whether that is done.
    """
    try:
        ttl_s = getattr(job.settings, "ttl_s", None)
        job.scheduler.retire(job.handle, ttl_s, lambda: kept_objects(job))
        whole = {TAG_LOG_COMPLETE: "true"} if log_complete else {}
        job.store.set_tags(job.run_id, {**whole, TAG_KEPT: "true"})
    except (MlflowExecError, MlflowException) as error:
        if progress is not None:
            progress.say(f"the finished job may stay in the cluster: {error}")
        return False
    return True


def describe(status: JobStatus) -> str:
    """Return one line for people: the state, and what the job waits for or why it failed."""
    if status.state is JobState.FAILED and status.failure is not None:
        return f"FAILED: {status.failure}"
    if status.state is JobState.SUCCEEDED:
        return "SUCCEEDED"
    return f"{status.state.value}{': ' + status.message if status.message else ''}"

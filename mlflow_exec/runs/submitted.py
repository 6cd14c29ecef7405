"""The handle that MLflow and Python callers hold of a submitted project."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress

from mlflow.exceptions import ExecutionException
from mlflow.projects import SubmittedRun

from mlflow_exec.errors import (
    ArtifactError,
    ClusterError,
    ConfigError,
    HandleError,
    JobNotFoundError,
    NotFoundError,
)
from mlflow_exec.jobs import Failure, JobHandle, JobState, JobStatus
from mlflow_exec.runs.ending import written_end, written_failure
from mlflow_exec.runs.following import Follower
from mlflow_exec.runs.job import Job
from mlflow_exec.runs.progress import Progress
from mlflow_exec.runs.resubmission import successor
from mlflow_exec.runs.supervise import after_cancel, finish, supervise
from mlflow_exec.runtime.end import (
    CANCEL_REQUESTED,
    FINAL_STATES,
    TAG_CANCEL,
    TAG_KEPT,
    TAG_STATE,
)
from mlflow_exec.settings import BackendSettings


class ExecSubmittedRun(SubmittedRun):  # type: ignore[misc]
    """A project that runs on a cluster."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @property
    def run_id(self) -> str:
        """The MLflow run."""
        return self._job.run_id

    @property
    def handle(self) -> JobHandle:
        """The job's address, valid on any machine."""
        return self._job.handle

    @property
    def settings(self) -> BackendSettings:
        """With what the job was submitted."""
        return self._job.settings

    def _tags(self) -> Mapping[str, str]:
        """Return the run's tags, and look at the job that they name from now on."""
        tags = self._job.store.read(self.run_id).tags
        self._job = successor(self._job, tags) or self._job
        return tags

    def status(self) -> JobStatus:
        """Return the job's status: of the run where it has ended, else of the cluster."""
        tags = self._tags()
        written = written_end(tags)
        if written is not None:
            return written
        try:
            status = self._job.scheduler.glance(self.handle)
        except JobNotFoundError as error:
            return JobStatus(JobState.UNKNOWN, str(error))
        except (ClusterError, HandleError) as error:
            return JobStatus(JobState.UNKNOWN, f"the cluster cannot be asked: {error}")
        starting = tags.get(TAG_STATE) == JobState.STARTING.value
        if status.state is JobState.RUNNING and starting:
            # The cluster sees a running container; only its first step knows better.
            return JobStatus(JobState.STARTING, "prepares its source and environment",
                             attempt=status.attempt, native=status.native)  # fmt: skip
        return status

    def get_status(self) -> str:
        """Return MLflow's word for the job's state; the run's own status where nothing is known."""
        status = self.status().state.mlflow_status
        return status or self._job.store.read(self.run_id).status

    @property
    def failure(self) -> Failure | None:
        """Why the run failed, as its tags say; None if it did not, or has not ended."""
        return written_failure(self._job.store.read(self.run_id).tags)

    def wait(self) -> bool:
        """Wait until the end is written on the run; True if the job succeeded."""
        tags = self._tags()
        written = written_end(tags)
        if written is not None and (tags.get(TAG_KEPT) == "true" or not self._is_there()):
            return written.state is JobState.SUCCEEDED
        return self.follow().state is JobState.SUCCEEDED

    def _is_there(self) -> bool:
        """Whether the cluster still has the job, so that what it knows of it can be kept."""
        try:
            self._job.scheduler.status(self.handle)
        except Exception:  # the run has ended: what cannot be looked at is not worth an error
            return False
        return True

    def follow(
        self, on_log: Follower | None = None, progress: Progress | None = None
    ) -> JobStatus:
        """Wait like `wait`, showing the log and the states on the way.

        Raises:
            ExecutionException: Somebody has to be asked who does not answer, or refuses.
        """
        try:
            status = supervise(self._job, on_log=on_log, progress=progress)
            self._tags()
            return status
        except (ArtifactError, ClusterError, HandleError) as error:
            raise ExecutionException(f"{self.handle}: {error}") from error

    def cancel(self) -> None:
        """Stop the job, leave nothing of it running, and end the run as KILLED.

        A finished job keeps its result.

        Raises:
            CancelError: Something of it is still running.
        """
        cancelled = None
        while cancelled != self.handle:  # somebody may just have submitted it again
            cancelled = self.handle
            self._cancel_one()
            self._tags()

    def _cancel_one(self) -> None:
        if self._tags().get(TAG_STATE) in FINAL_STATES:
            # Normally nothing is left; a clock's cancellation may have failed.
            with suppress(HandleError, ConfigError, ClusterError):
                self._job.scheduler.cancel(self.handle, timeout_s=self.settings.cancel_timeout_s)
            return
        keeper = self._job.log_keeper()
        job = self._job
        try:
            before = job.scheduler.status(self.handle)
        except JobNotFoundError:
            before = JobStatus(JobState.UNKNOWN)
        if before.state.is_final:
            if before.state is JobState.CANCELLED:  # perhaps it was not carried out everywhere
                job.scheduler.cancel(self.handle, timeout_s=job.settings.cancel_timeout_s)
            finish(job, before, keeper)
            return
        keeper.capture(job.scheduler, self.handle)
        # Should it outlast us, or we die now: who finds the job gone knows why.
        job.store.set_tags(self.run_id, {TAG_CANCEL: CANCEL_REQUESTED})
        job.scheduler.cancel(self.handle, timeout_s=job.settings.cancel_timeout_s)
        message = "The job was cancelled."
        cancelled = JobStatus(JobState.CANCELLED, message, native=before.native)
        finish(job, after_cancel(job) or cancelled, keeper)

    def logs(self, *, follow: bool = False) -> Iterator[str]:
        """Yield the job's output: from the run once it is kept there, else from the cluster."""
        keeper = self._job.log_keeper()
        ended = self._tags().get(TAG_STATE) in FINAL_STATES
        if keeper.is_complete() and (ended or not follow):
            yield from keeper.read()
            return
        some = False
        with suppress(JobNotFoundError, NotFoundError):
            for piece in self._job.scheduler.logs(self.handle, follow=follow):
                some = True
                yield piece
        if not some:
            yield from keeper.read()

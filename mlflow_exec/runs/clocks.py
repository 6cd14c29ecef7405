"""The clocks that end a job which does not start: pure decisions over what was seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlflow_exec.jobs import Failure, FailureCategory, JobState, JobStatus
from mlflow_exec.settings import BackendSettings


@dataclass
class Clocks:
    """Tells when a job has waited too long; give it every status, in order.

    Times are seconds of one monotonic clock.
    """

    settings: BackendSettings
    _state: JobState | None = None
    _since_s: float = 0.0
    _pull_since_s: float | None = None
    _status: JobStatus | None = None
    _unknown_since_s: float | None = None

    def see(self, status: JobStatus, now_s: float) -> None:
        """Take note of a status."""
        if status.state is JobState.UNKNOWN:
            if self._unknown_since_s is None:
                self._unknown_since_s = now_s
            return
        if self._unknown_since_s is not None:
            # Nobody saw what happened meanwhile, so it counts for nothing.
            unseen_s = now_s - self._unknown_since_s
            self._since_s += unseen_s
            if self._pull_since_s is not None:
                self._pull_since_s += unseen_s
            self._unknown_since_s = None
        # The time that a queue holds a job does not count: the clock starts anew after it.
        freed = self._status is not None and self._status.held and not status.held
        if status.state is not self._state or (freed and status.state is JobState.QUEUED):
            self._state, self._since_s = status.state, now_s
        pulling = _is_image_problem(status) and not status.held
        if not pulling:
            self._pull_since_s = None
        elif self._pull_since_s is None:
            self._pull_since_s = now_s
        self._status = status

    def expired(self, now_s: float) -> Failure | None:
        """Return the failure with which to end the job now, or None."""
        settings, status = self.settings, self._status
        waited_s = now_s - self._since_s
        if status is None or self._unknown_since_s is not None:
            return None
        if status.abandoned:
            return status.failure
        grace_s: float = getattr(settings, "image_pull_grace_s", math.inf)
        pulling_s = 0.0 if self._pull_since_s is None else now_s - self._pull_since_s
        if self._pull_since_s is not None and pulling_s >= grace_s:
            return status.failure
        queue_s = settings.queue_timeout_s
        queued = self._state is JobState.QUEUED and not status.held
        if queued and queue_s is not None and waited_s >= queue_s:
            return _late(status, f"got no resources within queue_timeout_s ({queue_s:g} s)")
        start_s = settings.start_timeout_s
        if self._state is JobState.STARTING and start_s is not None and waited_s >= start_s:
            return _late(status, f"did not start within start_timeout_s ({start_s:g} s)")
        return None


def _is_image_problem(status: JobStatus) -> bool:
    return status.failure is not None and status.failure.category is FailureCategory.IMAGE_PULL


def _late(status: JobStatus, what: str) -> Failure:
    if status.failure is not None:
        why = status.failure
        return Failure(why.category, f"The job {what}: {why.message}", why.hint)
    return Failure(
        FailureCategory.UNSCHEDULABLE,
        f"The job {what}: {status.message or 'the cluster gives no reason'}.",
        "Raise the time-out, ask for less, or wait until the cluster is less busy.",
    )

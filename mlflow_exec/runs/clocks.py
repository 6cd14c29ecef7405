"""The clocks that end a job which does not start: pure decisions over what was seen."""

from __future__ import annotations

import math
from dataclasses import dataclass

from mlflow_exec.jobs import Failure, FailureCategory, JobState, JobStatus
from mlflow_exec.settings import BackendSettings


@dataclass
class Clocks:
    """Tells when a job has waited too long; give it every status, in order.

    How long it has waited is the cluster's word where the cluster tells it, so that one look is
    enough; else it is what was seen. Times are seconds of one monotonic clock.
    """

    settings: BackendSettings
    _state: JobState | None = None
    _since_s: float = 0.0
    _pull_since_s: float | None = None
    _pull_told: bool = False
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
        if status.waits_s is not None:
            self._since_s = now_s - status.waits_s
        self._see_pull(status, now_s)
        self._status = status

    def _see_pull(self, status: JobStatus, now_s: float) -> None:
        if not _is_image_problem(status) or status.held:
            self._pull_since_s, self._pull_told = None, False
            return
        if self._pull_since_s is None:
            self._pull_since_s = now_s
        if status.fails_s is not None:
            self._pull_told = True
            self._pull_since_s = min(self._pull_since_s, now_s - status.fails_s)

    def doubts(self, now_s: float) -> bool:
        """Whether a closer look could tell more of a job that would be ended now.

        Its image has perhaps been failing for as long as it is on its node; or it is not known what
        it waits for. Only events tell that, and they are not in every status.
        """
        failing = self._pull_since_s is not None and not self._pull_told
        if failing and now_s - self._since_s >= self._pull_grace_s:
            return True
        unexplained = self._status is not None and self._status.failure is None
        return unexplained and self.expired(now_s) is not None

    @property
    def _pull_grace_s(self) -> float:
        grace_s: float = getattr(self.settings, "image_pull_grace_s", math.inf)
        return grace_s

    def expired(self, now_s: float) -> Failure | None:
        """Return the failure with which to end the job now, or None."""
        settings, status = self.settings, self._status
        waited_s = now_s - self._since_s
        if status is None or self._unknown_since_s is not None:
            return None
        if status.hopeless:
            return status.failure
        pulling_s = 0.0 if self._pull_since_s is None else now_s - self._pull_since_s
        if self._pull_since_s is not None and pulling_s >= self._pull_grace_s:
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
    queued = status.state is JobState.QUEUED
    return Failure(
        FailureCategory.UNSCHEDULABLE if queued else FailureCategory.INFRASTRUCTURE,
        f"The job {what}: {status.message or 'the cluster gives no reason'}.",
        "Raise the time-out, ask for less, or wait until the cluster is less busy.",
    )

"""Follows jobs on systems that have no watch, by asking again and again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mlflow_exec.jobs import JobHandle, JobStatus

# A job that has run for a minute is not worth being asked for more often than this.
_SLOW_TICK_S = 1.0
_SLOW_AFTER_S = 60.0


def pause_s(followed_s: float, first_s: float) -> float:
    """Return how long to wait before the next question.

    Args:
        followed_s: How long the job was followed so far.
        first_s: The pause at first.
    """
    return _SLOW_TICK_S if followed_s > _SLOW_AFTER_S else first_s


@dataclass
class Tracked:
    """One job that is followed, and what was last said of it."""

    handle: JobHandle
    said: JobStatus | None = None
    over: bool = False

    def say(self, status: JobStatus | None) -> Iterator[tuple[JobHandle, JobStatus | None]]:
        """Yield a status unless it was said before, as `Scheduler.watch` promises."""
        if self.over or (status is not None and status == self.said):
            return
        self.said = status
        self.over = status is None or status.state.is_final
        yield self.handle, status

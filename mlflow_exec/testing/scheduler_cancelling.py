"""The part of the schedulers' conformance suite that stops jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest

from mlflow_exec.jobs import JobHandle, JobState
from mlflow_exec.testing.collecting import until
from mlflow_exec.testing.jobs import WAIT, JobMaker, Submitted, known, snapshot

# A build back end of the project's own: installing it needs no network, and never ends.
_ENDLESS_PACKAGE = {
    "endless/pyproject.toml": "[build-system]\nrequires = []\nbuild-backend = 'back'\n"
    "backend-path = ['.']\n",
    "endless/back.py": "import signal\n"
    "def build_wheel(*args): signal.pause()\n"
    "def get_requires_for_build_wheel(*args): return []\n",
}

StillRunning = Callable[[JobHandle], list[str]]


class CancellingConformance:
    """Stopping a job at every time of its life leaves nothing of it running."""

    queued: ClassVar[Mapping[str, Any] | None] = None
    starting: ClassVar[Mapping[str, Any] | None] = None

    @pytest.fixture
    def still_running(self) -> StillRunning:
        """Name what runs of a job, as the system's own tools see it; to be overridden."""
        return lambda _: []

    def _cancel(self, job: Submitted, still_running: StillRunning) -> None:
        seen = job.statuses()
        seen.until(bool, "a first status")
        job.scheduler.cancel(job.handle)
        assert still_running(job.handle) == []
        assert [s for s in snapshot(job.scheduler, job.spec.run_id).values()
                if not s.state.is_final] == []  # fmt: skip
        last = seen.all()[-1]
        assert last is not None
        assert last.state is JobState.CANCELLED
        after = known(job.scheduler, job.handle)
        assert after is None or after.state is JobState.CANCELLED
        job.scheduler.cancel(job.handle)

    def _tells_how_long_it_waits(self, job: Submitted, begun_s: float) -> None:
        """Look once more, as somebody does who comes late: the cluster has kept the time."""

        def waits_s() -> float:
            (status,) = snapshot(job.scheduler, job.spec.run_id).values()
            told_s = status.waits_s or 0.0  # a job so young may not be noted yet
            return told_s if told_s >= 2 else 0.0

        waited_s = until(waits_s, "it is told that the job has waited for two seconds")
        assert waited_s <= time.monotonic() - begun_s + 2, "a cluster's times are whole seconds"

    def test_a_queued_job_is_cancelled(self, jobs: JobMaker, still_running: StillRunning) -> None:
        if self.queued is None:
            pytest.skip("nothing makes a job wait for ever on this system")
        begun_s = time.monotonic()
        job = jobs.submit(WAIT, **self.queued)
        status = job.reaches(JobState.QUEUED)
        assert not status.held
        self._tells_how_long_it_waits(job, begun_s)
        self._cancel(job, still_running)

    def test_a_starting_job_is_cancelled(self, jobs: JobMaker, still_running: StillRunning) -> None:
        if self.starting is None:
            pytest.skip("nothing keeps a job from starting on this system")
        begun_s = time.monotonic()
        job = jobs.submit(WAIT, **self.starting)
        job.reaches(JobState.STARTING)
        self._tells_how_long_it_waits(job, begun_s)
        self._cancel(job, still_running)

    def test_a_job_that_prepares_its_environment_is_cancelled(
        self, jobs: JobMaker, still_running: StillRunning
    ) -> None:
        job = jobs.submit(WAIT, files=_ENDLESS_PACKAGE, requirements=("./endless",))
        job.says("/endless")  # pip says "Processing ./endless", uv "Building file:///…/endless"
        self._cancel(job, still_running)

    def test_a_running_job_is_cancelled(self, jobs: JobMaker, still_running: StillRunning) -> None:
        job = jobs.submit(WAIT)
        job.says("it waits")
        self._cancel(job, still_running)

    def test_a_job_that_does_not_listen_is_cancelled(
        self, jobs: JobMaker, still_running: StillRunning
    ) -> None:
        deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        job = jobs.submit(deaf + WAIT)
        job.says("it waits")
        self._cancel(job, still_running)

    @pytest.mark.parametrize(
        ("program", "state"), [("", JobState.SUCCEEDED), ("raise SystemExit(7)", JobState.FAILED)]
    )
    def test_a_finished_job_keeps_its_result(
        self, jobs: JobMaker, program: str, state: JobState
    ) -> None:
        job = jobs.submit(program)
        assert job.ends().state is state
        job.scheduler.cancel(job.handle)
        job.scheduler.cancel(job.handle)
        assert job.scheduler.status(job.handle).state is state

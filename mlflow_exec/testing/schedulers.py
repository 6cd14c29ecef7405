"""The conformance suite of schedulers: the contract of `Scheduler` in executable form.

A subclass in a test module runs it against a real system::

    class TestMyScheduler(SchedulerConformance):
        scheduler_class = MyScheduler
        settings_class = MySettings
        queued = {"resources": {"cpu": 100_000}}

        @pytest.fixture
        def settings(self):
            return {"address": "http://head:8265"}

        @pytest.fixture
        def other_settings(self, settings):
            return settings | {"token_file": "another-users-token"}

        @pytest.fixture
        def occupy(self):
            return lambda name: start_a_job_by_hand(name)

To see the values in failed assertions, have a ``conftest.py`` call
``pytest.register_assert_rewrite("mlflow_exec.testing")``.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ConflictError, JobNotFoundError
from mlflow_exec.jobs import JobHandle, JobState
from mlflow_exec.schedulers.base import Scheduler
from mlflow_exec.settings import BackendSettings, parse_settings
from mlflow_exec.testing.collecting import Collected, until
from mlflow_exec.testing.jobs import WAIT, JobMaker, known, snapshot, stranger_to
from mlflow_exec.testing.scheduler_cancelling import CancellingConformance
from mlflow_exec.testing.scheduler_ends import EndsConformance
from mlflow_exec.testing.scheduler_logs import LogsConformance


class SchedulerConformance(CancellingConformance, EndsConformance, LogsConformance):
    """What every scheduler does; see the module for how to run it.

    Attributes:
        scheduler_class: The class under test.
        settings_class: The class of its settings.
        queued: Settings with which a job waits for resources for ever; None if there are none.
        starting: Settings with which a job never gets past its start; None if there are none.
        memory_limit: Settings with which a job is killed when it uses 256 MiB; None if the system
            sets no limits.
    """

    scheduler_class: ClassVar[type[Any]]
    settings_class: ClassVar[type[BackendSettings]]

    @pytest.fixture
    def settings(self) -> Mapping[str, Any]:
        """The settings that reach the system; to be overridden."""
        raise NotImplementedError

    @pytest.fixture
    def other_settings(self, settings: Mapping[str, Any]) -> Mapping[str, Any]:
        """Settings that reach the same system otherwise: another user, another address."""
        return settings

    @pytest.fixture
    def occupy(self) -> Callable[[str], None]:
        """Start a job of that name without mlflow-exec; to be overridden."""
        raise NotImplementedError

    @pytest.fixture
    def jobs(self, settings: Mapping[str, Any], tmp_path: Path) -> Iterator[JobMaker]:
        """Makes jobs on the system, and removes them after the test."""

        def make_settings(further: Mapping[str, Any]) -> BackendSettings:
            env = {**settings.get("env", {}), **further.get("env", {})}
            return parse_settings(self.settings_class, {**settings, **further, "env": env}, "test")

        maker = JobMaker(self.scheduler_class, make_settings, tmp_path)
        yield maker
        maker.close()

    @pytest.fixture
    def other_scheduler(self, other_settings: Mapping[str, Any]) -> Scheduler:
        """A scheduler that has nothing in common with the submitting one but the system."""
        scheduler: Scheduler = self.scheduler_class(
            parse_settings(self.settings_class, other_settings, "test")
        )
        return scheduler

    # -- planning ---------------------------------------------------------------------------

    def test_a_plan_is_pure(self, jobs: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
        spec = jobs.spec("")

        def refuse(*_: object) -> None:
            raise AssertionError("planning used the network")

        monkeypatch.setattr(socket.socket, "connect", refuse)
        _, first = jobs.plan(spec)
        _, second = jobs.plan(spec)
        assert first == second

    def test_a_plan_can_be_printed_and_holds_no_secret_value(self, jobs: JobMaker) -> None:
        def read() -> str:
            raise AssertionError("planning read a secret")

        secrets = {"API_TOKEN": Secret("a file", read), "PIN": Secret.of("82-44-17", "a sheet")}
        _, plan = jobs.plan(jobs.spec("", secrets=secrets))
        printed = plan.to_yaml()
        assert list(yaml.safe_load_all(printed)) == list(plan.objects)
        assert plan.spec.name in printed
        assert "82-44-17" not in printed + repr(plan)

    def test_the_preflight_creates_nothing(self, jobs: JobMaker) -> None:
        spec = jobs.spec("")
        scheduler, plan = jobs.plan(spec)
        scheduler.check(plan)
        assert snapshot(scheduler, spec.run_id) == {}

    # -- submitting -------------------------------------------------------------------------

    def test_submitting_twice_gives_the_same_job(self, jobs: JobMaker) -> None:
        job = jobs.submit(WAIT)
        again = self.scheduler_class(job.spec.settings)
        assert again.submit(job.plan) == job.scheduler.submit(job.plan) == job.handle
        assert again.submit(job.plan).uid == job.handle.uid
        assert list(snapshot(job.scheduler, job.spec.run_id)) == [job.handle]

    def test_somebody_elses_job_of_the_same_name_is_left_alone(
        self, jobs: JobMaker, occupy: Callable[[str], None]
    ) -> None:
        spec = jobs.spec("")
        scheduler, plan = jobs.plan(spec)
        occupy(spec.name)
        with pytest.raises(ConflictError, match="not of this run"):
            scheduler.submit(plan)
        assert snapshot(scheduler, spec.run_id) == {}
        with pytest.raises(AssertionError):  # it is still there: the name cannot be taken again
            occupy(spec.name)

    def test_two_jobs_are_two_jobs(self, jobs: JobMaker) -> None:
        one, two = jobs.submit(WAIT), jobs.submit(WAIT)
        assert one.handle != two.handle
        assert list(snapshot(one.scheduler, one.spec.run_id)) == [one.handle]
        assert {one.handle, two.handle} <= set(snapshot(one.scheduler))

    # -- finding it again -------------------------------------------------------------------

    def test_a_handle_is_the_same_after_being_written_down(self, jobs: JobMaker) -> None:
        handle = jobs.submit("").handle
        assert JobHandle.parse(str(handle), handle.uid) == handle
        assert handle.name.startswith("mlflow-")

    def test_another_process_finds_the_job_by_its_handle(
        self, jobs: JobMaker, other_scheduler: Scheduler
    ) -> None:
        job = jobs.submit(WAIT)
        job.says("it waits")
        handle = JobHandle.parse(str(job.handle), job.handle.uid)
        status = other_scheduler.status(handle)
        assert status.state is JobState.RUNNING
        assert "it waits" in "".join(other_scheduler.logs(handle))
        seen = job.statuses()
        seen.until(bool, "a first status")
        other_scheduler.cancel(handle)
        last = seen.all()[-1]
        assert last is not None
        assert last.state is JobState.CANCELLED

    def test_a_job_that_never_was_is_not_known(self, jobs: JobMaker) -> None:
        job = jobs.submit("")
        stranger = stranger_to(job.handle)
        assert list(job.scheduler.watch([stranger])) == [(stranger, None)]
        with pytest.raises(JobNotFoundError, match=stranger.name):
            job.scheduler.status(stranger)
        job.scheduler.cancel(stranger)

    def test_a_later_namesake_is_not_taken_for_the_job(self, jobs: JobMaker) -> None:
        job = jobs.submit(WAIT)
        assert job.handle.uid
        job.says("it waits")
        earlier = JobHandle.parse(str(job.handle), "an-earlier-one")
        assert known(job.scheduler, earlier) is None
        assert Collected(job.scheduler.watch([earlier])).all() == [(earlier, None)]
        job.scheduler.cancel(earlier, timeout_s=60)
        assert job.scheduler.status(job.handle).state is JobState.RUNNING

    def test_a_wait_that_is_over_watches_no_longer(self, jobs: JobMaker) -> None:
        job = jobs.submit(WAIT)
        job.says("it waits")
        before = threading.active_count()
        assert job.scheduler.wait(job.handle, timeout_s=2).state is JobState.RUNNING
        until(lambda: threading.active_count() <= before, "the watch has stopped")

    def test_a_snapshot_tells_how_jobs_are(self, jobs: JobMaker) -> None:
        job = jobs.submit("raise SystemExit(7)")
        last = job.ends()
        (found,) = snapshot(job.scheduler, job.spec.run_id).values()
        assert (found.state, found.failure) == (last.state, last.failure)

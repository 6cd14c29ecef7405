"""The seam between jobs and the systems that run them.

A scheduler turns a `JobSpec` into a native job and the native record into a `JobStatus`. It knows
nothing of MLflow, and schedulers know nothing of each other. The conformance suite in
`mlflow_exec.testing` is the contract in executable form.
"""

from __future__ import annotations

import queue
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from mlflow_exec.credentials import Secret
from mlflow_exec.errors import JobNotFoundError
from mlflow_exec.jobs import JobHandle, JobSpec, JobState, JobStatus
from mlflow_exec.reports import Finding, Report
from mlflow_exec.settings import BackendSettings
from mlflow_exec.templates import to_yaml


@dataclass(frozen=True)
class Plan:
    """What would be created, before anything is; printable, without any secret value.

    Attributes:
        spec: What was asked.
        objects: The native objects in the order of their creation.
        data: Bytes that belong to an object but are not fit to print, by name in the object.
        secrets: Values that travel in a Secret object; read only when it is created.
    """

    spec: JobSpec
    objects: tuple[Mapping[str, Any], ...]
    data: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, Secret] = field(default_factory=dict)

    def to_yaml(self) -> str:
        """Return the objects as YAML documents, secrets and data as references."""
        return to_yaml(self.objects)


@dataclass(frozen=True)
class Delivery:
    """How a scheduler wants the project delivered.

    Attributes:
        kind: ``scheduler`` (it takes the bundle itself), ``artifact`` (through the run's artifact
            store), ``git`` (the job clones), or ``image`` (the code is there).
        otherwise: For the messages, what else the user can do where this one is not possible.
    """

    kind: str
    otherwise: str = ""


class Scheduler(ABC):
    """Runs jobs on one kind of cluster.

    Attributes:
        template: The built-in template of its jobs, below ``deploy_templates/``.
        submits_again: Whether ``infra_retries`` are new submissions by whoever finds that the
            cluster took a job, because the system itself starts a job once.
        submitting: What is shown while a job is submitted.
    """

    template: ClassVar[str]
    submits_again: ClassVar[bool] = False
    submitting: ClassVar[str] = "submitting the job"

    def shares_this_machine(self) -> bool:
        """Whether jobs run where this process runs, so that they can use its local stores; pure."""
        return False

    def carries_secrets(self) -> bool:
        """Whether ``spec.secrets`` reach the job where nobody else can read them; pure."""
        return True

    def assumed(self) -> dict[str, tuple[str, str]]:
        """Return the value, and where it is from, of settings found outside of the settings."""
        return {}

    @abstractmethod
    def delivery(self, size_bytes: int) -> Delivery:
        """Say how a packed project of this size is to reach the job; pure."""

    @abstractmethod
    def plan(self, spec: JobSpec) -> Plan:
        """Return what would be created; pure: no network, no clock, no secret value."""

    @abstractmethod
    def check(self, plan: Plan) -> Report:
        """Refuse what can never succeed; warn of what is only full now; change nothing."""

    @abstractmethod
    def handle(self, plan: Plan) -> JobHandle:
        """Return the address that the job will have, before there is one.

        It is written on the run before `submit`, so that whatever is interrupted can be found.
        """

    @abstractmethod
    def submit(self, plan: Plan) -> JobHandle:
        """Create the job and return when the system has accepted it.

        Repeating it returns the same handle. When it fails, what it had created is removed.
        """

    def submit_again(
        self,
        earlier: JobHandle,
        objects: Sequence[Mapping[str, Any]],
        data: Mapping[str, bytes],
        count: int,
    ) -> JobHandle:
        """Submit a job that has ended again, where it was, under its next name.

        Repeating it, by whomever, returns the same handle. The job finds ``count`` in its variable
        ``INFRA_RETRIES_VARIABLE`` of `mlflow_exec.runtime.end`.

        Args:
            earlier: The job that has ended.
            objects: Those of its plan, as they were printed.
            data: The data of its plan.
            count: The how-manieth time this is, from 1.

        Raises:
            ClusterError: The cluster refuses, or something of the plan is gone.
        """
        raise NotImplementedError(f"{earlier}: {type(self).__name__} submits no job again")

    def was_restarted(self, handle: JobHandle) -> bool:
        """Whether the job's cluster was started anew since, and the job ended with it.

        Raises:
            UnreachableError: The cluster cannot be asked.
            HandleError: What answers may be another cluster than the job's.
        """
        return False

    @abstractmethod
    def snapshot(
        self, *, run_id: str | None = None, near: Sequence[JobHandle] = ()
    ) -> Iterator[tuple[JobHandle, JobStatus]]:
        """Yield all jobs of ours, or those of one run: pages of one list call.

        Args:
            run_id: Only this run's.
            near: Where to look: in the cluster (and namespace) of these jobs, all of one place;
                those that are gone do not matter. Where the settings say, if there are none.

        Raises:
            HandleError: Every configured cluster is surely another than that of ``near``.
            ConfigError: None is known to be that one; it may be one that cannot be asked.
        """

    @abstractmethod
    def watch(
        self, handles: Iterable[JobHandle], stop: threading.Event | None = None
    ) -> Iterator[tuple[JobHandle, JobStatus | None]]:
        """Yield the status of each job at once, then again whenever it changed.

        Yields ``None`` for a job that the cluster does not know (any more) without a trace of how
        it went. An interruption of the connection is not an end: the watch goes on, with
        ``UNKNOWN`` while the cluster cannot be asked. Ends when every job was final or unknown, and
        soon after ``stop`` is set.
        """

    @abstractmethod
    def logs(self, handle: JobHandle, *, follow: bool = False) -> Iterator[str]:
        """Yield pieces of the job's output in order, as far as the system still has it.

        With ``follow`` it goes on until the job has ended.
        """

    def last_logs(self, handle: JobHandle, status: JobStatus) -> Iterator[str]:
        """Yield what `logs` does, of a job that has ended as a status of `snapshot` says.

        For those who end many at once: what the status' record tells is not asked for again.
        """
        return self.logs(handle)

    @abstractmethod
    def cancel(self, handle: JobHandle, *, timeout_s: float = 120) -> None:
        """Stop the job; idempotent; a finished job keeps its result.

        Returns when nothing of the job is left running.

        Raises:
            CancelError: Something is left running after ``timeout_s``; the message names it.
        """

    @abstractmethod
    def retire(
        self,
        handle: JobHandle,
        after_s: int | None,
        objects: Callable[[], Sequence[Mapping[str, Any]]] = tuple,
    ) -> None:
        """Let the cluster forget a finished job, now that all that matters of it was kept.

        Args:
            handle: The job.
            after_s: So long after its end; None to leave it there.
            objects: Returns those of its plan, as they were printed, for a scheduler that has
                put files somewhere on their behalf; none where they were not kept.
        """

    @abstractmethod
    def diagnose(self) -> Iterator[Finding]:
        """Yield which cluster is reached, as whom, and what is missing; changes nothing."""

    def status(self, handle: JobHandle) -> JobStatus:
        """Return the job's status now.

        Raises:
            JobNotFoundError: The cluster does not know the job.
        """
        for _, status in self.watch([handle]):
            if status is None:
                break
            return status
        raise JobNotFoundError(f"{handle}: the cluster does not know this job (any more)")

    def glance(self, handle: JobHandle) -> JobStatus:
        """Return the job's status as `status` does, perhaps without the scheduler's record.

        For those who ask again and again: it costs nothing where the job is followed anyway.

        Raises:
            JobNotFoundError: The cluster does not know the job.
        """
        return self.status(handle)

    def wait(self, handle: JobHandle, timeout_s: float | None = None) -> JobStatus:
        """Return the final status of a job, or its last one when the time is over.

        Raises:
            JobNotFoundError: The cluster does not know the job.
        """
        if timeout_s is None:
            return self._last(self.watch([handle]), handle)
        seen: queue.SimpleQueue[JobStatus | Exception] = queue.SimpleQueue()
        stop = threading.Event()

        def watch() -> None:  # a watch says nothing for as long as nothing changes
            try:
                seen.put(self._last(self.watch([handle], stop), handle, seen.put))
            except Exception as error:
                seen.put(error)

        threading.Thread(target=watch, name="mlflow-exec-wait", daemon=True).start()
        end_s = time.monotonic() + timeout_s
        status = JobStatus(JobState.UNKNOWN)
        while not status.state.is_final:
            try:
                item = seen.get(timeout=max(0.0, end_s - time.monotonic()))
            except queue.Empty:
                stop.set()
                break
            if isinstance(item, Exception):
                raise item
            status = item
        return status

    @staticmethod
    def _last(
        statuses: Iterator[tuple[JobHandle, JobStatus | None]],
        handle: JobHandle,
        tell: Callable[[JobStatus], None] = lambda _: None,
    ) -> JobStatus:
        """Return the last of a job's statuses, having told the others."""
        status = JobStatus(JobState.UNKNOWN)
        for _, seen in statuses:
            if seen is None:
                raise JobNotFoundError(f"{handle}: the cluster does not know this job (any more)")
            tell(seen)
            status = seen
        return status


SchedulerFactory = Callable[[BackendSettings], Scheduler]
"""Every scheduler class is called with its settings, and does nothing else when constructed."""

"""The vocabulary of jobs: what is asked of a scheduler and what it tells back.

One set of states and failure categories over every scheduler; nothing here knows one of them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from mlflow_exec.credentials import Secret
from mlflow_exec.errors import HandleError
from mlflow_exec.settings import BackendSettings
from mlflow_exec.source import Bundle


class JobState(str, Enum):
    """Where a job is in its life."""

    QUEUED = "QUEUED"
    """Accepted by the scheduler, without resources yet; a suspended job counts here."""
    STARTING = "STARTING"
    """It has resources; image, source or environment are being prepared."""
    RUNNING = "RUNNING"
    """The entry point runs."""
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    """Stopped by a person, through us or through the cluster's own tools."""
    UNKNOWN = "UNKNOWN"
    """The cluster could not be asked. Never final, and no reason to change anything."""

    @property
    def is_final(self) -> bool:
        """Whether the job can not leave this state any more."""
        return self in _FINAL

    @property
    def mlflow_status(self) -> str | None:
        """The MLflow run status for this state; None where the run must be left as it is."""
        return _MLFLOW_STATUS[self]


_FINAL = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
_MLFLOW_STATUS = {
    JobState.QUEUED: "SCHEDULED",
    JobState.STARTING: "SCHEDULED",
    JobState.RUNNING: "RUNNING",
    JobState.SUCCEEDED: "FINISHED",
    JobState.FAILED: "FAILED",
    JobState.CANCELLED: "KILLED",
    JobState.UNKNOWN: None,
}


class FailureCategory(str, Enum):
    """Why a job failed, in words that mean the same on every scheduler."""

    USER_ERROR = "user_error"
    OUT_OF_MEMORY = "out_of_memory"
    IMAGE_PULL = "image_pull"
    UNSCHEDULABLE = "unschedulable"
    QUOTA = "quota"
    PREEMPTED = "preempted"
    EVICTED = "evicted"
    NODE_LOST = "node_lost"
    DEADLINE = "deadline"
    SOURCE_FETCH = "source_fetch"
    ENVIRONMENT_SETUP = "environment_setup"
    PERMISSION = "permission"
    INVALID_CONFIG = "invalid_config"
    LOST = "lost"
    INFRASTRUCTURE = "infrastructure"


@dataclass(frozen=True)
class Failure:
    """Why a job failed: a category, one sentence for the user, and the way on."""

    category: FailureCategory
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.category.value}: {self.message}" + (f" {self.hint}" if self.hint else "")


@dataclass(frozen=True)
class JobStatus:
    """What a scheduler says of a job at one moment.

    Attributes:
        state: The state, read from the scheduler's own record.
        message: One line for people: what the job waits for, or how it ended.
        failure: The reason of FAILED; of a live job, what holds it back
            (an image that cannot be pulled), which may still pass.
        exit_code: The entry point's exit code, where it is known.
        attempt: The number of starts so far that the scheduler knows of, from 1.
        hopeless: Whether a job that waits can come to no good end any more, so that whoever looks
            after it ends it; ``failure`` says why. Of an end: that another submission would not
            help.
        rough: Of an end: whether a scheduler's `status` tells more of it than this, which is of a
            list.
        held: Whether what the job waits for is nobody's fault and passes by itself (a queue, a
            suspension, a registry's rate limit), so that no grace or queue time-out counts it.
        waits_s: How long it has been QUEUED or STARTING, by the cluster's own clock and records,
            without what a queue or a suspension took; None where they do not tell.
        fails_s: How long what ``failure`` of a live job names has held it back, by the same.
        native: The scheduler's own record (conditions, events), for ``diagnosis.json``.
        usage: What the job used so far, by metric (``memory_mib_seconds``, ``vcore_seconds``),
            where the system counts it.
    """

    state: JobState
    message: str = ""
    failure: Failure | None = None
    exit_code: int | None = None
    attempt: int = 1
    held: bool = False
    hopeless: bool = False
    rough: bool = field(default=False, compare=False)
    waits_s: float | None = field(default=None, compare=False)
    fails_s: float | None = field(default=None, compare=False)
    native: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)
    usage: Mapping[str, float] = field(default_factory=dict, compare=False)


_HANDLE_SCHEMES = ("k8s", "ray-job+http", "ray-job+https", "yarn")
_KNOWN = "k8s://, ray-job+http://, yarn://"


@dataclass(frozen=True)
class JobHandle:
    """The address of a submitted job, valid on any machine; ``str()`` and ``parse()`` round-trip.

    Forms: ``k8s://<cluster>/<namespace>/<job>``, ``ray-job+http(s)://<host:port>/<submission_id>``,
    ``yarn://<cluster>/<name>`` (the application's id is its uid).

    Attributes:
        scheme: Which kind of scheduler.
        cluster: Its identity (not a name that is local to one laptop).
        path: The names below it; the last one is the job's.
        uid: What tells this job from a later one of the same name; empty if not known.
    """

    scheme: str
    cluster: str
    path: tuple[str, ...]
    uid: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        known = self.scheme in _HANDLE_SCHEMES and (self.scheme != "k8s" or len(self.path) == 2)
        if not known or not self.cluster or not all(self.path):
            raise HandleError(f"job handle: {str(self)!r} is not one; known: {_KNOWN}")

    @property
    def name(self) -> str:
        """The job's own name."""
        return self.path[-1]

    def __str__(self) -> str:
        return f"{self.scheme}://{self.cluster}/" + "/".join(quote(p, safe="") for p in self.path)

    @classmethod
    def parse(cls, text: str, uid: str = "") -> JobHandle:
        """Read a handle back from its text.

        Raises:
            HandleError: The text is not a handle.
        """
        parts = urlsplit(text)
        path = tuple(unquote(p) for p in parts.path.split("/")[1:])
        if not path or "@" in parts.netloc or parts.query or parts.fragment:
            shown = re.sub(r"//[^/]*@", "//…@", text)  # a user name and a password
            raise HandleError(f"job handle: {shown!r} is not one; known: {_KNOWN}")
        return cls(parts.scheme, parts.netloc, path, uid)


JOB_NAME = re.compile(r"^mlflow-([0-9a-f]{32})-([0-9]+)$")


def job_name(run_id: str, submission: int) -> str:
    """Return the name of a run's n-th submission: a function of both, so a repeat finds it."""
    return f"mlflow-{run_id}-{submission}"


@dataclass(frozen=True)
class JobSpec:
    """Everything a scheduler needs to know of a job; nothing of MLflow's API.

    Attributes:
        run_id: The MLflow run, 32 hex digits.
        experiment_id: Its experiment.
        submission: Counts submissions of the run, from 1.
        order: What the job's first step (``runtime/entry.py``) does, JSON; its ``source`` is
            completed by the scheduler where the scheduler delivers the bundle itself.
        settings: The scheduler's own settings, with the shared ones.
        bundle: The project where the scheduler is to deliver it; None where the order says how
            the job gets it.
        secrets: Environment variables of the job whose values must not be seen, such as the
            tracking server's token.
    """

    run_id: str
    experiment_id: str
    submission: int
    order: Mapping[str, Any]
    settings: BackendSettings
    bundle: Bundle | None = None
    secrets: Mapping[str, Secret] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The name of the native job."""
        return job_name(self.run_id, self.submission)

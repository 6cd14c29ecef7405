"""The seam between releases and the systems that serve them.

A target turns a `Release` into native objects and the native record into a `Rollout`. It knows
nothing of MLflow's API, and targets know nothing of each other.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from mlflow_exec.credentials import Secret
from mlflow_exec.errors import DeploymentNotFoundError, UnreachableError
from mlflow_exec.releases import EndpointRelease, Release, Revision, Rollout, RolloutState
from mlflow_exec.reports import Finding, Report
from mlflow_exec.settings import TargetSettings
from mlflow_exec.templates import to_yaml

_POLL_S = 0.5

TOKEN_VARIABLE = "MLFLOW_EXEC_TOKEN"
"""Holds the bearer token of a deployment for `Target.request`, where no other way leads to it."""


@dataclass(frozen=True)
class ReleasePlan:
    """What would be sent, before anything is; printable, without any secret value.

    Attributes:
        revision: What it becomes, with the native objects.
        data: Bytes that travel beside the objects, by name in them.
        secrets: Values that travel in a Secret object; read only when it is created.
    """

    revision: Revision
    data: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    secrets: Mapping[str, Secret] = field(default_factory=dict)

    def to_yaml(self) -> str:
        """Return the objects as YAML documents, secrets and data as references."""
        return to_yaml(self.revision.objects)


@dataclass(frozen=True)
class Answer:
    """What a deployment answers to one request."""

    status: int
    content_type: str
    body: bytes


class Target(ABC):
    """Serves releases on one kind of system.

    Attributes:
        template: The built-in template, below ``deploy_templates/``.
    """

    template: ClassVar[str]

    @abstractmethod
    def shares_this_machine(self) -> bool:
        """Whether models run where this process runs, so that they can use its stores; pure."""

    @abstractmethod
    def package_limit_bytes(self) -> int:
        """Return how large a model may be that travels with its release; pure."""

    @abstractmethod
    def plan(self, release: Release) -> ReleasePlan:
        """Return what would be sent; pure: no network, no clock, no secret value.

        Raises:
            ConfigError: A template, a patch or a setting cannot be honoured.
        """

    @abstractmethod
    def plan_endpoint(self, release: EndpointRelease) -> ReleasePlan:
        """Return what would be sent for an endpoint; pure, as `plan`.

        A change of its routes alone restarts nothing.

        Raises:
            ConfigError: A patch or a setting cannot be honoured.
        """

    @abstractmethod
    def repeat(self, revision: Revision, number: int, applied_at: str) -> ReleasePlan:
        """Return what goes back to an earlier revision, as one of the next number; pure."""

    @abstractmethod
    def check(self, plan: ReleasePlan) -> Report:
        """Refuse what can never become ready; warn of what is only full now; change nothing."""

    @abstractmethod
    def apply(self, plan: ReleasePlan) -> Revision:
        """Send it, and return when the system has accepted it; nothing else there is touched.

        Repeating it changes nothing more. Where it fails, the revision before goes on serving.

        Raises:
            ConflictError: Somebody else has applied a revision of this number meanwhile.
        """

    @abstractmethod
    def get(self, name: str) -> Rollout:
        """Return how a deployment is.

        Raises:
            DeploymentNotFoundError: There is none of ours of that name.
        """

    @abstractmethod
    def rollouts(self) -> Iterator[Rollout]:
        """Yield how all deployments of ours are, by one list."""

    @abstractmethod
    def revisions(self, name: str) -> list[Revision]:
        """Return the revisions that are kept of a deployment, the oldest first.

        Raises:
            DeploymentNotFoundError: There is none of ours of that name.
        """

    @abstractmethod
    def delete(self, name: str, *, timeout_s: float = 120) -> None:
        """Remove a deployment and return when nothing of it is left; idempotent.

        Raises:
            ClusterError: Something is left after ``timeout_s``; the message names it.
        """

    @abstractmethod
    def request(
        self,
        name: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float = 60,
    ) -> Answer:
        """Send one request to a deployment, by whatever way leads there from this machine.

        Args:
            name: The deployment.
            path: Below its address, such as ``/invocations``.
            body: Sent by POST; None for GET.
            headers: Of the request; without the deployment's own token, which is added where
                this process knows it.
            timeout_s: For the whole answer.

        Raises:
            DeploymentNotFoundError: There is none of ours of that name.
            UnreachableError: Nothing answers there.
        """

    @abstractmethod
    def diagnose(self) -> Iterator[Finding]:
        """Yield which system is reached, as whom, and what is missing; changes nothing."""

    def reuse(self, other: Target) -> None:  # noqa: B027  # most have no connection to share
        """Take over the connection of another target of this kind, where it leads there too."""

    def wait(
        self,
        name: str,
        number: int,
        timeout_s: float,
        tell: Callable[[Rollout], None] = lambda _: None,
    ) -> Rollout:
        """Return the rollout once a revision is ready or has failed, or is not the newest any more.

        Args:
            name: The deployment.
            number: The revision.
            timeout_s: After it, what was seen last is returned.
            tell: Called with each rollout seen on the way.

        Raises:
            DeploymentNotFoundError: Somebody has deleted it.
        """
        end_s = time.monotonic() + timeout_s
        while True:
            try:
                rollout = self.get(name)
            except UnreachableError as error:
                rollout = Rollout(name, RolloutState.UNKNOWN, message=str(error))
            tell(rollout)
            newest = rollout.revision.number if rollout.revision else number
            over = rollout.state in (RolloutState.READY, RolloutState.FAILED) or newest > number
            if over or time.monotonic() > end_s:
                return rollout
            time.sleep(_POLL_S)  # the pause between two questions: not every system has a watch


TargetFactory = Callable[[TargetSettings, str], Target]
"""Every target class is called with its settings and the target's URI, such as
``k8s://context/namespace``; it checks the URI and does nothing else when constructed."""


def not_found(name: str, where: str) -> DeploymentNotFoundError:
    """Return the error for a deployment that is not there."""
    return DeploymentNotFoundError(
        f"{where}: there is no deployment {name!r} of mlflow-exec; "
        f"'mlflow deployments list' shows those that are"
    )

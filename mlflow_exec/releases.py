"""The vocabulary of deployments: what is asked of a target and what it tells back.

A *release* is a model that is to be served under a name. Each time that one is applied makes a
numbered *revision*, which is kept by the target so that any machine can list it and go back to it.
A *rollout* is what the target says of a deployment at one moment.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ConfigError
from mlflow_exec.jobs import Failure
from mlflow_exec.settings import Routing, TargetSettings

MANAGED_BY = "mlflow-exec"
_NAME = re.compile(r"^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$")


class RolloutState(str, Enum):
    """Where a deployment is."""

    DEPLOYING = "DEPLOYING"
    """The newest revision is on its way; an earlier one may be answering."""
    READY = "READY"
    """The newest revision answers, with all the replicas that were asked for."""
    FAILED = "FAILED"
    """The newest revision did not become ready; an earlier one may be answering."""
    UNHEALTHY = "UNHEALTHY"
    """It was ready, and replicas of it are failing now."""
    DELETING = "DELETING"
    UNKNOWN = "UNKNOWN"
    """The target could not be asked."""


@dataclass(frozen=True)
class ModelPackage:
    """A model's files on this machine, where the target is to deliver them itself.

    Attributes:
        path: The folder with the file ``MLmodel``.
        sha256: Of its content, independent of times and order.
        size_bytes: Of all its files.
    """

    path: Path
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Model:
    """The model of a release.

    Attributes:
        uri: As the user gave it (``models:/iris@champion``).
        pinned_uri: What it meant when it was applied, and means for ever (``models:/iris/3``).
        version: For people, labels and metrics: the registered version, or what tells it apart.
        python: The minor version of Python that it was logged with (``3.11``); empty if not known.
        requirements: The lines of its ``requirements.txt``.
        package: Its files, where they travel with the release.
    """

    uri: str
    pinned_uri: str
    version: str
    python: str = ""
    requirements: tuple[str, ...] = ()
    package: ModelPackage | None = None


@dataclass(frozen=True)
class Release:
    """A model to be served under a name, and how; nothing of MLflow's API.

    Attributes:
        name: The deployment's name.
        number: The number of the revision that this becomes, from 1.
        model: The model, pinned.
        settings: The target's settings.
        given: What the user gave of them, kept with the revision.
        applied_at: When, ISO 8601 in UTC; given, because a plan looks at no clock.
        tracking_uri: The tracking server as the target's machines see it; None where the model
            travels with the release.
        env: Variables of MLflow's client that the model's download needs and anybody may see.
        secrets: Those that nobody may see, such as the tracking server's token.
    """

    name: str
    number: int
    model: Model
    settings: TargetSettings
    given: Mapping[str, Any]
    applied_at: str
    tracking_uri: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    secrets: Mapping[str, Secret] = field(default_factory=dict)


@dataclass(frozen=True)
class EndpointRelease:
    """Routes that are to be followed under one address, and by what router.

    To a target an endpoint is one more deployment: of our router, in place of a model.

    Attributes:
        name: The endpoint's name.
        number: The number of the revision that this becomes, from 1.
        routing: To which deployments of the same target its requests go.
        settings: The target's settings, of which those of models have no effect.
        given: What the user gave of them, kept with the revision.
        applied_at: When, ISO 8601 in UTC.
    """

    name: str
    number: int
    routing: Routing
    settings: TargetSettings
    given: Mapping[str, Any]
    applied_at: str


@dataclass(frozen=True)
class Revision:
    """What was applied once; kept by the target.

    Attributes:
        name: The name of the deployment, or of the endpoint.
        number: Counts what was applied under this name, from 1; a rollback is one more.
        model_uri: As the user gave it; empty for an endpoint, as are the next two.
        pinned_uri: What that meant.
        model_version: See `Model`.
        settings: What the user gave of the settings; no secret.
        objects: The native objects as they were sent, secrets as references.
        applied_at: When, ISO 8601 in UTC, by the clock of the client.
        rolled_back_to: The revision that this repeats; None for one of its own.
        routes: Of an endpoint: the fields of `Routing`; None for a model.
    """

    name: str
    number: int
    model_uri: str
    pinned_uri: str
    model_version: str
    settings: Mapping[str, Any]
    objects: tuple[Mapping[str, Any], ...]
    applied_at: str
    rolled_back_to: int | None = None
    routes: Mapping[str, Any] | None = None

    @classmethod
    def of_endpoint(
        cls, release: EndpointRelease, objects: Sequence[Mapping[str, Any]]
    ) -> Revision:
        """Return the revision that an endpoint becomes by these objects."""
        return cls(
            release.name, release.number, "", "", "", dict(release.given), tuple(objects),
            release.applied_at, routes=release.routing.model_dump(),
        )  # fmt: skip

    @classmethod
    def of(cls, release: Release, objects: Sequence[Mapping[str, Any]]) -> Revision:
        """Return the revision that a release becomes by these objects."""
        model = release.model
        return cls(
            release.name, release.number, model.uri, model.pinned_uri, model.version,
            dict(release.given), tuple(objects), release.applied_at,
        )  # fmt: skip

    def to_data(self) -> dict[str, Any]:
        """Return it as what comes back from JSON."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    def to_json(self) -> str:
        """Return it as one line of JSON."""
        return json.dumps(self.to_data(), separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_data(cls, data: Any) -> Revision:
        """Read back what `to_data` gave; keys of later versions are passed over.

        Raises:
            ValueError: It is not that of a revision.
        """
        try:
            known = {key: data[key] for key in cls.__dataclass_fields__ if key in data}
            return cls(**{**known, "objects": tuple(data["objects"])})
        except (KeyError, TypeError) as error:
            raise ValueError(f"not a revision: {error}; {str(data)[:80]!r}") from error

    @classmethod
    def from_json(cls, text: str) -> Revision:
        """Read back what `to_json` wrote.

        Raises:
            ValueError: It is not the JSON of a revision.
        """
        return cls.from_data(json.loads(text))


@dataclass(frozen=True)
class Rollout:
    """What a target says of a deployment.

    Attributes:
        name: The deployment's name.
        state: See `RolloutState`.
        revision: The newest one; None for a deployment whose record cannot be read.
        serving: The number of the revision that answers; None where none does, or it is not told.
        replicas: How many are asked for now.
        ready: How many of them answer.
        url: Where predictions are asked for, as the cluster's machines see it; None if not told.
        message: One line for people: what it waits for.
        failure: Why the newest revision does not become ready.
        native: The target's own record.
    """

    name: str
    state: RolloutState
    revision: Revision | None = None
    serving: int | None = None
    replicas: int = 0
    ready: int = 0
    url: str | None = None
    message: str = ""
    failure: Failure | None = None
    native: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)


def check_name(name: str) -> str:
    """Return the name of a deployment, if every target can use it.

    Raises:
        ConfigError: It is none.
    """
    if not _NAME.match(name):
        raise ConfigError(
            f"name: up to 40 small letters, digits and '-' are needed, a letter or digit first and "
            f"last; given {name!r}"
        )
    return name

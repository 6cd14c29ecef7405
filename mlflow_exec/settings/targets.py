"""The settings of each deployment target: one class each, unknown keys refused, values cast."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mlflow_exec.settings.backends import RayResources, Resources
from mlflow_exec.settings.fields import Bytes, Seconds, Settings
from mlflow_exec.settings.secrets import NodeSecret, SecretReference
from mlflow_exec.settings.shared import KubernetesPods, RayDashboard, Rendered


class Batch(Settings):
    """Micro-batching: requests that wait are answered by one call of the model."""

    max_rows: int = Field(
        0,
        ge=0,
        description="The most rows in one call; 0 switches it off. For models whose rows do not "
        "depend on each other.",
    )
    wait_ms: float = Field(
        0, ge=0, description="How long the first request of a batch waits for others."
    )


class TargetSettings(Rendered):
    """Settings that every target has."""

    _shown_with: ClassVar[str] = "deployment"

    only_of_models: ClassVar[frozenset[str]] = frozenset({
        "any_python", "batch", "gate", "gate_data", "model_source", "requirements", "secrets",
        "template", "token", "tracking_uri", "warmup",
    })  # fmt: skip
    """What has no effect on the router of an endpoint, and is refused there."""

    only_of_one: ClassVar[frozenset[str]] = frozenset({
        "max_replicas", "num_replicas", "resources",
    })  # fmt: skip
    """What an endpoint that is made along with its first deployment does not take from it."""

    num_replicas: int = Field(1, ge=1, description="Replicas; the least, with `max_replicas`.")
    max_replicas: int | None = Field(
        None, ge=1, description="Scale up to so many under load; a fixed number if null."
    )
    resources: Resources = Field(default_factory=Resources, description="Of one replica.")
    environment: Literal["uv", "local"] = Field(
        "uv",
        description="`uv` installs the model's requirements for it; `local` takes the Python that "
        "is there.",
    )
    requirements: list[str] = Field(
        default_factory=list,
        description="Further requirements; one of a package that the model names replaces it.",
    )
    any_python: bool = Field(
        False,
        description="Accept another minor version of Python than the model was logged with.",
    )
    model_source: Literal["auto", "tracking", "package"] = Field(
        "auto",
        description="How the model gets there: `tracking` downloads it there, `package` sends it "
        "along. `auto` sends what the target's machines cannot download.",
    )
    batch: Batch = Field(default_factory=Batch, description="Micro-batching.")
    warmup: bool = Field(
        True,
        description="Ready only after a prediction on the model's input example, where it has one.",
    )
    max_request: Bytes = Field(
        100 * 1024**2, description="The largest body of a request; bytes or `\"100Mi\"`."
    )
    request_timeout_s: Seconds = Field(60, description="The longest prediction; then it is a 504.")
    drain_s: Seconds = Field(
        30,
        description="So long beyond `request_timeout_s` a replica that goes may finish what it has "
        "begun.",
    )
    timeout_s: Seconds = Field(
        900, description="Give up when a revision is not ready after this long."
    )
    wait: bool = Field(True, description="Return when the revision is ready; at once if false.")
    rollback: bool = Field(
        True, description="Go back to the revision before where one does not become ready."
    )
    revision_limit: int = Field(10, ge=1, le=100, description="So many revisions are kept.")
    gate: str | None = Field(
        None,
        description="A suite of validations, a file here: a model that fails it is not applied. Of "
        "one call; see docs/evaluation-suites.md.",
    )
    gate_data: str | None = Field(
        None, description="The rows that the gate judges by, a file here; the suite's if null."
    )
    render: Literal["only"] | None = Field(
        None, description="`only`: print what would be sent, and send nothing."
    )

    def scoring_options(self) -> dict[str, Any]:
        """Return what these settings say of `mlflow_exec.scoring.options.ScoringOptions`."""
        return {
            **self.router_options(),
            "batch_max_rows": self.batch.max_rows,
            "batch_wait_ms": self.batch.wait_ms,
            "warmup": self.warmup,
        }

    def router_options(self) -> dict[str, Any]:
        """Return what these settings say of `mlflow_exec.scoring.router.RouterOptions`."""
        return {
            "max_request_bytes": self.max_request,
            "timeout_s": self.request_timeout_s,
            "drain_s": self.drain_s,
        }

    @model_validator(mode="after")
    def _check_shared(self) -> TargetSettings:
        if self.gate_data is not None and self.gate is None:
            raise ValueError("gate_data: it has no effect without 'gate', the suite")
        if self.max_replicas is not None and self.max_replicas < self.num_replicas:
            raise ValueError(
                f"max_replicas: at least num_replicas ({self.num_replicas}) is needed; given "
                f"{self.max_replicas}"
            )
        return self


class RayServeSettings(RayDashboard, TargetSettings):
    """Settings of `-t ray-serve`."""

    only_of_models: ClassVar[frozenset[str]] = TargetSettings.only_of_models | {"environment"}
    only_of_one: ClassVar[frozenset[str]] = TargetSettings.only_of_one | {
        "max_ongoing_requests", "max_queued_requests", "patch", "route_prefix",
    }  # fmt: skip

    resources: RayResources = Field(default_factory=RayResources, description="Of one replica.")
    secrets: dict[str, NodeSecret] = Field(
        default_factory=dict,
        description="Secret environment variables, by where the nodes of the cluster have them: "
        "`{\"HF_TOKEN\": {\"node_env\": \"HF_TOKEN\"}}` or `{\"file\": \"/run/secrets/hf\"}`.",
    )
    token: NodeSecret | None = Field(
        None,
        description="The bearer token that requests must bring, by where the nodes have it; "
        "anybody may ask if null.",
    )
    api: Literal["declarative", "imperative"] = Field(
        "declarative",
        description="`declarative` writes the document of Serve's REST interface; `imperative` has "
        "a Ray job call its Python interface, which nobody who writes the document can undo.",
    )
    route_prefix: str | None = Field(None, description="`/<name>` if null.")
    max_ongoing_requests: int | None = Field(
        None, ge=1, description="Requests in one replica at a time; a multiple of a batch if null."
    )
    max_queued_requests: int = Field(
        -1, ge=-1, description="Requests that may wait; more are refused with 503. -1: no limit."
    )

    @model_validator(mode="after")
    def _check(self) -> RayServeSettings:
        if self.route_prefix is not None and not self.route_prefix.startswith("/"):
            raise ValueError(f"route_prefix: it begins with '/'; given {self.route_prefix!r}")
        return self


class KubernetesModelCache(Settings):
    """Where pods keep models and environments for later ones: at most one of the two."""

    claim: str | None = Field(None, description="A PersistentVolumeClaim in the namespace.")
    host_path: str | None = Field(
        None, description="A folder on each node's own disk; made where it is not there."
    )

    @model_validator(mode="after")
    def _one_place(self) -> KubernetesModelCache:
        if (self.claim is None) == (self.host_path is None):
            raise ValueError("exactly one of 'claim' and 'host_path' is needed")
        if self.host_path is not None and not self.host_path.startswith("/"):
            raise ValueError(f"host_path: an absolute path is needed; given {self.host_path!r}")
        return self


class KubernetesGateway(Settings):
    """A Gateway of the Gateway API, and the hosts by which it is asked."""

    name: str = Field(description="The Gateway.")
    namespace: str | None = Field(None, description="Its namespace; the deployment's if null.")
    listener: str | None = Field(None, description="One of its listeners; all if null.")
    hostnames: list[str] = Field(
        default_factory=list, description="The hosts of the requests; all that it takes if empty."
    )


class KubernetesTargetSettings(KubernetesPods, TargetSettings):
    """Settings of `-t k8s`."""

    only_of_models: ClassVar[frozenset[str]] = TargetSettings.only_of_models | {"kind"}
    only_of_one: ClassVar[frozenset[str]] = TargetSettings.only_of_one | {
        "gateway", "ingress_class", "ingress_host",
    }  # fmt: skip

    kind: Literal["deployment", "kserve"] = Field(
        "deployment",
        description="What is made: a Deployment, or an InferenceService of KServe. It stays as it "
        "was created.",
    )
    image: str = Field(
        "python:3.11-slim", description="Any image with the model's Python; nothing is built."
    )
    secrets: dict[str, SecretReference] = Field(
        default_factory=dict,
        description="Secret environment variables: `{\"HF_TOKEN\": {\"secret\": \"hf\", \"key\": "
        "\"token\"}}`, `{\"env\": \"HF_TOKEN\"}` or `{\"file\": \"/vault/hf\"}`.",
    )
    token: SecretReference | None = Field(
        None,
        description="The bearer token that requests must bring: `{\"secret\": \"iris\", \"key\": "
        "\"token\"}`; anybody who reaches the Service may ask if null.",
    )
    cache: KubernetesModelCache | None = Field(
        None, description="Where models and environments are kept for other pods; nowhere if null."
    )
    target_cpu_percent: int = Field(
        70, ge=1, le=100, description="With `max_replicas`: the load that is aimed at."
    )
    ingress_host: str | None = Field(
        None, description="Make an Ingress for this host; none if null."
    )
    ingress_class: str | None = Field(None, description="The Ingress' class.")
    gateway: KubernetesGateway | None = Field(
        None, description="Make an HTTPRoute of this Gateway; none if null."
    )

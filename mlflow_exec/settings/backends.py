"""The settings of each backend: one class each, unknown keys refused, values cast."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mlflow_exec.settings.fields import GIB, Bytes, Cpu, Seconds, Settings
from mlflow_exec.settings.secrets import NodeSecret, SecretReference
from mlflow_exec.settings.shared import KubernetesPods, RayDashboard, Rendered


class Resources(Settings):
    """What one job asks of the cluster."""

    cpu: Cpu | None = Field(None, description="CPUs: `2`, `0.5` or `\"500m\"`.")
    memory: Bytes | None = Field(None, description="Memory: bytes or `\"4Gi\"`.")
    gpu: int = Field(0, ge=0, description="Whole GPUs.")


class RayResources(Resources):
    """What one Ray job's entry point asks of the cluster."""

    custom: dict[str, float] = Field(
        default_factory=dict, description="Ray's custom resources: `{\"tpu\": 1}`."
    )


class KubernetesEnvironmentCache(Settings):
    """Where pods keep built environments for later ones: exactly one of the two."""

    claim: str | None = Field(None, description="A PersistentVolumeClaim in the job's namespace.")
    sub_path: str = Field("", description="With `claim`: a folder in it.")
    host_path: str | None = Field(
        None, description="A folder on each node's own disk; made where it is not there."
    )

    @model_validator(mode="after")
    def _one_place(self) -> KubernetesEnvironmentCache:
        if (self.claim is None) == (self.host_path is None):
            raise ValueError("exactly one of 'claim' and 'host_path' is needed")
        if self.host_path is not None and self.sub_path:
            raise ValueError("'sub_path' is a folder in a claim; write it into 'host_path'")
        if self.host_path is not None and not self.host_path.startswith("/"):
            raise ValueError(f"host_path: an absolute path is needed; given {self.host_path!r}")
        return self


class RayEnvironmentCache(Settings):
    """Where jobs on a node keep built environments for later ones."""

    path: str = Field(
        "~/.cache/mlflow-exec/environments",
        description="A folder on the node's disk: in the home of the node's user, or one that is "
        "there.",
    )

    @model_validator(mode="after")
    def _absolute(self) -> RayEnvironmentCache:
        if not self.path.startswith(("/", "~/")):
            raise ValueError(f"path: it begins with '/' or '~/'; given {self.path!r}")
        return self


class BackendSettings(Rendered):
    """Settings that every backend has."""

    resources: Resources = Field(default_factory=Resources, description="CPU, memory, GPUs.")
    environment_cache_limit: Bytes = Field(
        20 * GIB,
        description="What the environments in `environment_cache` may use together; those used "
        "longest ago are removed first, never one in use.",
    )
    environment_cache_max_age_s: Seconds = Field(
        86400,
        description="How long a cached environment is used whose requirements do not all name one "
        "version; then it is built anew.",
    )
    source_limit: Bytes = Field(
        GIB // 2, description="The largest project, packed; bytes or `\"512Mi\"`."
    )
    retries: int = Field(0, ge=0, description="Starts again after a failure of the user's code.")
    infra_retries: int = Field(
        3,
        ge=0,
        description="Starts again after preemption, eviction or the loss of a node. Ray starts a "
        "job once: there whoever follows the job, or `mlflow-exec reconcile`, submits it again.",
    )
    queue_timeout_s: Seconds | None = Field(
        None, description="Give up when the job has waited this long for resources; none if null."
    )
    start_timeout_s: Seconds | None = Field(
        900,
        description="Give up when a placed job has not started its container by then. Refused on "
        "Ray, which does not tell that moment: `queue_timeout_s` counts until the start there.",
    )
    deadline_s: Seconds | None = Field(
        None, description="End the job this long after its first start, over all attempts."
    )
    cancel_timeout_s: Seconds = Field(
        120, description="How long `cancel` waits until nothing of the job is left."
    )
    wait: bool = Field(
        True, description="On the command line: follow the job's log and exit with its result."
    )
    on_interrupt: Literal["detach", "cancel"] = Field(
        "detach", description="What Ctrl-C does while following: leave the job, or cancel it."
    )

    def kept_environments(self, path: str | None, manager: str | None) -> dict[str, Any] | None:
        """Return the ``environment_cache`` of a job order.

        Args:
            path: Where the job finds the folder; None for no cache.
            manager: What builds the job's environment.
        """
        if path is None or manager in (None, "local"):
            return None
        return {
            "path": path,
            "limit_bytes": self.environment_cache_limit,
            "max_age_s": self.environment_cache_max_age_s,
        }


class KubernetesSettings(KubernetesPods, BackendSettings):
    """Settings of `--backend k8s`."""

    context: str | None = Field(
        None,
        description="The kubeconfig context; the current one if null, and the pod's own cluster "
        "where there is no kubeconfig.",
    )
    cluster_name: str | None = Field(
        None, description="The cluster's identity in job handles, where it cannot be read."
    )
    namespace: str | None = Field(None, description="The context's namespace if null.")
    image: str | None = Field(
        None, description="Any image with Python; MLproject's docker_env if null."
    )
    image_pull_grace_s: float = Field(
        180, ge=0, description="How long a failing image pull may go on before the job is ended."
    )
    secrets: dict[str, SecretReference] = Field(
        default_factory=dict,
        description="Secret environment variables: `{\"HF_TOKEN\": {\"secret\": \"hf\", \"key\": "
        "\"token\"}}`, `{\"env\": \"HF_TOKEN\"}` or `{\"file\": \"/vault/hf\"}`.",
    )
    tracking_token_audience: str | None = Field(
        None,
        description="Sign the job in at the tracking server by a token of its service account for "
        "this audience, which the kubelet renews.",
    )
    environment_cache: KubernetesEnvironmentCache | None = Field(
        None, description="Where built environments are kept for later jobs; nowhere if null."
    )
    queue: str | None = Field(
        None, description="A Kueue local queue; the job is created suspended and Kueue starts it."
    )
    source: Literal["auto", "configmap", "artifact", "git", "image"] = Field(
        "auto",
        description="How the project reaches the pod: see the delivery page. `auto` takes "
        "`configmap` when it fits, else `artifact`.",
    )
    source_path: str = Field(
        "/mlflow/projects/code", description="With `source: image`: the project's folder in it."
    )
    git_image: str = Field(
        "alpine/git:latest", description="With `source: git`: the image that clones."
    )
    git_secret: str | None = Field(
        None,
        description="With `source: git`: a Secret with `ssh-privatekey` (and `known_hosts`), or "
        "`username` and `password`.",
    )
    ttl_s: int | None = Field(
        86400,
        ge=0,
        description="The finished Job is deleted this long after its log and diagnosis were kept.",
    )
    kube_context: str | None = Field(
        None, alias="kube-context", description="MLflow's own name for `context`."
    )
    kube_job_template_path: str | None = Field(
        None,
        alias="kube-job-template-path",
        description="A Job template of MLflow's own Kubernetes backend: merged into ours.",
    )
    repository_uri: str | None = Field(
        None,
        alias="repository-uri",
        description="Accepted from configurations of MLflow's own backend; no image is built, so "
        "nothing is pushed there.",
    )

    @model_validator(mode="after")
    def _check(self) -> KubernetesSettings:
        if self.context and self.kube_context and self.context != self.kube_context:
            raise ValueError("'context' and 'kube-context' name two different contexts")
        if self.tracking_token_audience and "MLFLOW_TRACKING_TOKEN" in self.secrets:
            raise ValueError(
                "'tracking_token_audience' gives the job a MLFLOW_TRACKING_TOKEN, and so does "
                "'secrets'; give one of them"
            )
        return self


class RaySettings(RayDashboard, BackendSettings):
    """Settings of `--backend ray`."""

    _way_of_secrets: ClassVar[str] = (
        "give it by 'secrets', which name a variable or a file of the cluster's nodes"
    )

    address: str | None = Field(
        None,
        description="The dashboard of a running Ray, `http://host:8265`. If null: "
        "`RAY_API_SERVER_ADDRESS`, `RAY_ADDRESS`, then a Ray started on this machine.",
    )
    resources: RayResources = Field(
        default_factory=RayResources, description="CPU, memory, GPUs, Ray's custom resources."
    )
    environment_cache: RayEnvironmentCache | None = Field(
        default_factory=RayEnvironmentCache,
        description="Where built environments are kept for later jobs on the same node; nowhere "
        "if null (or false).",
    )
    start_timeout_s: Seconds | None = Field(
        None,
        description="Refused: Ray does not tell whether a waiting job has its resources; "
        "`queue_timeout_s` limits the time until the entry point starts.",
    )
    runtime_env: dict[str, Any] = Field(
        default_factory=dict,
        description="Ray's runtime environment, merged with ours; `working_dir` is ours.",
    )
    secrets: dict[str, NodeSecret] = Field(
        default_factory=dict,
        description="Secret environment variables, by where the nodes of the cluster have them: "
        "`{\"HF_TOKEN\": {\"node_env\": \"HF_TOKEN\"}}` or `{\"file\": \"/run/secrets/hf\"}`.",
    )
    source: Literal["auto", "package", "artifact"] = Field(
        "auto",
        description="How the project reaches Ray: its package store (`package`), or the run's "
        "artifacts. `auto` takes `artifact` above the store's limit.",
    )

    @field_validator("environment_cache", mode="before")
    @classmethod
    def _switched_off(cls, value: Any) -> Any:
        return None if value is False else value

    @model_validator(mode="after")
    def _refuse_what_ray_cannot(self) -> RaySettings:
        if "start_timeout_s" in self.model_fields_set and self.start_timeout_s is not None:
            raise ValueError(
                "start_timeout_s: Ray does not tell whether a waiting job has its resources; "
                "'queue_timeout_s' limits the time until its entry point starts"
            )
        return self

"""The settings of ``mlflow-exec render reconciler``: what looks after runs from in the cluster."""

from __future__ import annotations

from pydantic import Field

from mlflow_exec.settings import Bytes, Cpu, Settings

_MIB = 1024**2


class ReconcilerResources(Settings):
    """What the reconciler's pod asks of the cluster."""

    cpu: Cpu = Field(0.1, description="CPUs that are requested; there is no limit.")
    memory: Bytes = Field(512 * _MIB, description="Memory, requested and the limit.")


class ReconcilerSettings(Settings):
    """Settings of the reconciler that runs in a cluster, for the jobs of one namespace."""

    name: str = Field(
        "mlflow-exec-reconciler",
        pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$",
        max_length=52,  # of a CronJob: its Jobs' names are 11 characters longer
        description="Of all objects.",
    )
    namespace: str | None = Field(
        None,
        description="Where the jobs are, and the reconciler; the current context's if null, as "
        "`kubectl apply` has it.",
    )
    image: str = Field(min_length=1, description="An image with `mlflow-exec[k8s]` installed.")
    image_pull_secrets: list[str] = Field(
        default_factory=list, description="Names of Secrets for private registries."
    )
    schedule: str = Field("*/5 * * * *", description="When it looks, as cron writes it.")
    tracking_uri: str = Field(min_length=1, description="The tracking server, as pods reach it.")
    tracking_secret: str | None = Field(
        None,
        description="A Secret in the namespace whose keys `MLFLOW_TRACKING_TOKEN`, "
        "`MLFLOW_TRACKING_USERNAME` and `MLFLOW_TRACKING_PASSWORD`, each if it is there, sign in "
        "to the tracking server.",
    )
    read_cluster_id: bool = Field(
        False,
        description="Also let it read the UID of namespace `kube-system`, by a Role there, so "
        "that it knows its own cluster when none of the open runs' jobs is left.",
    )
    timeout_s: int = Field(1800, ge=60, description="A pass that takes longer is ended.")
    resources: ReconcilerResources = Field(
        default_factory=ReconcilerResources, description="CPU and memory."
    )
    run_as_user: int | None = Field(
        65532,
        ge=1,
        description="The user id in the pod; the image's or the cluster's own if null, which must "
        "not be root.",
    )
    service_account_annotations: dict[str, str] = Field(
        default_factory=dict,
        description="Such as those by which a cloud lets a service account into artifact stores.",
    )

"""Settings that jobs and deployments share: one class for each kind of place."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from mlflow_exec.credentials import why_secret
from mlflow_exec.settings.fields import Settings


class Rendered(Settings):
    """Of everything that is rendered from a template and runs somewhere else."""

    _shown_with: ClassVar[str] = "job"
    _way_of_secrets: ClassVar[str] = "give it by 'secrets'"

    env: dict[str, str] = Field(
        default_factory=dict,
        description="Environment variables. Names that look like secrets are refused, and values "
        "with credentials in a URL: use `secrets`.",
    )
    not_secret: list[str] = Field(
        default_factory=list,
        description="Names of variables and parameters that look like secrets and are none: "
        "`[\"pad_token\"]`.",
    )
    tracking_uri: str | None = Field(
        None,
        description="The tracking server as the cluster's machines see it, where that differs from "
        "this machine's.",
    )
    template: str | None = Field(
        None, description="A template of your own in place of the built-in one (a path)."
    )
    patch: dict[str, Any] | str | None = Field(
        None, description="Merged into what is rendered: a mapping, or the path of a YAML file."
    )

    @model_validator(mode="after")
    def _no_literal_secrets(self) -> Rendered:
        for name, value in self.env.items():
            if why := why_secret(name, value, self.not_secret):
                raise ValueError(
                    f"env.{name}: {why}, and env is readable by everybody who can see the "
                    f"{self._shown_with}; {self._way_of_secrets}, or name it in 'not_secret' if it "
                    f"is none"
                )
        return self


class KubernetesPods(Settings):
    """Of pods, and the way to the cluster they are in."""

    kubeconfig: str | None = Field(
        None, description="A kubeconfig file; `KUBECONFIG` or `~/.kube/config` if null."
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None, description="Kubernetes' own default if null."
    )
    image_pull_secrets: list[str] = Field(
        default_factory=list, description="Names of Secrets for private registries."
    )
    python: str = Field("python3", description="The Python in the image.")
    service_account: str | None = Field(None, description="The pods' service account.")
    node_selector: dict[str, str] = Field(default_factory=dict, description="Labels of the node.")
    tolerations: list[dict[str, Any]] = Field(
        default_factory=list, description="Taints that the pods tolerate, as in a Pod."
    )
    affinity: dict[str, Any] | None = Field(None, description="Affinity, as in a Pod.")
    priority_class: str | None = Field(None, description="The pods' priority class.")
    volumes: list[dict[str, Any]] = Field(default_factory=list, description="As in a Pod.")
    volume_mounts: list[dict[str, Any]] = Field(
        default_factory=list, description="As in a container."
    )
    labels: dict[str, str] = Field(
        default_factory=dict, description="Further labels of the objects and the pods."
    )
    annotations: dict[str, str] = Field(
        default_factory=dict, description="Further annotations of the objects and the pods."
    )
    gpu_resource: str = Field("nvidia.com/gpu", description="What a GPU is called on the nodes.")


class RayDashboard(Settings):
    """Of the way to a Ray cluster's dashboard."""

    ca_cert: str | None = Field(
        None, description="A PEM file with the authority of the dashboard's certificate."
    )
    verify_tls: bool = Field(True, description="Whether the dashboard's certificate is checked.")
    token_file: str | None = Field(
        None,
        description="A file with the cluster's token; `RAY_AUTH_TOKEN`, `RAY_AUTH_TOKEN_PATH` and "
        "`~/.ray/auth_token` if null.",
    )

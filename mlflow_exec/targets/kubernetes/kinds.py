"""The kinds of objects that a deployment of ours can be, and what differs between them. Pure.

The object at the head owns all the others, and its controller makes the pods: a Deployment, or an
InferenceService of KServe, whose controller makes a Deployment.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar

from mlflow_exec.clients.kubernetes_rights import Rights
from mlflow_exec.errors import ConfigError
from mlflow_exec.settings import KubernetesTargetSettings

Json = Mapping[str, Any]

CHANGED = ("create", "get", "list", "patch", "delete")
"""The verbs for an object that every revision applies."""


class Kind(ABC):
    """One kind of head; heads are given as the cluster, a plan or a record has them.

    Attributes:
        name: As ``kind`` in the object.
        api_version: As ``apiVersion`` in the object.
        template: The built-in template, below ``deploy_templates/``.
        beside: Kinds of the objects that may be rendered beside it, a Service not among them.
        container: The container that answers.
        has_scale: Whether its number of replicas is a field that others set, too.
        has_deadline: Whether it says itself until when its pods must have started.
        rights: The verbs on what its controller needs and makes.
        not_known: What to say where the cluster does not know this kind.
    """

    name: ClassVar[str]
    api_version: ClassVar[str]
    template: ClassVar[str]
    beside: ClassVar[tuple[str, ...]]
    container: ClassVar[str]
    has_scale: ClassVar[bool]
    has_deadline: ClassVar[bool]
    rights: ClassVar[Rights]
    not_known: ClassVar[str] = ""

    @abstractmethod
    def refuse(self, name: str, settings: KubernetesTargetSettings) -> None:
        """Refuse a name and settings that it cannot honour.

        Raises:
            ConfigError: It cannot.
        """

    @abstractmethod
    def values(self, settings: KubernetesTargetSettings) -> dict[str, Any]:
        """Return what its template gets besides what all get."""

    @abstractmethod
    def pods_of(self, head: Json) -> dict[str, Any]:
        """Return what its pods are made by: ``metadata`` and ``spec``, as in a PodTemplate."""

    @abstractmethod
    def with_pods(self, head: Json, pods: Json) -> dict[str, Any]:
        """Return it with other pods; ``pods`` as from `pods_of`."""

    @abstractmethod
    def held(self, head: Json) -> dict[str, Any]:
        """Return it so that it starts nothing yet."""

    @abstractmethod
    def is_held(self, head: Json) -> bool:
        """Whether it starts nothing yet."""

    @abstractmethod
    def made(self, name: str) -> list[tuple[str, str]]:
        """Return kind and name of what its controller makes in the namespace of its own accord."""


class DeploymentKind(Kind):
    """A Deployment, with an autoscaler and a way in of our own."""

    name = "Deployment"
    api_version = "apps/v1"
    template = "kubernetes/deployment.yaml.j2"
    beside = ("PodDisruptionBudget", "HorizontalPodAutoscaler", "Ingress", "HTTPRoute")
    container = "model"
    has_scale = True
    has_deadline = True
    rights = (("apps", "deployments", "", CHANGED),)

    def refuse(self, name: str, settings: KubernetesTargetSettings) -> None:
        """See `Kind`: it can do all."""

    def values(self, settings: KubernetesTargetSettings) -> dict[str, Any]:
        """See `Kind`."""
        return {}

    def pods_of(self, head: Json) -> dict[str, Any]:
        """See `Kind`."""
        return dict(head["spec"].get("template") or {})

    def with_pods(self, head: Json, pods: Json) -> dict[str, Any]:
        """See `Kind`."""
        return {**head, "spec": {**head["spec"], "template": dict(pods)}}

    def held(self, head: Json) -> dict[str, Any]:
        """See `Kind`."""
        return {**head, "spec": {**head["spec"], "paused": True}}

    def is_held(self, head: Json) -> bool:
        """See `Kind`."""
        return bool(head["spec"].get("paused"))

    def made(self, name: str) -> list[tuple[str, str]]:
        """See `Kind`."""
        return []


# https://github.com/kserve/kserve/blob/master/pkg/apis/serving/v1beta1/component.go
# All else in a predictor is of its pods.
_OF_COMPONENT = {
    "annotations", "autoScaling", "batcher", "canaryTrafficPercent", "containerConcurrency",
    "deploymentStrategy", "labels", "logger", "maxReplicas", "minReplicas", "scaleMetric",
    "scaleMetricType", "scaleTarget", "timeout",
}  # fmt: skip
_MODE = "serving.kserve.io/deploymentMode"
_AUTOSCALER = "serving.kserve.io/autoscalerClass"
_STOP = "serving.kserve.io/stop"
# KServe writes these into the pods, whatever we say.
_LABELS_OF_KSERVE = ("app", "component", "serving.kserve.io/inferenceservice")
_OWN_WAY_IN = ("gateway", "ingress_class", "ingress_host")


class InferenceServiceKind(Kind):
    """An InferenceService whose predictor is our own server, without Knative.

    Labels and annotations of the InferenceService become the pods', those of the predictor before
    them: so pods that stay keep the number of their revision in the predictor's.
    """

    name = "InferenceService"
    api_version = "serving.kserve.io/v1beta1"
    template = "kubernetes/inference_service.yaml.j2"
    beside = ("PodDisruptionBudget",)
    container = "kserve-container"  # KServe finds it by this name
    has_scale = False
    has_deadline = False
    rights = (
        ("serving.kserve.io", "inferenceservices", "", CHANGED),
        ("apps", "deployments", "", ("get", "list")),
        ("autoscaling", "horizontalpodautoscalers", "", ("get",)),
    )
    not_known = (
        "has no InferenceServices (serving.kserve.io/v1beta1); have KServe installed there, or "
        "leave 'kind' out"
    )

    def refuse(self, name: str, settings: KubernetesTargetSettings) -> None:
        """See `Kind`."""
        if not name[0].isalpha():
            raise ConfigError(
                f"name: a letter first is needed by KServe; given {name!r}; choose another name"
            )
        for key in _OWN_WAY_IN:
            if getattr(settings, key) is not None:
                raise ConfigError(
                    f"{key}: KServe decides by its own configuration how an InferenceService is "
                    f"reached from outside; leave it out with 'kind' kserve"
                )
        for key in _LABELS_OF_KSERVE:
            if key in settings.labels:
                raise ConfigError(f"labels: {key!r} is KServe's own; choose another label")
        for key in (_MODE, _AUTOSCALER, _STOP):
            if key in settings.annotations:
                raise ConfigError(
                    f"annotations: {key!r} follows from 'kind' and 'max_replicas'; leave it out"
                )

    def values(self, settings: KubernetesTargetSettings) -> dict[str, Any]:
        """See `Kind`."""
        own = {
            # Also a KServe that has another word for it today, Standard, knows this one.
            _MODE: "RawDeployment",
            _AUTOSCALER: "none" if settings.max_replicas is None else "hpa",
        }
        return {
            "service_annotations": {**settings.annotations, **own},
            "request_timeout_s": -int(-settings.request_timeout_s // 1),
        }

    def pods_of(self, head: Json) -> dict[str, Any]:
        """See `Kind`."""
        predictor = head["spec"]["predictor"]
        annotations = {
            **(head["metadata"].get("annotations") or {}), **(predictor.get("annotations") or {})
        }  # fmt: skip
        metadata = {"labels": dict(predictor.get("labels") or {}), "annotations": annotations}
        spec = {key: value for key, value in predictor.items() if key not in _OF_COMPONENT}
        return {"metadata": metadata, "spec": spec}

    def with_pods(self, head: Json, pods: Json) -> dict[str, Any]:
        """See `Kind`; the annotations stay, because pods that stay have the same."""
        predictor = head["spec"]["predictor"]
        kept = {key: value for key, value in predictor.items() if key in _OF_COMPONENT}
        labels = deepcopy(pods["metadata"]["labels"])
        spec = {**head["spec"], "predictor": {**kept, "labels": labels, **pods["spec"]}}
        return {**head, "spec": spec}

    def held(self, head: Json) -> dict[str, Any]:
        """See `Kind`."""
        metadata = head["metadata"]
        annotations = {**(metadata.get("annotations") or {}), _STOP: "true"}
        return {**head, "metadata": {**metadata, "annotations": annotations}}

    def is_held(self, head: Json) -> bool:
        """See `Kind`."""
        return (head["metadata"].get("annotations") or {}).get(_STOP) == "true"

    def made(self, name: str) -> list[tuple[str, str]]:
        """See `Kind`."""
        kinds = ("Deployment", "Service", "HorizontalPodAutoscaler")
        return [(kind, f"{name}-predictor") for kind in kinds]


DEPLOYMENT = DeploymentKind()
INFERENCE_SERVICE = InferenceServiceKind()
KINDS: Mapping[str, Kind] = {kind.name: kind for kind in (DEPLOYMENT, INFERENCE_SERVICE)}
"""By their names in objects."""
BY_SETTING: Mapping[str, Kind] = {"deployment": DEPLOYMENT, "kserve": INFERENCE_SERVICE}
"""By the values of the setting ``kind``."""


def kind_of(head: Json) -> Kind:
    """Return the kind of the object at the head of a deployment."""
    return KINDS[str(head["kind"])]

"""Stands for KServe's controller: does what that does of InferenceServices without Knative.

KServe's own manager is not to be had for these tests. What is done here follows it: a Deployment, a
Service and an autoscaler named ``<name>-predictor``, the labels and annotations of both on the
pods, and the conditions of the Deployment as those of the InferenceService.
https://github.com/kserve/kserve/tree/master/pkg/controller/v1beta1/inferenceservice
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from kubernetes import client
from kubernetes.dynamic import DynamicClient
from kubernetes.dynamic.exceptions import DynamicApiError, NotFoundError

from tests.clusters.kserve.definition import GROUP, NAME, PLURAL, VERSION, definition
from tests.clusters.kubernetes.custom_kinds import install

Json = dict[str, Any]

_POLL_S = 0.3
_MANAGER = "kserve-stand-in"
_PREFIX = "serving.kserve.io"
_COMPONENT = {
    "minReplicas", "maxReplicas", "scaleTarget", "scaleMetric", "timeout", "labels", "annotations",
    "deploymentStrategy",
}  # fmt: skip


def is_installed(api: client.ApiClient) -> bool:
    """Tell whether the cluster knows InferenceServices."""
    found = client.ApiextensionsV1Api(api).list_custom_resource_definition().items
    return NAME in {item.metadata.name for item in found}


@contextlib.contextmanager
def standing_in(api: client.ApiClient, namespace: str) -> Iterator[None]:
    """Let the cluster know InferenceServices, and serve those of a namespace."""
    install(api, definition(api))
    stopped = threading.Event()
    controller = _Controller(DynamicClient(api), client.CustomObjectsApi(api), namespace)
    thread = threading.Thread(target=controller.run, args=(stopped,))
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        client.ApiextensionsV1Api(api).delete_custom_resource_definition(NAME)


class _Controller:
    def __init__(
        self, dynamic: DynamicClient, services: client.CustomObjectsApi, namespace: str
    ) -> None:
        self._dynamic = dynamic
        self._services = services
        self._namespace = namespace

    def run(self, stopped: threading.Event) -> None:
        """Look at every InferenceService, again and again."""
        where = (GROUP, VERSION, self._namespace, PLURAL)
        while not stopped.wait(_POLL_S):
            with contextlib.suppress(client.ApiException, DynamicApiError):
                for service in self._services.list_namespaced_custom_object(*where)["items"]:
                    with contextlib.suppress(client.ApiException, DynamicApiError):
                        if not service["metadata"].get("deletionTimestamp"):
                            self._look(service)

    def _look(self, service: Json) -> None:
        name = service["metadata"]["name"]
        annotations = service["metadata"].get("annotations") or {}
        if annotations.get(f"{_PREFIX}/stop") == "true":
            return
        made = _made(service)
        for item in made:
            self._resource(item).server_side_apply(
                body=item, field_manager=_MANAGER, force_conflicts=True
            )
        if annotations.get(f"{_PREFIX}/autoscalerClass") == "none":
            with contextlib.suppress(NotFoundError):
                kind = {"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler"}
                self._resource(kind).delete(made[0]["metadata"]["name"], self._namespace)
        deployment = self._resource(made[0]).get(made[0]["metadata"]["name"], self._namespace)
        status = _status(service, deployment.to_dict())
        if status != service.get("status"):
            self._services.patch_namespaced_custom_object_status(
                GROUP, VERSION, self._namespace, PLURAL, name, {"status": status}
            )

    def _resource(self, item: Json) -> Any:
        return self._dynamic.resources.get(api_version=item["apiVersion"], kind=item["kind"])


def _made(service: Json) -> list[Json]:
    """Return what is made of an InferenceService, the Deployment first."""
    metadata, predictor = service["metadata"], service["spec"]["predictor"]
    annotations = {**metadata.get("annotations", {}), **predictor.get("annotations", {})}
    name, fixed = f"{metadata['name']}-predictor", annotations[f"{_PREFIX}/autoscalerClass"]
    own = {
        f"{_PREFIX}/inferenceservice": metadata["name"], "component": "predictor",
        "app": f"isvc.{name}",
    }  # fmt: skip
    shared = {
        "namespace": metadata["namespace"],
        "labels": {**metadata.get("labels", {}), **predictor.get("labels", {}), **own},
        "annotations": annotations,
    }
    owner = {
        "apiVersion": f"{GROUP}/{VERSION}", "kind": "InferenceService", "name": metadata["name"],
        "uid": metadata["uid"], "controller": True, "blockOwnerDeletion": True,
    }  # fmt: skip
    named = {**shared, "name": name, "ownerReferences": [owner]}
    pods = {key: value for key, value in predictor.items() if key not in _COMPONENT}
    selector = {"app": own["app"]}
    spec: Json = {
        "selector": {"matchLabels": selector},
        "template": {"metadata": {k: shared[k] for k in ("labels", "annotations")}, "spec": pods},
        "strategy": predictor["deploymentStrategy"],
    }
    if fixed == "none":
        spec["replicas"] = predictor["minReplicas"]
    port = predictor["containers"][0]["ports"][0]
    ports = [{"name": port["name"], "port": 80, "targetPort": port["containerPort"]}]
    found = [
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": named, "spec": spec},
        {"apiVersion": "v1", "kind": "Service", "metadata": named,
         "spec": {"selector": selector, "ports": ports}},
    ]  # fmt: skip
    if fixed == "hpa":
        found.append({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": named,
            "spec": _scaling(name, predictor),
        })  # fmt: skip
    return found


def _scaling(name: str, predictor: Json) -> Json:
    target = {"type": "Utilization", "averageUtilization": predictor["scaleTarget"]}
    resource = {"name": predictor["scaleMetric"], "target": target}
    return {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
        "minReplicas": predictor["minReplicas"], "maxReplicas": predictor["maxReplicas"],
        "metrics": [{"type": "Resource", "resource": resource}],
    }  # fmt: skip


def _status(service: Json, deployment: Json) -> Json:
    """Return the status that follows from the Deployment's conditions."""
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    found = {c["type"]: c for c in (deployment.get("status") or {}).get("conditions") or ()}
    told = found.get("Available") or {"status": "Unknown"}
    progressing = found.get("Progressing") or {}
    if progressing.get("status") == "False":
        told = progressing
    words = {key: told[key] for key in ("reason", "message") if key in told}
    ready = {"type": "PredictorReady", "status": told["status"], **words}
    ingress = {"type": "IngressReady", "status": told["status"]}
    if told["status"] != "True":
        ingress["reason"] = "Predictor ingress not created"
    status: Json = {
        "conditions": [ingress, ready, {**ready, "type": "Ready"}],
        "deploymentMode": "Standard",
        "components": {"predictor": {}},
    }
    if told["status"] == "True":
        status["url"] = f"http://{name}-{namespace}.example.com"
    return status

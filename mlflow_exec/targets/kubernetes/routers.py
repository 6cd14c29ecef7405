"""The routers of an endpoint: how they get to know new routes, and whether they do.

The kubelet brings a changed ConfigMap into running pods when it looks at them again, which is after
a minute at the most, and at once when the pod itself changes. So each gets an annotation.
https://kubernetes.io/docs/tasks/configure-pod-container/configure-pod-configmap/#mounted-configmaps-are-updated-automatically
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from mlflow_exec.clients.kubernetes import KubernetesClient, object_path
from mlflow_exec.clients.kubernetes_disruptions import true_conditions
from mlflow_exec.errors import ClusterError, UnreachableError
from mlflow_exec.releases import Revision, Rollout, RolloutState
from mlflow_exec.targets.kubernetes.objects import listed, selector
from mlflow_exec.targets.kubernetes.plan import routes_number
from mlflow_exec.targets.kubernetes.pods import PORT

Json = Mapping[str, Any]

ANNOTATION = "mlflow-exec/routes"
# How long a router that was given routes may leave questions for them without an answer.
PATIENCE_S = 30.0
_TIMEOUT_S = 5.0


def tell_routers(client: KubernetesClient, namespace: str, revision: Revision) -> None:
    """Have the kubelets look at the routers' pods now; without the right to it they do later."""
    body = {"metadata": {"annotations": {ANNOTATION: str(revision.number)}}}
    try:
        pods = listed(client, "pods", namespace, selector(revision.name))
    except ClusterError:
        return
    for pod in pods:
        path = object_path("pods", namespace, pod["metadata"]["name"])
        with suppress(ClusterError):  # one that is gone, too
            client.request(
                "PATCH", path, body=body, content_type="application/merge-patch+json"
            )


def with_routes(
    client: KubernetesClient,
    namespace: str,
    rollout: Rollout,
    pods: Sequence[Json],
    unreachable: set[str],
    *,
    patient: bool = False,
) -> Rollout:
    """Return the rollout of an endpoint, which is ready when its routers have the newest routes.

    Routers that cannot be asked, for want of the right or because no way leads from the API server
    to pods, are not waited for.

    Args:
        client: The cluster.
        namespace: The endpoint's.
        rollout: As the objects tell it.
        pods: Its pods.
        unreachable: Pods that are not to be asked again; grows.
        patient: Whether one that does not answer is late, which under load it may be.
    """
    wanted = routes_number(rollout.revision) if rollout.revision else None
    if wanted is None or rollout.state is not RolloutState.READY:
        return rollout
    late = 0
    for pod in pods:
        name, ready = pod["metadata"]["name"], "Ready" in true_conditions(pod)
        if not ready or pod["metadata"].get("deletionTimestamp") or name in unreachable:
            continue
        try:
            number = _number(client, namespace, name)
        except ClusterError as error:
            if patient and isinstance(error, UnreachableError):
                late += 1
                continue
            number = None
        if number is None:
            unreachable.add(name)
        late += number not in (None, wanted)
    if not late:
        return rollout
    message = f"{late} of {rollout.replicas} routers have not confirmed the new routes yet"
    return replace(rollout, state=RolloutState.DEPLOYING, message=message)


def _number(client: KubernetesClient, namespace: str, pod: str) -> int | None:
    """Return the number of the routes that a router follows; None where it may not be asked.

    Raises:
        UnreachableError: It does not answer, asked twice.
        AccessDeniedError: There are no credentials to ask with.
    """
    path = object_path("pods", namespace, f"{pod}:{PORT}", sub="proxy") + "/routes"
    for _ in range(2):
        with suppress(UnreachableError):
            response = client.exchange("GET", path, None, {}, _TIMEOUT_S, proxied=True)
            if response.status < 500:
                return _told(response)
    raise UnreachableError(f"pod {pod}: its router does not answer")


def _told(response: Any) -> int | None:
    with suppress(ValueError, KeyError, TypeError):
        return int(json.loads(response.data)["number"]) if response.status == 200 else None
    return None

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
from mlflow_exec.errors import AccessDeniedError, ClusterError
from mlflow_exec.releases import Revision, Rollout, RolloutState
from mlflow_exec.targets.kubernetes.objects import listed, selector
from mlflow_exec.targets.kubernetes.plan import routes_number
from mlflow_exec.targets.kubernetes.pods import PORT

Json = Mapping[str, Any]

ANNOTATION = "mlflow-exec/routes"
_TIMEOUT_S = 5.0


def tell_routers(client: KubernetesClient, namespace: str, revision: Revision) -> None:
    """Have the kubelets look at the routers' pods now; without the right to it they do later."""
    body = {"metadata": {"annotations": {ANNOTATION: str(revision.number)}}}
    with suppress(ClusterError):
        for pod in listed(client, "pods", namespace, selector(revision.name)):
            path = object_path("pods", namespace, pod["metadata"]["name"])
            client.request(
                "PATCH", path, body=body, content_type="application/merge-patch+json"
            )


def with_routes(
    client: KubernetesClient, namespace: str, rollout: Rollout, pods: Sequence[Json]
) -> Rollout:
    """Return the rollout of an endpoint, which is ready when its routers have the newest routes."""
    wanted = routes_number(rollout.revision) if rollout.revision else None
    if wanted is None or rollout.state is not RolloutState.READY:
        return rollout
    up_to_date = (wanted, 0)
    late = [n for n in _answering(pods) if _number(client, namespace, n) not in up_to_date]
    if not late:
        return rollout
    message = f"{len(late)} of {rollout.replicas} routers have not read the new routes yet"
    return replace(rollout, state=RolloutState.DEPLOYING, message=message)


def _answering(pods: Sequence[Json]) -> list[str]:
    return [
        pod["metadata"]["name"]
        for pod in pods
        if not pod["metadata"].get("deletionTimestamp")
        and any(
            c["type"] == "Ready" and c["status"] == "True"
            for c in (pod.get("status") or {}).get("conditions") or ()
        )
    ]


def _number(client: KubernetesClient, namespace: str, pod: str) -> int | None:
    """Return the number of the routes that a router follows; 0 where it may not be asked."""
    path = object_path("pods", namespace, f"{pod}:{PORT}", sub="proxy") + "/routes"
    try:
        response = client.exchange("GET", path, None, {}, _TIMEOUT_S, proxied=True)
        if response.status == 403:
            return 0
        return int(json.loads(response.data)["number"])
    except AccessDeniedError:
        return 0
    except (ClusterError, ValueError, KeyError, TypeError):
        return None

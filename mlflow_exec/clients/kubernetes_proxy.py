"""Requests to a Service through the API server, with the credentials for that alone.

https://kubernetes.io/docs/tasks/access-application-cluster/access-cluster-services/
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from mlflow_exec.clients.kubernetes import KubernetesClient, object_path
from mlflow_exec.clients.pauses import Pauses
from mlflow_exec.errors import UnreachableError

# How long a pod is looked for that answers.
_PATIENCE_S = 15.0


@dataclass(frozen=True)
class ProxiedAnswer:
    """What the pod behind the Service has answered."""

    status: int
    content_type: str
    body: bytes


def ask_service(
    client: KubernetesClient,
    namespace: str,
    service: str,
    path: str,
    body: bytes | None,
    headers: Mapping[str, str],
    timeout_s: float,
) -> ProxiedAnswer:
    """Send a request to one of the pods behind a Service, and return its answer.

    Where the API server reaches no pod, or the one that it asked is gone before it has answered,
    another one is asked for a while. So a request may reach two of them.

    Args:
        client: The cluster.
        namespace: Of the Service.
        service: Its name, with its port (``iris:http``).
        path: The pod's own, such as ``/ping``.
        body: Sent by POST; None for GET.
        headers: ``Authorization`` reaches no pod: the API server takes it for its own.
        timeout_s: For all tries together.

    Raises:
        ClusterError: What the API server itself says.
    """
    method = "GET" if body is None else "POST"
    url = object_path("services", namespace, service, sub="proxy") + quote(path, safe="/?=&%:")
    end_s, pauses = time.monotonic() + timeout_s, Pauses()
    patient_until_s = time.monotonic() + min(timeout_s, _PATIENCE_S)
    while True:
        left_s = end_s - time.monotonic()
        try:
            response = client.exchange(method, url, body, headers, max(left_s, 0.1), proxied=True)
            if not _is_of_api_server(response.status, response.data):
                kind = str(response.headers.get("Content-Type") or "")
                return ProxiedAnswer(int(response.status), kind, response.data)
            raise client.error(method, url, response)
        except UnreachableError as error:
            pause_s = pauses.next_s(error.retry_after_s)
            if time.monotonic() + pause_s > patient_until_s:
                raise
            time.sleep(pause_s)


def _is_of_api_server(status: int, body: bytes) -> bool:
    """Whether an answer is not the pod's, but says why there is none of it."""
    if status < 400 or b'"Status"' not in body:
        return False
    try:
        data = json.loads(body)
    except ValueError:
        return False
    return isinstance(data, dict) and data.get("kind") == "Status" and "apiVersion" in data

"""The Kubernetes API over plain JSON.

The official client loads the kubeconfig (exec plugins, OIDC, client certificates) and owns the
TLS set-up; requests and answers stay JSON, because deserialising every object of a watch into
model classes is slow and takes a lock per class (kubernetes-client/python#2284).
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from mlflow_exec.clients.server_clock import ServerClock
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConfigError,
    ConflictError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.registry import missing_extra

try:
    import urllib3
    from kubernetes.client import ApiClient
except ModuleNotFoundError as error:
    raise missing_extra("k8s", error) from error

CONNECT_TIMEOUT_S = 10.0
_UID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")
READ_TIMEOUT_S = 30.0

# https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/
# api-conventions.md#http-status-codes
_BY_STATUS: dict[int, type[ClusterError]] = {
    400: RejectedError,
    401: AccessDeniedError,
    403: AccessDeniedError,
    404: NotFoundError,
    409: ConflictError,
    410: ClusterError,
    413: RejectedError,
    415: RejectedError,
    422: RejectedError,
}


class Stream:
    """The pieces of an answer's body as they come; a context manager."""

    def __init__(self, response: Any, name: str) -> None:
        self._response = response
        self._name = name

    def __iter__(self) -> Iterator[bytes]:
        try:
            while piece := self._response.read1(65536):
                yield piece
        except (urllib3.exceptions.HTTPError, OSError, AttributeError, ValueError) as error:
            raise UnreachableError(f"{self._name}: the connection broke: {error}") from error

    def interrupt(self) -> None:
        """End a read that another thread waits in."""
        with suppress(Exception):  # it may be over already, by itself
            self._response.shutdown()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()


class KubernetesClient:
    """One cluster, reached with one set of credentials. Thread-safe."""

    def __init__(self, name: str, namespace: str, load: Callable[[], ApiClient]) -> None:
        """Use ``kubernetes_config.connect`` or ``find``.

        Args:
            name: What messages call this way to the cluster.
            namespace: The namespace that the credentials come with.
            load: Reads the credentials; called again when they are refused.
        """
        self.name = name
        self.namespace = namespace
        self._load = load
        self._lock = threading.Lock()
        self._api = load()
        self._identity = ""
        self._clock = ServerClock()

    # -- requests ---------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        content_type: str = "application/json",
        timeout_s: float = READ_TIMEOUT_S,
    ) -> dict[str, Any]:
        """Send one request and return the answer's JSON.

        Raises:
            ClusterError: One of its subclasses, by the answer's status.
        """
        response = self._send(method, path, body, query, content_type, timeout_s, stream=False)
        data = response.data
        result = json.loads(data) if data else {}
        return result if isinstance(result, dict) else {"value": result}

    def stream(
        self, path: str, query: Mapping[str, Any], *, read_timeout_s: float
    ) -> Stream:
        """Open a GET whose body is read piece by piece while it comes.

        Raises:
            ClusterError: By the answer's status; `UnreachableError` also while reading, when
                nothing came for ``read_timeout_s``.
        """
        response = self._send("GET", path, None, query, "", read_timeout_s, stream=True)
        return Stream(response, self.name)

    def _send(
        self,
        method: str,
        path: str,
        body: Any,
        query: Mapping[str, Any] | None,
        content_type: str,
        timeout_s: float,
        *,
        stream: bool,
        reload: bool = True,
    ) -> Any:
        api = self._api
        # The generated client asks its refresh hook here: exec plugins and rotated tokens.
        headers = {s["key"]: s["value"] for s in api.configuration.auth_settings().values()}
        if body is not None:
            headers["Content-Type"] = content_type
        url = api.configuration.host + path + (f"?{urlencode(query)}" if query else "")
        try:
            response = api.rest_client.pool_manager.request(
                method,
                url,
                body=None if body is None else json.dumps(body).encode(),
                headers=headers,
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=timeout_s),
                preload_content=not stream,
                retries=False,
            )
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise UnreachableError(
                f"{self.name}: {api.configuration.host} gives no answer: {error}"
            ) from error
        self._clock.hear(response.headers.get("Date"))
        if response.status == 401 and reload:
            with self._lock:
                if self._api is api:
                    self._api = self._load()
            return self._send(
                method, path, body, query, content_type, timeout_s, stream=stream, reload=False
            )
        if response.status >= 400:
            raise self._error(method, path, response.status, response.data)
        return response

    def now(self) -> datetime | None:
        """Return the time by the API server's clock; None before its first answer."""
        return self._clock.now()

    def _error(self, method: str, path: str, status: int, data: bytes) -> ClusterError:
        try:
            answer = json.loads(data)
            message, reason = str(answer["message"]), str(answer.get("reason", ""))
        except (ValueError, KeyError, TypeError):
            message, reason = data[:500].decode(errors="replace"), ""
        kind = _BY_STATUS.get(status, UnreachableError if status >= 500 else ClusterError)
        if status == 429:
            kind = UnreachableError
        return kind(
            f"{self.name}: {method} {path}: {status} {message}", status=status, reason=reason
        )

    # -- who is it --------------------------------------------------------------------------

    @staticmethod
    def is_certain(identity: str) -> bool:
        """Whether two different identities of this kind are surely two clusters."""
        return bool(_UID.match(identity))

    @property
    def host(self) -> str:
        """The API server's address."""
        return str(self._api.configuration.host)

    def identity(self, cluster_name: str | None = None) -> str:
        """Return what names this cluster on every machine.

        ``cluster_name`` where it is given, else the UID of namespace kube-system, else (where
        that may not be read) the first 16 hex digits of the sha256 of the cluster's CA.

        Raises:
            ConfigError: There is none of the three.
            UnreachableError: No answer came.
        """
        if cluster_name:
            return cluster_name
        if not self._identity:
            try:
                answer = self.request("GET", "/api/v1/namespaces/kube-system", timeout_s=10)
                self._identity = answer["metadata"]["uid"]
            except AccessDeniedError:
                self._identity = self._ca_identity()
        return self._identity

    def is_same(self, identity: str, holds: Callable[[KubernetesClient], bool]) -> bool:
        """Whether an identity that was read by other means is this cluster's."""
        if not self._identity or not _UID.match(identity) or not _UID.match(self._identity):
            try:
                return self._ca_identity() == identity or holds(self)
            except ConfigError:
                return holds(self)
        return False

    def _ca_identity(self) -> str:
        ca_file = self._api.configuration.ssl_ca_cert
        if not ca_file:
            raise ConfigError(
                f"{self.name}: the cluster cannot be told from others: namespace kube-system may "
                f"not be read and there is no CA certificate; set 'cluster_name'"
            )
        pem = Path(ca_file).read_text().split("-----BEGIN CERTIFICATE-----", 1)[-1]
        body = "".join(pem.split("-----END CERTIFICATE-----")[0].split())
        return hashlib.sha256(base64.b64decode(body)).hexdigest()[:16]


def object_path(
    resource: str, namespace: str, name: str = "", *, group: str = "", sub: str = ""
) -> str:
    """Return the path of a namespaced object or collection, such as ``jobs`` in ``batch/v1``."""
    prefix = f"/apis/{group}" if group else "/api/v1"
    parts = [f"{prefix}/namespaces/{quote(namespace, safe='')}/{resource}"]
    parts += [quote(part, safe="") for part in (name, sub) if part]
    return "/".join(parts)

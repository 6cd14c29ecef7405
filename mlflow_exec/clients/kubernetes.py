"""The Kubernetes API over plain JSON.

The official client loads the kubeconfig (exec plugins, OIDC, client certificates) and owns the
TLS set-up; requests and answers stay JSON, because deserialising every object of a watch into
model classes is slow and takes a lock per class (kubernetes-client/python#2284).
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from mlflow_exec.clients.pauses import Pauses, retry_after_s
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
# An answer that was lost on its way is missed after the first, and who is only slow is given more
# time with each try, up to the second.
FIRST_READ_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
# How long a request is tried again. A lost answer, and a second and a third one, fit into it.
PATIENCE_S = 40.0
# The way to a cluster of which it is only asked whether it is the one.
PROBE_PATIENCE_S = 5.0
_UID = re.compile(r"^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$")

# https://github.com/kubernetes/community/blob/master/contributors/devel/sig-architecture/
# api-conventions.md#http-status-codes
_BY_STATUS: dict[int, type[ClusterError]] = {
    400: RejectedError,
    401: AccessDeniedError,
    403: AccessDeniedError,
    404: NotFoundError,
    408: UnreachableError,
    409: ConflictError,
    410: ClusterError,
    413: RejectedError,
    415: RejectedError,
    422: RejectedError,
    429: UnreachableError,
}
_SIGN_IN = "sign in again, or correct the user in the kubeconfig"


class Stream:
    """The pieces of an answer's body as they come; a context manager."""

    def __init__(self, response: Any, name: str, silence_s: float) -> None:
        self._response = response
        self._name = name
        with suppress(AttributeError):  # a connection that ends with this answer has let it go
            response.connection.sock.settimeout(silence_s)

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


@dataclass(frozen=True)
class _Timing:
    """How long one try may take, growing from the first to the longest, and all of them."""

    first_s: float
    longest_s: float
    patience_s: float

    def persist(self, attempt: Callable[[float], Any]) -> Any:
        """Return what the attempt returns; try again while no answer comes."""
        pauses, end_s = Pauses(), time.monotonic() + self.patience_s
        for round_ in itertools.count():
            try:
                return attempt(min(self.first_s * 2**round_, self.longest_s))
            except UnreachableError as error:
                pause_s = pauses.next_s(error.retry_after_s)
                # One failure alone is never the last word, be it that it took all the time.
                once_more = round_ == 0 and pause_s <= self.patience_s
                if not once_more and time.monotonic() + pause_s > end_s:
                    raise
                time.sleep(pause_s)


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
        patience_s: float = PATIENCE_S,
    ) -> dict[str, Any]:
        """Send one request and return the answer's JSON.

        Where no answer comes (no connection, silence, 429, 5xx) it is sent again, as the server
        asks (``Retry-After``) or after growing, jittered pauses, until ``patience_s`` are over;
        once at least, unless they are 0. So it may arrive twice: a conflict can be the work of an
        earlier try whose answer was lost, and who creates or changes something looks.

        Raises:
            ClusterError: One of its subclasses, by the answer's status.
        """

        def attempt(read_timeout_s: float) -> dict[str, Any]:
            response = self._send(
                method, path, body, query, content_type, read_timeout_s, stream=False
            )
            try:
                result = json.loads(response.data) if response.data else {}
            except ValueError as error:
                raise UnreachableError(
                    f"{self.name}: {method} {path}: the answer is no JSON; something between here "
                    f"and the API server sent it: {response.data[:200].decode(errors='replace')}"
                ) from error
            return result if isinstance(result, dict) else {"value": result}

        timing = _Timing(FIRST_READ_TIMEOUT_S, timeout_s, patience_s)
        answer: dict[str, Any] = timing.persist(attempt)
        return answer

    def stream(
        self,
        path: str,
        query: Mapping[str, Any],
        *,
        silence_s: float,
        open_timeout_s: float | None = None,
        patience_s: float = PATIENCE_S,
    ) -> Stream:
        """Open a GET whose body is read piece by piece while it comes.

        Args:
            path: The path.
            query: The query.
            silence_s: How long nothing may come before the connection is taken for dead.
            open_timeout_s: How long it may take until the answer begins; ``silence_s`` if None.
            patience_s: How long opening is tried again, as with `request`.

        Raises:
            ClusterError: By the answer's status; `UnreachableError` also while reading.
        """
        open_s = silence_s if open_timeout_s is None else open_timeout_s

        def attempt(timeout_s: float) -> Any:
            return self._send("GET", path, None, query, "", timeout_s, stream=True)

        response = _Timing(open_s, open_s, patience_s).persist(attempt)
        return Stream(response, self.name, silence_s)

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
    ) -> Any:
        """Send once, or twice where the credentials have to be read anew."""
        text = None if body is None else json.dumps(body).encode()
        given = {} if text is None else {"Content-Type": content_type}
        full = path + (f"?{urlencode(query)}" if query else "")
        response = self.exchange(method, full, text, given, timeout_s, stream=stream)
        if "Audit-Id" in response.headers:
            # Only the API server's own answers tell its time; a proxy's clock may be any.
            self._clock.hear(response.headers.get("Date"))
        if response.status < 400:
            return response
        raise self.error(method, path, response)

    def exchange(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str],
        timeout_s: float,
        *,
        stream: bool = False,
        proxied: bool = False,
    ) -> Any:
        """Send these very bytes and return urllib3's response, whatever its status.

        Twice where the credentials have to be read anew; with ``proxied`` somebody behind the API
        server answers, whose own refusal is no reason for that.

        Raises:
            AccessDeniedError: There are no credentials to send.
            UnreachableError: No answer came.
        """
        renewed = False
        while True:
            api = self._api
            url = api.configuration.host + path
            try:
                response = api.rest_client.pool_manager.request(
                    method,
                    url,
                    body=body,
                    headers={**headers, **self._credentials(api)},
                    timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=timeout_s),
                    preload_content=not stream,
                    retries=False,
                )
                if response.status >= 400:
                    response.data  # noqa: B018 - read while the connection is there
            except (urllib3.exceptions.HTTPError, OSError) as error:
                raise UnreachableError(
                    f"{self.name}: {api.configuration.host} gives no answer: {error}"
                ) from error
            if renewed or response.status not in (401, 403):
                return response
            failure = self.error(method, path, response)
            if not _lacks_credentials(failure) or (proxied and not failure.reason):
                return response
            self._renew(api, failure)
            renewed = True

    def _credentials(self, api: ApiClient) -> dict[str, str]:
        """Return the headers that say who asks.

        The generated client asks its refresh hook here: exec plugins and rotated tokens. One
        thread does it for all.
        """
        try:
            with self._lock:
                settings = api.configuration.auth_settings().values()
        except Exception as error:  # plugins and providers have errors of their own
            raise AccessDeniedError(
                f"{self.name}: the credentials cannot be read: {error}; {_SIGN_IN}"
            ) from error
        return {item["key"]: item["value"] for item in settings}

    def _renew(self, refused: ApiClient, failure: ClusterError) -> None:
        """Read the credentials anew, unless another thread has just done it."""
        try:
            with self._lock:
                if self._api is refused:
                    self._api = self._load()
        except ConfigError as error:
            raise AccessDeniedError(f"{failure}; reading them anew: {error}", status=401) from error

    def now(self) -> datetime | None:
        """Return the time by the API server's clock; None before its first answer."""
        return self._clock.now()

    def error(self, method: str, path: str, response: Any) -> ClusterError:
        """Return the error that an answer of the API server's is, by its status."""
        status, data = int(response.status), response.data
        try:
            answer = json.loads(data)
            message, reason = str(answer["message"]), str(answer.get("reason", ""))
        except (ValueError, KeyError, TypeError):
            message, reason = data[:500].decode(errors="replace"), ""
        kind = _BY_STATUS.get(status, UnreachableError if status >= 500 else ClusterError)
        text = f"{self.name}: {method} {path}: {status} {message}"
        if status == 401:
            text += f"; the credentials are refused: {_SIGN_IN}"
        headers = response.headers
        asked_s = retry_after_s(headers.get("Retry-After"), headers.get("Date"))
        return kind(text, status=status, reason=reason, retry_after_s=asked_s)

    # -- who is it --------------------------------------------------------------------------

    @staticmethod
    def is_certain(identity: str) -> bool:
        """Whether two different identities of this kind are surely two clusters."""
        return bool(_UID.match(identity))

    @property
    def host(self) -> str:
        """The API server's address."""
        return str(self._api.configuration.host)

    def identity(
        self, cluster_name: str | None = None, *, patience_s: float = PATIENCE_S
    ) -> str:
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
            path = "/api/v1/namespaces/kube-system"
            try:
                answer = self.request("GET", path, timeout_s=10, patience_s=patience_s)
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


def _lacks_credentials(failure: ClusterError) -> bool:
    """Whether the cluster does not know who asks; a plugin that failed gives no credentials."""
    anonymous = failure.status == 403 and "system:anonymous" in str(failure)
    return failure.status == 401 or anonymous

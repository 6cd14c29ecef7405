"""The REST interface of Ray's dashboard: jobs, packages and logs, without ``import ray``.

https://docs.ray.io/en/latest/cluster/running-applications/job-submission/rest.html describes the
jobs; the rest was read from Ray 2.60 and is marked where it is used.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import requests
import urllib3

from mlflow_exec.clients.server_clock import ServerClock
from mlflow_exec.clients.tls import tls_refusal
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConfigError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
_UPLOAD_TIMEOUT_S = 600.0
# The dashboard passes a failure of a node's agent on as 500 with the agent's status in the text:
# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/dashboard/modules/job/job_head.py
_INNER_STATUS = re.compile(r"Request failed with status code (\d{3})")
# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/util/state/state_manager.py
_NO_AGENT = re.compile(r"Agent for node id: \w+ doesn't exist")
NODE_GONE = "NodeGone"
"""The reason of a `NotFoundError` where the cluster has no such node (any more)."""
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

# https://github.com/ray-project/ray/blob/ray-2.60.0/python/ray/_private/ray_constants.py#L324
# (DASHBOARD_CLIENT_MAX_SIZE): a larger body is refused, though the store itself could hold more.
PACKAGE_LIMIT_BYTES = 100 * 1024**2


def check_address(text: str, where: str) -> str:
    """Return the address of a dashboard without a trailing slash.

    Args:
        text: What was given.
        where: What the message names as the place.

    Raises:
        ConfigError: It is not the http(s) address of a dashboard.
    """
    text = text.strip().rstrip("/")
    try:
        parts = urlsplit(text)
        valid = bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        parts, valid = urlsplit(""), False
    if valid and parts.scheme in ("http", "https"):
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ConfigError(
                f"{where}: an address holds no user, query or fragment; give the token by "
                f"'token_file' or RAY_AUTH_TOKEN"
            )
        return text
    if text == "auto" or text.startswith("ray://") or "://" not in text:
        why = "names Ray's own protocol; the address of its dashboard is needed"
    else:
        why = "is no http(s) address"
    raise ConfigError(
        f"{where}: {text!r} {why}, such as 'http://head-node:8265'; for a cluster inside "
        f"Kubernetes forward its port 8265"
    )


class AddressSettings(Protocol):
    """The part of the settings that says which Ray is meant."""

    @property
    def address(self) -> str | None:
        """The address of the dashboard, or None."""


def resolve_address(settings: AddressSettings) -> tuple[str | None, str]:
    """Return the dashboard's address and where it comes from; nothing is asked or started.

    The address is None where none is configured: the Ray of this machine is meant then.

    Raises:
        ConfigError: What is configured is not the http(s) address of a dashboard.
    """
    if settings.address:
        return check_address(settings.address, "address"), "the setting 'address'"
    for variable in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        if os.environ.get(variable):
            return check_address(os.environ[variable], variable), f"the variable {variable}"
    return None, "the Ray of this machine"


def find_token(token_file: str | None) -> str | None:
    """Return the token in the order of Ray's own rules, None where there is none.

    ``token_file``, then ``RAY_AUTH_TOKEN``, ``RAY_AUTH_TOKEN_PATH``, ``~/.ray/auth_token``
    (https://docs.ray.io/en/latest/ray-security/token-auth.html).

    Raises:
        ConfigError: A file that was named cannot be read or is empty.
    """
    if token_file:
        return read_token(Path(token_file).expanduser(), "token_file")
    if os.environ.get("RAY_AUTH_TOKEN", "").strip():
        return os.environ["RAY_AUTH_TOKEN"].strip()
    if os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return read_token(Path(os.environ["RAY_AUTH_TOKEN_PATH"]), "RAY_AUTH_TOKEN_PATH")
    default = Path.home() / ".ray" / "auth_token"
    return read_token(default, "~/.ray/auth_token") if default.is_file() else None


def read_token(path: Path, where: str) -> str:
    """Return the token in a file.

    Raises:
        ConfigError: It cannot be read or is empty.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{where}: the token file {str(path)!r} cannot be read: {error}"
        ) from error
    if not token:
        raise ConfigError(f"{where}: the token file {str(path)!r} is empty")
    return token


class _TokenAuth(requests.auth.AuthBase):
    """Sends the token; as an object of its own it also keeps a ~/.netrc from replacing it."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class RayStream:
    """The pieces of an answer's body as they come; a context manager."""

    def __init__(self, response: requests.Response, where: str) -> None:
        self._response = response
        self._where = where

    def __iter__(self) -> Iterator[bytes]:
        try:
            while piece := self._response.raw.read1(65536, decode_content=True):
                yield piece
        except (urllib3.exceptions.HTTPError, OSError, AttributeError, ValueError) as error:
            raise UnreachableError(f"{self._where}: the connection broke: {error}") from error

    def interrupt(self) -> None:
        """End a read that another thread waits in."""
        with suppress(Exception):  # it may be over already, by itself
            self._response.raw.shutdown()

    def __enter__(self) -> RayStream:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()


class RayClient:
    """One dashboard. Every failure is one of `mlflow_exec.errors`, mapped here."""

    def __init__(
        self,
        address: str,
        *,
        token: str | None = None,
        ca_cert: str | None = None,
        verify_tls: bool = True,
    ) -> None:
        """Keep what is needed to connect; nothing is asked yet.

        Args:
            address: ``http(s)://host:port``, as `check_address` returns it.
            token: The cluster's token.
            ca_cert: A PEM file with the authority of the dashboard's certificate.
            verify_tls: Whether the certificate is checked.

        Raises:
            ConfigError: ``ca_cert`` is no such file.
        """
        self.address = address
        self.has_token = token is not None
        self.clock = ServerClock()
        self._session = requests.Session()
        self._session.auth = _TokenAuth(token)
        self._session.headers["User-Agent"] = "mlflow-exec"
        # Given to every request: the session's own would give way to $REQUESTS_CA_BUNDLE.
        self._verify = (_authority(ca_cert) if ca_cert else None) if verify_tls else False
        if (urlsplit(address).hostname or "") in _LOOPBACK:
            self._session.trust_env = False  # a proxy knows nothing of this machine's loopback

    # -- jobs -------------------------------------------------------------------------------

    def version(self) -> dict[str, Any]:
        """Return Ray's version and ``session_name``, the identity of this start of the cluster."""
        return dict(self._json("GET", "/api/version"))

    def submit(self, request: Mapping[str, Any]) -> None:
        """Submit a job; a `RejectedError` with reason ``AlreadyExists`` if the id is taken."""
        try:
            self._json("POST", "/api/jobs/", json=request)
        except ClusterError as error:
            if "already exists" not in str(error):
                raise
            raise RejectedError(str(error), status=error.status, reason="AlreadyExists") from error

    def job(self, submission_id: str) -> dict[str, Any] | None:
        """Return the record of a job, None if Ray does not know it."""
        try:
            return dict(self._json("GET", f"/api/jobs/{quote(submission_id, safe='')}"))
        except NotFoundError:
            return None

    def jobs(self) -> list[dict[str, Any]]:
        """Return the records of all submitted jobs by one request."""
        found = self._json("GET", "/api/jobs/")
        return [job for job in found if job.get("submission_id")]

    def stop(self, submission_id: str) -> None:
        """Ask Ray to stop a job; returns at once. Unknown jobs raise `NotFoundError`."""
        self._json("POST", f"/api/jobs/{quote(submission_id, safe='')}/stop")

    def delete(self, submission_id: str) -> None:
        """Let Ray forget a finished job."""
        self._json("DELETE", f"/api/jobs/{quote(submission_id, safe='')}")

    def node_resources(self) -> list[dict[str, float]]:
        """Return what each node has in all, as its autoscaler's monitor sees it."""
        answer = self._json("GET", "/api/cluster_status")
        report = (answer["data"].get("clusterStatus") or {}).get("loadMetricsReport") or {}
        return [dict(resources) for resources, _ in report.get("nodeTypes") or ()]

    def head_ip(self) -> str | None:
        """Return the address of the head node as Ray knows it; None if it is not told."""
        only = {"filter_keys": "is_head_node", "filter_predicates": "=", "filter_values": "True"}
        data = self._json("GET", "/api/v0/nodes", params=only)["data"]
        return next((str(node["node_ip"]) for node in data["result"]["result"]), None)

    # -- packages ---------------------------------------------------------------------------

    def has_package(self, name: str) -> bool:
        """Whether the package store holds a package; also keeps it for the next ten minutes."""
        try:
            self._request("GET", f"/api/packages/gcs/{quote(name, safe='')}")
        except NotFoundError:
            return False
        return True

    def put_package(self, name: str, content: bytes) -> None:
        """Store a package."""
        path = f"/api/packages/gcs/{quote(name, safe='')}"
        self._request("PUT", path, data=content, read_timeout_s=_UPLOAD_TIMEOUT_S)

    # -- logs -------------------------------------------------------------------------------

    def stream_log(self, node_id: str, file: str, *, follow: bool, lines: int = -1) -> RayStream:
        """Read a file of a node's log folder, as bytes.

        With ``follow`` it never ends by itself: it goes on after the job's end. By node and file
        name instead of the submission id, because for that the dashboard lists every job it knows
        (``python/ray/dashboard/modules/log/log_manager.py``).

        Args:
            node_id: The node that the file is on.
            file: Its name.
            follow: Whether to wait for more at the end of the file.
            lines: How many of the last lines; -1 for all.

        Raises:
            NotFoundError: With reason `NODE_GONE`: no such node is up, or not yet quite.
        """
        query: dict[str, Any] = {"node_id": node_id, "filename": file, "lines": lines}
        query |= {"interval": 0.5} if follow else {"timeout": 24 * 3600}
        path = f"/api/v0/logs/{'stream' if follow else 'file'}"
        # A job may say nothing for long, and the dashboard answers only with the first bytes.
        response = self._request("GET", path, params=query, stream=True, read_timeout_s=300.0)
        return RayStream(response, f"Ray {self.address}: {path}")

    def job_log(self, submission_id: str) -> str:
        """Return a job's whole output as text; fails where it is not UTF-8."""
        answer = self._json("GET", f"/api/jobs/{quote(submission_id, safe='')}/logs")
        return str(answer["logs"])

    # -- requests ---------------------------------------------------------------------------

    def _json(self, method: str, path: str, **arguments: Any) -> Any:
        response = self._request(method, path, **arguments)
        try:
            return response.json()
        except ValueError as error:
            raise RejectedError(
                f"Ray {self.address}: {method} {path}: the answer is not JSON, so this is no Ray "
                f"dashboard; check the address",
                status=response.status_code,
            ) from error

    def _request(
        self, method: str, path: str, *, read_timeout_s: float = READ_TIMEOUT_S, **arguments: Any
    ) -> requests.Response:
        where = f"Ray {self.address}: {method} {path}"
        try:
            response = self._session.request(
                method,
                self.address + path,
                timeout=(CONNECT_TIMEOUT_S, read_timeout_s),
                allow_redirects=False,
                verify=self._verify,
                **arguments,
            )
        except (requests.RequestException, OSError) as error:
            raise _unanswered(where, error) from error
        self.clock.hear(response.headers.get("Date"))
        if response.status_code == 200:
            return response
        with response:
            raise _refused(where, response)


def _authority(ca_cert: str) -> str:
    path = Path(ca_cert).expanduser()
    try:
        ssl.create_default_context(cafile=path)
    except OSError as error:  # ssl.SSLError is one
        raise ConfigError(
            f"ca_cert: {str(path)!r} is no PEM file with an authority: {error}"
        ) from error
    return str(path)


def _unanswered(where: str, error: Exception) -> ClusterError:
    refusal = tls_refusal(
        where,
        error,
        way_to_trust="set 'ca_cert' to a file with its authority, or 'verify_tls' to false to "
        "accept any",
        way_to_plain="where the dashboard speaks plain HTTP its address begins with http://",
    )
    if refusal is not None:
        return refusal
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return RejectedError(f"{where}: {error}")
    if isinstance(error, (ValueError, requests.exceptions.InvalidURL)):
        return RejectedError(f"{where}: {error}")
    return UnreachableError(f"{where}: no answer: {error}")


def _refused(where: str, response: requests.Response) -> ClusterError:
    text = response.text.strip()
    inner = _INNER_STATUS.search(text) if response.status_code == 500 else None
    status = int(inner.group(1)) if inner else response.status_code
    # The last line of a traceback says what was wrong.
    lines = [line for line in text.splitlines() if line.strip(" .")]
    message = f"{where}: {status}: {lines[-1].strip()[:2000] if lines else response.reason}"
    if 300 <= status < 400:
        target = response.headers.get("Location", "")
        return RejectedError(
            f"{where}: redirects to {target!r}; set 'address' to it", status=status
        )
    if status in (401, 403):
        return AccessDeniedError(
            f"{message}; give the cluster's token by 'token_file' or RAY_AUTH_TOKEN", status=status
        )
    if status == 404:
        return NotFoundError(message, status=404)
    if _NO_AGENT.search(text):
        return NotFoundError(message, status=status, reason=NODE_GONE)
    if status == 429 or status >= 500:
        return UnreachableError(message, status=status)
    return RejectedError(message, status=status)

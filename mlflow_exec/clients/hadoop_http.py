"""HTTP to Hadoop's daemons: who asks, which of several daemons answers, and what a refusal means.

Proxies and ``~/.netrc`` are left alone: a daemon is a machine of one's own network, and the user
of another service is nobody here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter

from mlflow_exec.clients.hadoop_errors import (
    STANDBY,
    date_of,
    refused,
    standby_text,
    unanswered,
)
from mlflow_exec.clients.hadoop_login import Login, find_login
from mlflow_exec.clients.server_clock import ServerClock
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConfigError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.registry import missing_extra

__all__ = ["CONNECT_TIMEOUT_S", "READ_TIMEOUT_S", "HadoopHttp", "Json", "Login", "find_login"]

Json = dict[str, Any]
CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
_CONNECTIONS = 64  # so many threads may keep one to each daemon
_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)


class HadoopHttp:
    """One daemon, or several of which one is active. Thread-safe; connections are kept."""

    def __init__(
        self, name: str, urls: Sequence[str], login: Login, *, verify: bool | str = True
    ) -> None:
        """Keep what is needed to ask; nothing is asked yet.

        Args:
            name: What messages call the service: ``YARN``, ``HDFS``.
            urls: ``http(s)://host:port`` of each daemon.
            login: Who asks.
            verify: Whether a daemon's certificate is checked, or the file with its authority.
        """
        self.name = name
        self.urls = tuple(url.rstrip("/") for url in urls)
        self.login = login
        self.clock = ServerClock()
        self._verify = _authorities() if verify is True else verify
        self._lock = threading.Lock()
        self._active = 0
        self._session = requests.Session()
        self._session.trust_env = False
        for prefix in ("http://", "https://"):
            self._session.mount(prefix, HTTPAdapter(pool_maxsize=_CONNECTIONS))
        self._session.headers["User-Agent"] = "mlflow-exec"
        self._session.headers["Accept"] = "application/json, */*;q=0.5"

    @property
    def url(self) -> str:
        """The daemon that answered last."""
        return self.urls[self._active]

    def ask(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        data: Any = None,
        stream: bool = False,
        timeout_s: float = READ_TIMEOUT_S,
        redirects: bool = False,
        check: Callable[[Any], str] | None = None,
    ) -> requests.Response:
        """Send a request to the active daemon and return its answer.

        A daemon that is not active, or does not answer, is passed over for the next. An answer
        that says no counts as one: its daemon is the active one.

        Args:
            method: Such as ``GET``.
            path: The path, quoted, beginning with ``/``.
            params: The query; who asks is added.
            json: A body to send as JSON.
            data: A body; one that can be read only once, only where a single daemon is known.
            stream: Whether the body is left to be read by the caller, who closes the answer.
            timeout_s: How long nothing may come.
            redirects: Whether a redirection is followed; else its answer is returned.
            check: Says of an answer's JSON why its daemon is not the active one; empty if it is.

        Raises:
            ClusterError: One of its subclasses; where no daemon gave an answer, the most telling
                of what went wrong.
        """
        arguments = {"params": params, "json": json, "data": data, "stream": stream}
        failures: list[ClusterError] = []
        first = self._active
        for index in [*range(first, len(self.urls)), *range(first)]:
            try:
                response = self._ask_one(index, method, path, timeout_s, redirects, arguments)
                self._check(index, response, check)
            except (UnreachableError, AccessDeniedError) as error:
                # Who does not know me (401) may be the one that is misconfigured.
                if isinstance(error, AccessDeniedError) and error.status != 401:
                    self._is_active(index)
                    raise
                failures.append(error)
            except ClusterError as error:
                if error.status is not None:
                    self._is_active(index)
                raise
            else:
                self._is_active(index)
                return response
        raise max(failures, key=_weight)

    def _check(
        self, index: int, response: requests.Response, check: Callable[[Any], str] | None
    ) -> None:
        why = ""
        if check is not None:
            with suppress(ValueError):  # `json` says so of what is none
                why = check(response.json())
        if why:
            raise UnreachableError(
                f"{self.name} {self.urls[index]}: this is not the active one: {why}", reason=STANDBY
            )

    def _is_active(self, index: int) -> None:
        with self._lock:
            self._active = index

    def _ask_one(
        self,
        index: int,
        method: str,
        path: str,
        timeout_s: float,
        redirects: bool,
        arguments: Mapping[str, Any],
    ) -> requests.Response:
        base = self.urls[index]
        params = {**self._identity(), **(arguments["params"] or {})}
        response = self.send(
            method, base + path, timeout_s=timeout_s, **{**arguments, "params": params}
        )
        if text := standby_text(response):
            response.close()
            raise UnreachableError(
                f"{self.name} {base}: this is not the active one: {text}", reason=STANDBY
            )
        for _ in range(_MOST_REDIRECTS if redirects else 0):
            if response.status_code not in _REDIRECTS or "Location" not in response.headers:
                return response
            response.close()
            target = urljoin(response.url, response.headers["Location"])
            response = self.send(
                method, target, timeout_s=timeout_s, **{**arguments, "params": None}
            )
        if redirects and response.status_code in _REDIRECTS:
            response.close()
            raise RejectedError(
                f"{self.name} {base}: {path} redirects in a circle; check the address",
                status=response.status_code,
            )
        return response

    def send(
        self, method: str, url: str, *, timeout_s: float = READ_TIMEOUT_S, **arguments: Any
    ) -> requests.Response:
        """Send one request to a whole address, such as a DataNode's, and return the answer.

        Who asks is not added to it: such an address says it by itself, by a token where one is
        needed. That is why no message shows more of it than its host.

        Args:
            method: Such as ``PUT``.
            url: The address with its query.
            timeout_s: How long nothing may come.
            **arguments: What `requests.Session.request` takes.

        Raises:
            ClusterError: One of its subclasses.
        """
        parts = urlsplit(url)
        where = f"{self.name} {parts.scheme}://{parts.netloc.rpartition('@')[2]}"
        try:
            response = self._session.request(
                method,
                url,
                timeout=(CONNECT_TIMEOUT_S, timeout_s),
                allow_redirects=False,
                verify=self._verify,
                auth=self._spnego() if self.login.kerberos else None,
                **arguments,
            )
        except (requests.RequestException, OSError) as error:
            raise unanswered(where, error) from error
        self.clock.hear(date_of(response))
        if response.status_code < 400 or standby_text(response):
            return response
        with response:
            raise refused(where, response, self.login)

    def json(self, method: str, path: str, **arguments: Any) -> Any:
        """Ask, and return the answer's JSON; None where it has no body.

        Raises:
            RejectedError: It is no JSON: something else answers at this address.
            ClusterError: As with `ask`.
        """
        response = self.ask(method, path, **arguments)
        try:
            return response.json() if response.content else None
        except ValueError as error:
            raise RejectedError(
                f"{self.name} {self.url}: {method} {path}: the answer ({response.status_code}) is "
                f"no JSON, so something else answers there; check the address in the "
                f"configuration",
                status=response.status_code,
            ) from error
        except (requests.RequestException, OSError) as error:
            raise unanswered(f"{self.name} {self.url}", error) from error

    def part(self, method: str, path: str, *names: str, **arguments: Any) -> Json:
        """Ask, and return the object of these names, one in the other, in the answer's JSON.

        Raises:
            RejectedError: There is none: something else answers at this address.
            ClusterError: As with `ask`.
        """
        found = self.json(method, path, **arguments)
        for name in names:
            found = found.get(name) if isinstance(found, dict) else None
        if not isinstance(found, dict):
            raise RejectedError(
                f"{self.name} {self.url}: {method} {path}: the answer holds no "
                f"{'.'.join(names)}, so something else answers there; check the address in the "
                f"configuration"
            )
        return found

    def _identity(self) -> dict[str, str]:
        """Return the parameters that say who asks."""
        said = {} if self.login.kerberos else {"user.name": self.login.user}
        if self.login.proxy_user:
            said["doAs"] = self.login.proxy_user
        return said

    def _spnego(self) -> requests.auth.AuthBase:
        """Return what signs in one request: its state is not for several threads."""
        try:
            import requests_gssapi
        except ModuleNotFoundError as error:
            raise missing_extra("yarn-kerberos", error) from error
        try:
            credentials = self.login.credentials()
        except ConfigError as error:
            raise AccessDeniedError(str(error), status=401) from error
        auth: requests.auth.AuthBase = requests_gssapi.HTTPSPNEGOAuth(
            creds=credentials, mutual_authentication=requests_gssapi.OPTIONAL
        )
        return auth


def _authorities() -> bool | str:
    """Return the authorities that the environment names, as requests does it by itself."""
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        if os.environ.get(variable):
            return os.environ[variable]
    return True


def _weight(error: ClusterError) -> int:
    """Say how much an error tells: a refusal, a failure, a standby, silence."""
    if isinstance(error, AccessDeniedError):
        return 3
    if error.reason == STANDBY:
        return 1
    return 2 if error.status is not None else 0

"""Requests to one JFrog Artifactory, and what its answers mean.

https://docs.jfrog.com/artifactory/reference

A credential goes to the server itself and nowhere else: a download that it redirects to a store of
objects is fetched there without, and nothing else is redirected.
"""

from __future__ import annotations

import html
import json
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter

from mlflow_exec.clients.pauses import PATIENCE_S, Pauses, retry_after_s
from mlflow_exec.clients.tls import tls_refusal
from mlflow_exec.credentials import hide
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConflictError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)

_LOG = logging.getLogger(__name__)
CONNECT_TIMEOUT_S = 15.0
READ_TIMEOUT_S = 60.0
_CONNECTIONS = 32
_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_FEWEST_TRIES = 3
# Who asks to be left alone for longer has to be told to people.
_LONGEST_ASKED_S = 60.0
_TAG = re.compile(r"<[^>]*>")
_SAID_BYTES = 64 * 1024
_LONGEST_SAID = 500
# What to name to the server's operator, who finds it in its logs.
_REQUEST_IDS = ("X-Request-Id", "X-Jfrog-Request-Id", "X-B3-Traceid", "X-Amz-Request-Id")

_LOCK = threading.Lock()
_SESSIONS: dict[tuple[int, str], requests.Session] = {}


class Tries:
    """The tries of one thing: three at least, and more for `PATIENCE_S` after the first failure."""

    def __init__(self) -> None:
        self._pauses = Pauses()
        self._failed = 0
        self._end_s = 0.0

    def wait(self, error: UnreachableError) -> None:
        """Wait before the next try.

        Raises:
            UnreachableError: ``error``: there were enough.
        """
        if not self._failed:
            self._end_s = time.monotonic() + PATIENCE_S
        self._failed += 1
        pause_s = self._pauses.next_s(error.retry_after_s)
        is_over = self._failed >= _FEWEST_TRIES and time.monotonic() + pause_s > self._end_s
        if is_over or error.retry_after_s > _LONGEST_ASKED_S:
            raise error
        _LOG.info("%s; trying again in %.1f s", error, pause_s)
        time.sleep(pause_s)


class _Headers(requests.auth.AuthBase):
    """Puts headers on one request, instead of what ``~/.netrc`` may have for its host."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = headers

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers.update(self._headers)
        return request


@dataclass(frozen=True)
class ArtifactoryHttp:
    """One server. Thread-safe; its connections are kept by the process.

    Attributes:
        base: ``http(s)://host[:port]``.
        sign_in: Returns the headers by which it knows who asks, as they are now.
        way_in: What to do where it does not, for people.
        shows: Whether each request is logged, without headers, queries and bodies.
    """

    base: str
    sign_in: Callable[[], Mapping[str, str]]
    way_in: str = ""
    shows: bool = False

    def ask(
        self,
        method: str,
        path: str,
        *,
        query: str = "",
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        timeout_s: float = READ_TIMEOUT_S,
    ) -> requests.Response:
        """Send a request; returns an answer of 2xx, which the caller reads and closes.

        Args:
            method: Such as ``PUT``.
            path: The path, quoted, beginning with ``/``.
            query: As it stands in a URL.
            headers: Further ones.
            data: A body; what `requests` takes.
            timeout_s: How long nothing may come.

        Raises:
            UnreachableError: It gives no answer now; trying again can help.
            ClusterError: Another of its subclasses: it says no.
        """
        url = f"{self.base}{path}{f'?{query}' if query else ''}"
        response = self._send(method, url, self.sign_in(), headers or {}, data, timeout_s)
        if response.status_code not in _REDIRECTS:
            return response
        with response:
            target = _shown(urljoin(url, response.headers.get("Location", "")))
        raise RejectedError(
            f"{self.base}: {method} is redirected to {target}; if that is the server, write it "
            f"into the location",
            status=response.status_code,
        )

    def download(self, path: str, headers: Mapping[str, str]) -> requests.Response:
        """Get a file, wherever the server sends one for it; see `ask`.

        The checksums that the server names where it redirects are added to the answer's headers.
        """
        url = f"{self.base}{path}"
        seen: dict[str, str] = {}
        for _ in range(_MOST_REDIRECTS + 1):
            is_own = _origin(url) == _origin(self.base)
            signed = self.sign_in() if is_own else {}
            response = self._send("GET", url, signed, headers, None, READ_TIMEOUT_S)
            if response.status_code not in _REDIRECTS:
                for name, value in seen.items():
                    response.headers.setdefault(name, value)
                return response
            target = urljoin(url, response.headers.get("Location", ""))
            if is_own:
                named = [name for name in response.headers if name.lower().startswith("x-checksum")]
                seen.update({name: response.headers[name] for name in named})
            response.close()
            if urlsplit(target).scheme != "https" and urlsplit(url).scheme == "https":
                raise RejectedError(f"{self.base}: it redirects to {_shown(target)}, without TLS")
            url = target
        raise RejectedError(f"{self.base}: GET is redirected in a circle")

    def json(self, method: str, path: str, *, query: str = "") -> dict[str, Any]:
        """Ask for a JSON object, and again until it comes; see `ask`."""
        tries = Tries()
        while True:
            try:
                return self.read_json(self.ask(method, path, query=query))
            except UnreachableError as error:
                tries.wait(error)

    def read_json(self, response: requests.Response) -> dict[str, Any]:
        """Return the object in an answer.

        Raises:
            RejectedError: There is none: something else answers there, such as a page to sign in.
            UnreachableError: The connection broke.
        """
        try:
            with response:
                found = response.json() if response.content else None
        except requests.exceptions.JSONDecodeError:
            found = None
        except (requests.RequestException, OSError) as error:
            raise unanswered(_shown(response.url), error) from None
        if not isinstance(found, dict):
            raise RejectedError(
                f"{_shown(response.url)}: the answer ({response.status_code}) is not one of "
                f"Artifactory's; check the host, and that the path begins with /artifactory",
                status=response.status_code,
            )
        return found

    def close(self) -> None:
        """Close the connections that are kept."""
        self._session().close()

    def _send(
        self,
        method: str,
        url: str,
        signed: Mapping[str, str],
        headers: Mapping[str, str],
        data: Any,
        timeout_s: float,
    ) -> requests.Response:
        began_s = time.monotonic()
        try:
            response = self._session().request(
                method,
                url,
                headers={"User-Agent": "mlflow-exec", "Accept-Encoding": "identity", **headers},
                data=data,
                auth=_Headers(signed),
                timeout=(CONNECT_TIMEOUT_S, timeout_s),
                allow_redirects=False,
                stream=True,
            )
        except (requests.RequestException, OSError) as error:
            raise unanswered(_shown(url), error) from None
        if self.shows:
            path, taken_s = urlsplit(url).path, time.monotonic() - began_s
            _LOG.info("%s %s: %d in %.2f s", method, path, response.status_code, taken_s)
        if response.status_code < 400:
            return response
        with response:
            raise self._refused(method, url, response)

    def _session(self) -> requests.Session:
        with _LOCK:
            key = (os.getpid(), self.base)
            if key not in _SESSIONS:
                made = requests.Session()
                adapter = HTTPAdapter(pool_connections=4, pool_maxsize=_CONNECTIONS)
                made.mount("https://", adapter)
                made.mount("http://", adapter)
                made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
                _SESSIONS[key] = made
            return _SESSIONS[key]

    def _refused(self, method: str, url: str, response: requests.Response) -> ClusterError:
        status = response.status_code
        said = " ".join(filter(None, (response.reason, _said(response))))
        text = f"{_shown(url)}: {method}: {status} {said}"
        for name in _REQUEST_IDS:
            if response.headers.get(name):
                text += f" (request {response.headers[name]})"
                break
        if status in (401, 403):
            text += f"; {self.way_in}" if self.way_in else ""
            return AccessDeniedError(text, status=status)
        if status in (408, 429) or (status >= 500 and status not in (501, 505, 507)):
            asked_s = retry_after_s(
                response.headers.get("Retry-After"), response.headers.get("Date")
            )
            return UnreachableError(text, status=status, retry_after_s=asked_s)
        kind = {404: NotFoundError, 409: ConflictError}.get(status, RejectedError)
        return kind(text, status=status)


def show_requests() -> None:
    """Have the requests told on stderr, where nobody has set up logging for that."""
    if not _LOG.isEnabledFor(logging.INFO):
        _LOG.setLevel(logging.INFO)
    with _LOCK:
        if not _LOG.hasHandlers():
            _LOG.addHandler(logging.StreamHandler())


def unanswered(where: str, error: Exception) -> ClusterError:
    """Return the error for a request that got no answer, or none to its end."""
    refusal = tls_refusal(
        where,
        error,
        way_to_trust="set REQUESTS_CA_BUNDLE to a file with its authority",
        way_to_plain="ARTIFACTORY_NO_SSL=true is for a server without TLS",
    )
    if refusal is not None:
        return refusal
    if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
        return RejectedError(f"{where}: {error}")  # such as a bundle of authorities that is missing
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidHeader)):
        return RejectedError(f"{where}: the request cannot be sent: {type(error).__name__}")
    return UnreachableError(f"{where}: no answer: {_reason(error)}")


def _reason(error: Exception) -> str:
    """Return the innermost sentence about a connection: those around it show URLs."""
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return "no connection in time"
    if isinstance(error, requests.exceptions.ReadTimeout):
        return "it took too long"
    innermost: BaseException = error
    while (below := innermost.__cause__ or innermost.__context__) is not None:
        innermost = below
    return hide(str(innermost)) or type(innermost).__name__


def _said(response: requests.Response) -> str:
    """Return what an answer of 400 or more says for people."""
    try:
        body = next(response.iter_content(_SAID_BYTES), b"")
    except (requests.RequestException, OSError):
        return ""
    text = body.decode(errors="replace")
    try:
        errors = json.loads(text)["errors"]
        text = " ".join(str(error["message"]) for error in errors)
    except (ValueError, KeyError, TypeError):
        text = html.unescape(_TAG.sub(" ", text))
    return hide(" ".join(text.split()))[:_LONGEST_SAID]


def _origin(url: str) -> tuple[str, str, int | None]:
    parts = urlsplit(url)
    port = parts.port or {"https": 443, "http": 80}.get(parts.scheme)
    return parts.scheme, parts.hostname or "", port


def _shown(url: str) -> str:
    """Return what of a URL may be shown: signed ones hold a signature in the query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"

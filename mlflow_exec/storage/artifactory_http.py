"""Requests to one JFrog Artifactory: who asks, what is redirected, and how often it is asked.

A credential goes to the server itself and nowhere else: a download that it redirects to a store of
objects is fetched there without, and nothing else is redirected.
"""

from __future__ import annotations

import logging
import threading
import time
from base64 import b64encode
from typing import Any
from urllib.parse import urljoin, urlsplit

import requests

from mlflow_exec.clients.pauses import PATIENCE_S, Pauses
from mlflow_exec.credential_sources import NOTHING, Credential
from mlflow_exec.errors import AccessDeniedError, CredentialError, RejectedError, UnreachableError
from mlflow_exec.storage.http import Http

_LOG = logging.getLogger(__name__)
_MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_FEWEST_TRIES = 3
# Who asks to be left alone for longer has to be told to people.
_LONGEST_ASKED_S = 60.0
_SHOWING = threading.Lock()


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


class ArtifactoryHttp(Http):
    """One server, with one credential. Thread-safe; connections are kept."""

    def __init__(self, base: str, credential: Credential) -> None:
        """Keep what is needed to ask; nothing is asked yet.

        Args:
            base: ``http(s)://host[:port]``.
            credential: With ``token``, ``user`` and ``password``, or ``key_secret``.
        """
        super().__init__(
            "Artifactory", base, credential, way_to_plain="ARTIFACTORY_NO_SSL=true is for no TLS"
        )
        self._lock = threading.Lock()
        self._elsewhere: dict[str, Http] = {}

    def ask(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """See `Http.ask`."""
        began_s = time.monotonic()
        try:
            answer = super().ask(method, path, **arguments)
        except AccessDeniedError as error:
            if set(self._credential.fields) - {"hosts", "user"}:
                raise
            raise AccessDeniedError(
                f"{error}; set ARTIFACTORY_AUTH_TOKEN and "
                f"MLFLOW_EXEC_ARTIFACTORY_HOST={urlsplit(self.base).hostname}, or write ?cred=NAME",
                status=error.status,
            ) from error
        taken_s, shown = time.monotonic() - began_s, path.partition("?")[0]
        _LOG.info("%s %s: %d in %.2f s", method, shown, answer.status_code, taken_s)
        return answer

    def json(self, method: str, path: str) -> dict[str, Any]:
        """Ask for a JSON object, and again until it comes; see `ask`."""
        tries = Tries()
        while True:
            try:
                return self.read_json(self.ask(method, path, stream=True))
            except UnreachableError as error:
                tries.wait(error)

    def read_json(self, answer: requests.Response) -> dict[str, Any]:
        """Return the object in an answer.

        Raises:
            RejectedError: There is none: something else answers there, such as a page to sign in.
            UnreachableError: The connection broke.
        """
        try:
            with answer:
                found = answer.json() if answer.content else None
        except requests.exceptions.JSONDecodeError:
            found = None
        except (requests.RequestException, OSError) as error:
            raise self.unanswered(error) from None
        if not isinstance(found, dict):
            raise RejectedError(
                f"{self.base}: the answer ({answer.status_code}) is not one of Artifactory's; "
                f"check the host, and that the path begins with /artifactory",
                status=answer.status_code,
            )
        return found

    def download(self, path: str, start: int) -> requests.Response:
        """Get a file from a byte on, wherever the server sends one for it; see `ask`.

        The checksums that the server names where it redirects are added to the answer's headers.
        """
        url = self.base + path
        named: dict[str, str] = {}
        headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={start}-"} if start else {})}
        for _ in range(_MOST_REDIRECTS + 1):
            parts = urlsplit(url)
            asked = self._at(f"{parts.scheme}://{parts.netloc}")
            answer = asked.ask(
                "GET", url[len(asked.base) :], accepted=_REDIRECTS, headers=headers, stream=True
            )
            if answer.status_code not in _REDIRECTS:
                for name, value in named.items():
                    answer.headers.setdefault(name, value)
                return answer
            if asked is self:
                found = answer.headers.items()
                named = {k: v for k, v in found if k.lower().startswith("x-checksum")}
            answer.close()
            url = urljoin(url, answer.headers.get("Location", ""))
            if parts.scheme == "https" and urlsplit(url).scheme != "https":
                where = urlsplit(url).netloc.rpartition("@")[2]
                raise RejectedError(f"{self.base}: it redirects to {where!r} without TLS")
        raise RejectedError(f"{self.base}: GET is redirected in a circle")

    def close(self) -> None:
        """Close the connections that are kept."""
        super().close()
        for http in list(self._elsewhere.values()):
            http.close()

    def _at(self, base: str) -> Http:
        """Return what asks a host: this one, or one without a credential."""
        if base == self.base:
            return self
        with self._lock:
            return self._elsewhere.setdefault(base, Http("store of objects", base, NOTHING))

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        user, password = self._value("user"), self._value("password")
        if token := self._value("token"):
            request.headers["Authorization"] = f"Bearer {token}"
        elif user and password:
            pair = b64encode(f"{user}:{password}".encode()).decode()
            request.headers["Authorization"] = f"Basic {pair}"
        elif key := self._value("key_secret"):
            request.headers["X-JFrog-Art-Api"] = key
        return request

    def _value(self, name: str) -> str:
        value = self._credential.get(name)
        if value is None:
            return ""
        value = value.strip()
        if not value or not value.isprintable():
            what = "has characters that none may have" if value else "is empty"
            source = self._credential.fields[name].source
            raise CredentialError(f"{self.base}: {name} from {source}: it {what}")
        return value


def show_requests() -> None:
    """Have the requests told on stderr, where nobody has set up logging for that."""
    if not _LOG.isEnabledFor(logging.INFO):
        _LOG.setLevel(logging.INFO)
    with _SHOWING:
        if not _LOG.hasHandlers():
            _LOG.addHandler(logging.StreamHandler())

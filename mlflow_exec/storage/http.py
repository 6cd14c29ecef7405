"""HTTP to a server of files: who asks, what is checked, and what a refusal means."""

from __future__ import annotations

import json as json_
from collections.abc import Callable, Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from mlflow_exec.clients.pauses import retry_after_s
from mlflow_exec.clients.tls import tls_refusal
from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import hide
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConflictError,
    CredentialError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)

TIMEOUT_S = (15.0, 120.0)
"""To connect, and between two bytes that come."""
_CONNECTIONS = 64
_LONGEST = 300
_BY_SCHEME = "the scheme of the URI says whether it speaks TLS"
_TOO_LARGE = (
    "; it, or a proxy before it, takes nothing so large: see its LimitRequestBody (Apache, 1 GiB "
    "if not set) or client_max_body_size (nginx)"
)
_REQUEST_IDS = ("X-Request-Id", "X-Correlation-Id", "X-Trace-Id", "X-GUploader-UploadID")
_KINDS: dict[int, type[ClusterError]] = {
    401: AccessDeniedError, 403: AccessDeniedError, 404: NotFoundError, 410: NotFoundError,
    405: ConflictError, 409: ConflictError, 412: ConflictError,
    408: UnreachableError, 423: UnreachableError, 425: UnreachableError, 429: UnreachableError,
    507: RejectedError, 501: RejectedError,
}  # fmt: skip

Sign = Callable[[requests.PreparedRequest], requests.PreparedRequest]


class Http:
    """One server, with one credential. Thread-safe; connections are kept.

    Redirections are not followed: a credential is for the host that it is given for.
    """

    def __init__(
        self, name: str, base: str, credential: Credential, way_to_plain: str = _BY_SCHEME
    ) -> None:
        """Keep what is needed to ask; nothing is asked yet.

        Args:
            name: What messages call the server.
            base: ``http(s)://host:port``.
            credential: With ``token``, or ``user`` and ``password``; read for each request.
            way_to_plain: What to look at where the server may not speak TLS.
        """
        self.base = base
        self._where = f"{name} {base}"
        self._credential = credential
        self._way_to_plain = way_to_plain
        self._session = requests.Session()
        self._session.headers["User-Agent"] = "mlflow-exec"
        self._session.headers["Accept-Encoding"] = "identity"  # sizes are of what is kept
        self._session.auth = self._sign  # else requests would look into ~/.netrc
        for prefix in ("http://", "https://"):
            self._session.mount(prefix, HTTPAdapter(pool_maxsize=_CONNECTIONS))

    def ask(
        self,
        method: str,
        path: str,
        *,
        accepted: tuple[int, ...] = (),
        headers: Mapping[str, str] | None = None,
        data: Any = None,
        stream: bool = False,
        timeout_s: float = TIMEOUT_S[1],
    ) -> requests.Response:
        """Send a request, and return its answer.

        Args:
            method: Such as ``GET``.
            path: The path, quoted, with its query.
            accepted: Codes of answers that are returned besides those below 300.
            headers: Further ones.
            data: The body.
            stream: Whether the body of the answer is left to the caller, who closes it.
            timeout_s: How long nothing may come.

        Raises:
            ClusterError: One of its subclasses.
        """
        try:
            answer = self._session.request(
                method, self.base + path, headers=headers, data=data, stream=stream,
                timeout=(TIMEOUT_S[0], timeout_s), allow_redirects=False,
            )  # fmt: skip
        except (requests.RequestException, OSError) as error:
            raise self.unanswered(error) from error
        if answer.status_code < 300 or answer.status_code in accepted:
            return answer
        with answer:
            raise self._refused(method, path, answer)

    def unanswered(self, error: Exception) -> ClusterError:
        """Return the error for what requests has raised."""
        refusal = tls_refusal(
            self._where,
            error,
            way_to_trust="set REQUESTS_CA_BUNDLE to a file with its authority",
            way_to_plain=self._way_to_plain,
        )
        if refusal is not None:
            return refusal
        innermost: BaseException = error
        while (below := innermost.__cause__ or innermost.__context__) is not None:
            innermost = below
        said = " ".join(str(innermost).split())
        return UnreachableError(f"{self._where}: no answer: {said or type(innermost).__name__}")

    def close(self) -> None:
        """Close the connections that are kept."""
        self._session.close()

    def _sign(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if token := self._credential.get("token"):
            if not (token.isascii() and token.isprintable()):  # an error of requests shows it
                raise CredentialError(
                    f"{self._where}: the token from {self._credential.source} is none: there are "
                    f"characters in it that no header can have"
                )
            request.headers["Authorization"] = f"Bearer {token}"
        elif password := self._credential.get("password"):
            user = self._credential.get("user") or ""
            request = requests.auth.HTTPBasicAuth(
                user.encode("utf-8"), password.encode("utf-8")
            )(request)
        return request

    def _refused(self, method: str, path: str, answer: requests.Response) -> ClusterError:
        status = answer.status_code
        kind = _KINDS.get(status, UnreachableError if status >= 500 else RejectedError)
        told = f"{self._where}: {method} {path.partition('?')[0]}: {status} {answer.reason}"
        if said := _said(answer):
            told += f": {said}"
        if id_ := next((answer.headers[n] for n in _REQUEST_IDS if n in answer.headers), ""):
            told += f" (request {id_})"
        if kind is AccessDeniedError:
            is_known = set(self._credential.fields) - {"hosts", "user"}
            who = f"with the credential from {self._credential.source}" if is_known else "without"
            told += f"; asked {who}{'' if is_known else ' a credential'}"
        elif 300 <= status < 400:
            to = str(answer.headers.get("Location", "")).partition("?")[0]
            told += f": it redirects to {to!r}; give that address"
        elif status == 413:
            told += _TOO_LARGE
        pause_s = retry_after_s(answer.headers.get("Retry-After"), answer.headers.get("Date"))
        return kind(hide(told), status=status, retry_after_s=pause_s)


def _said(answer: requests.Response) -> str:
    """Return what an answer's body says, where that is a text or JSON for people."""
    kind = answer.headers.get("Content-Type", "")
    if "json" in kind:
        try:
            found = answer.json()
            if isinstance(found, dict):
                errors = found.get("errors") or [found]
                found = errors[0].get("message") or errors[0].get("error") or found
                if isinstance(found, dict):  # Google's
                    found = found.get("message") or found
            text = found if isinstance(found, str) else json_.dumps(found)
        except (ValueError, AttributeError, LookupError, requests.RequestException):
            return ""
    elif kind.startswith("text/plain"):
        text = answer.text
    else:
        return ""
    return " ".join(text.split())[:_LONGEST]

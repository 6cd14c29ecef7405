"""Requests to MLflow's tracking server, with the standard library alone.

Credentials come from the variables that MLflow's own client reads:
https://mlflow.org/docs/latest/self-hosting/security/basic-http-auth/
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import random
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import (
    IO,
    Any,
    Callable,
    Dict,
    Iterator,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

_T = TypeVar("_T")
_TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
# A host that does not answer (a stale route, a dropped packet) is best asked again soon ...
_CONNECT_TIMEOUT_S = 5.0
# ... while a connected server may be busy: it passes a whole log on before it answers.
_ANSWER_TIMEOUT_S = 30.0
_BACKOFF_S = (0.2, 5.0)
_COPY_BYTES = 1024 * 1024
_NOT_JSON = (json.JSONDecodeError, UnicodeDecodeError)


class RequestError(Exception):
    """A request failed for good, or for longer than its patience.

    Attributes:
        status: The HTTP status, None where there was no answer.
    """

    def __init__(self, message: str, status: Optional[int] = None) -> None:
        super().__init__(message)
        self.status = status


def is_http(url: Optional[str]) -> bool:
    """Whether the URL is http or https."""
    return (url or "").split(":", 1)[0].lower() in ("http", "https")


def redact(url: str) -> str:
    """Return the URL without user, password, query and fragment: those may hold secrets."""
    parts = urllib.parse.urlsplit(url)
    return urllib.parse.urlunsplit((parts.scheme, parts.netloc.split("@")[-1], parts.path, "", ""))


def with_retries(
    act: Callable[[], _T],
    what: str,
    patience_s: float,
    transient: Sequence[int] = _TRANSIENT_STATUS,
) -> _T:
    """Call ``act`` until it succeeds, fails for good, or the patience is over.

    Connection errors, 408, 425, 429 and 5xx are tried again, with a growing pause.

    Args:
        act: The request; called again after a failure.
        what: What was asked, for the message.
        patience_s: No new try is started after this time.
        transient: The statuses that may pass.

    Raises:
        RequestError: With the status of the last answer.
    """
    give_up_at = time.monotonic() + patience_s
    pause_s, longest_s = _BACKOFF_S
    while True:
        retry_after_s = 0.0
        try:
            return act()
        except urllib.error.HTTPError as error:
            with error:
                text = error.read(2000).decode("utf-8", "replace").strip()
            failure = RequestError(f"{what}: HTTP {error.code} {_server_message(text)}", error.code)
            if error.code not in transient:
                raise failure from None
            with contextlib.suppress(TypeError, ValueError):
                retry_after_s = float(error.headers.get("Retry-After") or 0)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            failure = RequestError(f"{what}: {type(error).__name__}: {reason}")
        except ValueError as error:
            # The text of other ValueErrors may hold a header's value, thus a credential.
            why = f"the answer is not JSON: {error}" if isinstance(error, _NOT_JSON) else "invalid"
            raise RequestError(f"{what}: {why}") from None
        wait_s = max(pause_s * random.uniform(0.5, 1.5), min(retry_after_s, longest_s))
        if time.monotonic() + wait_s > give_up_at:
            raise failure
        time.sleep(wait_s)
        pause_s = min(pause_s * 2, longest_s)


def _server_message(text: str) -> str:
    """Return MLflow's own message of an error answer, or the start of the answer."""
    with contextlib.suppress(ValueError, AttributeError):
        text = str(json.loads(text).get("message") or text)
    return " ".join(text.split())[:300]


class TrackingServer:
    """A connection to an MLflow tracking server.

    Args:
        url: The tracking URI, http or https; it may hold user and password.
        environ: Where the credentials are read from.
        token: Returns the token as it is now, in place of that in ``environ``.

    Attributes:
        url: The tracking URI without user, password, query and a slash at its end.
        patience_s: How long each request is retried.
        transient: The statuses after which it is.

    Raises:
        ValueError: The URL, or a certificate that the environment names, cannot be used.
    """

    def __init__(
        self, url: str, environ: Mapping[str, str], token: Optional[Callable[[], str]] = None
    ) -> None:
        parts = urllib.parse.urlsplit(url)
        netloc = parts.netloc.split("@")[-1]
        self.url = urllib.parse.urlunsplit((parts.scheme, netloc, parts.path.rstrip("/"), "", ""))
        self.patience_s = 30.0
        # Of a token that is renewed, one that has expired is followed by another.
        self.transient: Tuple[int, ...] = _TRANSIENT_STATUS + ((401,) if token else ())
        self._token = token
        self._headers = _auth_headers(environ, parts.username, parts.password)
        self._opener = _opener(environ if parts.scheme == "https" else None)

    @contextlib.contextmanager
    def patience(self, seconds: float) -> Iterator[None]:
        """Retry each request of the block for this long."""
        before, self.patience_s = self.patience_s, seconds
        try:
            yield
        finally:
            self.patience_s = before

    def open(
        self,
        method: str,
        url: str,
        body: Any = None,
        headers: Optional[Mapping[str, str]] = None,
        answer_timeout_s: float = _ANSWER_TIMEOUT_S,
    ) -> http.client.HTTPResponse:
        """Send one request, without retries, and return the open answer.

        Args:
            method: The HTTP method.
            url: The whole URL.
            body: Bytes, or an open file that is streamed.
            headers: More headers; ``Content-Length`` is needed for a file.
            answer_timeout_s: The longest silence of a connected server.
        """
        request = urllib.request.Request(url, data=body, method=method)
        signed = {"Authorization": f"Bearer {self._token()}"} if self._token else {}
        for name, value in {**self._headers, **signed, **(headers or {})}.items():
            request.add_header(name, value)
        answer: http.client.HTTPResponse = self._opener.open(request, timeout=answer_timeout_s)
        return answer

    def api(self, method: str, path: str, body: Optional[Mapping[str, Any]] = None) -> Any:
        """Call an API of MLflow and return its JSON.

        Args:
            method: The HTTP method.
            path: Below ``/api/2.0/mlflow/``, with its query.
            body: The request's JSON.

        Raises:
            RequestError: The server refused, or could not be reached in time.
        """
        url = f"{self.url}/api/2.0/mlflow/{path}"
        data = None if body is None else json.dumps(body).encode("utf-8")

        def act() -> Any:
            with self.open(method, url, data, {"Content-Type": "application/json"}) as answer:
                return json.loads(answer.read() or b"{}")

        try:
            what = f"{method} {redact(url)}"
            return with_retries(act, what, self.patience_s, self.transient)
        except ValueError as error:
            raise RequestError(
                f"{method} {redact(url)}: the answer is not JSON: {error}"
            ) from error


def _auth_headers(
    environ: Mapping[str, str], user: Optional[str], password: Optional[str]
) -> Dict[str, str]:
    headers = {"User-Agent": "mlflow-exec"}
    user = environ.get("MLFLOW_TRACKING_USERNAME") or urllib.parse.unquote(user or "")
    password = environ.get("MLFLOW_TRACKING_PASSWORD") or urllib.parse.unquote(password or "")
    token = environ.get("MLFLOW_TRACKING_TOKEN")
    if user and password:
        pair = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        headers["Authorization"] = f"Basic {pair}"
    elif token:
        headers["Authorization"] = f"Bearer {token}"
    if environ.get("MLFLOW_WORKSPACE"):
        headers["X-MLFLOW-WORKSPACE"] = environ["MLFLOW_WORKSPACE"]
    return headers


class _Connection(http.client.HTTPConnection):
    """A connection that is given up sooner than an answer is."""

    def connect(self) -> None:
        answer_timeout_s, self.timeout = self.timeout, _CONNECT_TIMEOUT_S
        super().connect()
        self.sock.settimeout(answer_timeout_s)


class _TlsConnection(http.client.HTTPSConnection):
    """The same over TLS, its handshake included."""

    def connect(self) -> None:
        answer_timeout_s, self.timeout = self.timeout, _CONNECT_TIMEOUT_S
        super().connect()
        self.sock.settimeout(answer_timeout_s)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Redirects that take no credential to another server, which urllib's own do."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any,
                         newurl: str) -> Optional[urllib.request.Request]:  # fmt: skip
        following = super().redirect_request(req, fp, code, msg, headers, newurl)
        before, after = (urllib.parse.urlsplit(url)[:2] for url in (req.full_url, newurl))
        if following is not None and before != after:
            following.remove_header("Authorization")
        return following


def _opener(environ: Optional[Mapping[str, str]]) -> urllib.request.OpenerDirector:
    """Return an opener for http, and for https with the certificates that a mapping names."""
    context = ssl.create_default_context()
    if environ is not None:
        try:
            context = _tls_context(environ)
        except OSError as error:
            names = "MLFLOW_TRACKING_SERVER_CERT_PATH or MLFLOW_TRACKING_CLIENT_CERT_PATH"
            raise ValueError(f"{names} cannot be used: {error}") from error

    class Http(urllib.request.HTTPHandler):
        def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(_Connection, req)

    class Https(urllib.request.HTTPSHandler):
        def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
            return self.do_open(_TlsConnection, req, context=context)

    return urllib.request.build_opener(Http, Https, _Redirects)


def _tls_context(environ: Mapping[str, str]) -> ssl.SSLContext:
    names = ("MLFLOW_TRACKING_SERVER_CERT_PATH", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    bundle = next((environ[name] for name in names if environ.get(name)), None)
    if bundle and os.path.isdir(bundle):
        context = ssl.create_default_context(capath=bundle)
    else:
        context = ssl.create_default_context(cafile=bundle)
    if environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() in ("true", "1"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    client = environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH")
    if client:
        context.load_cert_chain(client)
    return context


def copy_answer(answer: http.client.HTTPResponse, out: IO[bytes]) -> None:
    """Copy the body of an answer to a file, refusing one that broke off.

    Raises:
        http.client.IncompleteRead: Fewer bytes came than were announced.
    """
    announced = answer.headers.get("Content-Length")
    done = 0
    while True:
        chunk = answer.read(_COPY_BYTES)
        if not chunk:
            break
        out.write(chunk)
        done += len(chunk)
    # With a size argument HTTPResponse.read returns short bodies without an error.
    if announced is not None and done < int(announced):
        raise http.client.IncompleteRead(b"", int(announced) - done)

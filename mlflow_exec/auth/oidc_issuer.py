"""Requests to an OpenID Connect issuer, and what is wrong with its answers in sentences.

https://openid.net/specs/openid-connect-discovery-1_0.html, https://www.rfc-editor.org/rfc/rfc6749
"""

from __future__ import annotations

import base64
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote_plus

import requests
from requests import PreparedRequest

from mlflow_exec.auth.files import text_of
from mlflow_exec.auth.hosts import Place
from mlflow_exec.auth.settings import OidcSettings
from mlflow_exec.credentials import Secret, hide
from mlflow_exec.errors import ConfigError, SignInError, UnreachableError

_TIMEOUT_S = (5.0, 30.0)
_PAUSES_S = (0.2, 5.0)
_TRANSIENT = (408, 425, 429, 500, 502, 503, 504)
_JWT_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# https://www.rfc-editor.org/rfc/rfc6749#section-5.2, rfc8707, rfc8628
_WAYS_ON = {
    "invalid_client": "correct 'client_id', and 'client_secret' or 'assertion_file'",
    "invalid_grant": "what was to be exchanged has expired or was revoked; sign in again",
    "invalid_scope": "correct 'scope'",
    "invalid_target": "correct 'resource' and 'audience'",
    "unauthorized_client": "have the client registered for this grant, or choose another 'grant'",
    "unsupported_grant_type": "choose another 'grant'",
    "access_denied": "who was asked has not agreed; sign in again",
    "expired_token": "nobody confirmed in time; sign in again",
}


class RefusedError(SignInError):
    """The issuer has refused; ``code`` is its word for why."""

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class Issuer:
    """An issuer as its discovery document describes it.

    Args:
        settings: Which one, and how its client signs in.
    """

    def __init__(self, settings: OidcSettings) -> None:
        self._settings = settings
        self.url = settings.issuer
        self.name = f"oidc: {settings.issuer}"
        self._check_way(self.url)
        if settings.ca_cert is not None and not settings.ca_cert.exists():
            raise ConfigError(f"{self.name}: ca_cert: {settings.ca_cert} is not there")
        self._found: Mapping[str, Any] = {}

    def endpoint(self, name: str) -> str:
        """Return the URL of an endpoint, such as ``token_endpoint``.

        Raises:
            SignInError: The issuer has none, or is not who it says.
            UnreachableError: It does not answer.
        """
        if not self._found:
            self._found = self._discover()
        url = self._found.get(name)
        if not isinstance(url, str):
            raise SignInError(f"{self.name}: its configuration names no {name}; choose another "
                              f"'grant'")  # fmt: skip
        self._check_way(url)
        return url

    def ask(self, endpoint: str, form: Mapping[str, str | None]) -> Mapping[str, Any]:
        """Send a form as the client, and return the answer's JSON.

        Args:
            endpoint: The name of the endpoint.
            form: The fields; those that are None are left out.

        Raises:
            RefusedError: The issuer says no.
            SignInError: It answers with something else.
            UnreachableError: It does not answer.
        """
        url = self.endpoint(endpoint)
        fields = {key: value for key, value in form.items() if value is not None}
        status, answer = self._send("POST", url, self._signed(fields))
        if status == 200:
            return answer
        code = answer.get("error")
        if not isinstance(code, str):
            raise SignInError(f"{self.name}: {endpoint}: HTTP {status}, and no error of OAuth; "
                              f"correct 'issuer'")  # fmt: skip
        told = " ".join(str(answer.get("error_description") or "").split())
        told = f" ({hide(told)[:200]})" if told.isprintable() and told else ""
        way = _WAYS_ON.get(code, "ask who runs the issuer")
        raise RefusedError(f"{self.name}: it refuses: {code[:60]}{told}; {way}", code)

    def _signed(self, fields: dict[str, str]) -> dict[str, str]:
        given = self._settings
        if given.assertion_file is not None:
            assertion = text_of(given.assertion_file, "assertion_file")
            fields |= {
                "client_id": given.client_id,
                "client_assertion_type": _JWT_ASSERTION,
                "client_assertion": Secret.of(assertion, "assertion_file").reveal(),
            }
        elif given.client_secret is None:
            fields["client_id"] = given.client_id
        elif not self._takes_basic():
            secret = given.client_secret.reveal()
            fields |= {"client_id": given.client_id, "client_secret": secret}
        return fields

    def _takes_basic(self) -> bool:
        methods = self._found.get("token_endpoint_auth_methods_supported")
        return not isinstance(methods, list) or "client_secret_basic" in methods

    def _authorize(self, request: PreparedRequest) -> PreparedRequest:
        # Also where there is nothing to add: requests would look into ~/.netrc.
        secret = self._settings.client_secret
        if request.method == "POST" and secret is not None and self._takes_basic():
            pair = f"{quote_plus(self._settings.client_id)}:{quote_plus(secret.reveal())}"
            coded = base64.b64encode(pair.encode()).decode()
            request.headers["Authorization"] = f"Basic {coded}"
        return request

    def _discover(self) -> Mapping[str, Any]:
        url = f"{self.url.rstrip('/')}/.well-known/openid-configuration"
        status, found = self._send("GET", url, None)
        if status != 200:
            raise SignInError(f"{self.name}: {url}: HTTP {status}; correct 'issuer'")
        if str(found.get("issuer")).rstrip("/") != self.url.rstrip("/"):
            raise SignInError(f"{self.name}: it calls itself {str(found.get('issuer'))[:200]!r}; "
                              f"correct 'issuer'")  # fmt: skip
        return found

    def _send(
        self, method: str, url: str, form: Mapping[str, str] | None
    ) -> tuple[int, Mapping[str, Any]]:
        """Return status and JSON; ask again for a while where there is no answer."""
        give_up_at = time.monotonic() + self._settings.patience_s
        pause_s, longest_s = _PAUSES_S
        while True:
            status, answer, trouble = self._try(method, url, form)
            if not trouble:
                return status, answer
            if time.monotonic() + pause_s > give_up_at:
                raise UnreachableError(f"{self.name}: {trouble}; try again later, or correct "
                                       f"'issuer'", status=status or None)  # fmt: skip
            time.sleep(pause_s)
            pause_s = min(pause_s * 2, longest_s)

    def _try(
        self, method: str, url: str, form: Mapping[str, str] | None
    ) -> tuple[int, Mapping[str, Any], str]:
        verify = str(self._settings.ca_cert) if self._settings.ca_cert else True
        try:
            answer = requests.request(
                method, url, data=form, auth=self._authorize, timeout=_TIMEOUT_S, verify=verify,
                allow_redirects=False, headers={"Accept": "application/json"},
            )  # fmt: skip
        except requests.exceptions.SSLError as error:
            raise SignInError(
                f"{self.name}: the TLS connection failed: {_innermost(error)}; name the authority "
                f"of its certificate by 'ca_cert'"
            ) from None
        except OSError as error:  # those of requests are of it
            return 0, {}, f"no answer from {Place.of(url)} ({_innermost(error)})"
        if answer.status_code in _TRANSIENT:
            return answer.status_code, {}, f"{Place.of(url)} answers HTTP {answer.status_code}"
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, Mapping):
            raise SignInError(
                f"{self.name}: {url}: HTTP {answer.status_code}, and the answer is no JSON object; "
                f"correct 'issuer'"
            )
        return answer.status_code, found, ""

    def _check_way(self, url: str) -> None:
        if not Place.of(url).is_safe and not self._settings.allow_http:
            raise ConfigError(
                f"{self.name}: {Place.of(url)} is asked over plain http, where everybody on the "
                f"way reads secrets; use https, or set 'allow_http' if the way is safe"
            )


def _innermost(error: BaseException) -> str:
    """Return the reason that requests and urllib3 have wrapped, in its own few words."""
    seen: BaseException = error
    while True:
        inner = getattr(seen, "reason", None) or next(
            (arg for arg in seen.args if isinstance(arg, BaseException)), None
        )
        if not isinstance(inner, BaseException):
            break
        seen = inner
    text = str(getattr(seen, "verify_message", "") or getattr(seen, "strerror", "") or seen)
    return " ".join(text.split())[-200:] or type(seen).__name__

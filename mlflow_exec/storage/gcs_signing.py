"""Whose requests to Google Cloud Storage are, and to whom they go.

https://docs.cloud.google.com/docs/authentication/application-default-credentials
"""

from __future__ import annotations

import json
import os
import re
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import google.auth
import google.auth.exceptions as refused
from google.auth.transport.requests import Request
from google.oauth2 import service_account

from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret, hide
from mlflow_exec.errors import AccessDeniedError, CredentialError, UnreachableError
from mlflow_exec.uris import Location

_GOOGLE = "https://storage.googleapis.com"
_OF_GOOGLE = re.compile(r"https://([a-z0-9-]+\.)+googleapis\.com(:443)?")
_SCOPES = ("https://www.googleapis.com/auth/devstorage.read_write",)
_LONGEST = 300
_CHAIN = "Google's own chain"
_KEY_FILE = "GOOGLE_APPLICATION_CREDENTIALS"


def identity(location: Location, credential: Credential) -> tuple[str, Credential]:
    """Return the base of the server's addresses, and a credential with the token for it.

    What the environment gives, or the chain of Google's tools finds, goes to Google only, and by
    TLS; another endpoint, such as an emulator's, is asked without, or with what is named for it.
    Nothing is asked here.

    Raises:
        CredentialError: The endpoint is none, or the key is.
    """
    base = _base(location, credential)
    is_google = base == _GOOGLE or _OF_GOOGLE.fullmatch(base) is not None
    if not (is_google or credential.is_whole):
        return base, Credential(credential.source)
    if "token" in credential.fields:
        return base, credential
    if "private_key" in credential.fields:
        key = _key(location, credential)
        return base, _with_token(_Token(location, lambda: key), credential.source)
    if credential.is_whole:
        return base, Credential(credential.source)
    return base, _with_token(
        _Token(location, lambda: google.auth.default(scopes=_SCOPES)[0]), _CHAIN
    )


def url_signer(location: Location, credential: Credential) -> Any:
    """Return the key of a service account, which signs URLs; None where there is none here.

    Raises:
        CredentialError: As of `identity`.
    """
    _, signed_by = identity(location, credential)
    if "token" in credential.fields or "token" not in signed_by.fields:
        return None
    if "private_key" in credential.fields:
        return _key(location, credential)
    file = os.environ.get(_KEY_FILE)
    if not file:
        return None
    try:
        return service_account.Credentials.from_service_account_file(file, scopes=_SCOPES)
    except (refused.GoogleAuthError, OSError, ValueError, TypeError, AttributeError):
        return None  # of another identity; who asks for something with it is told


def _base(location: Location, credential: Credential) -> str:
    endpoint = credential.get("endpoint") or _GOOGLE
    base = (endpoint if "//" in endpoint else f"http://{endpoint}").rstrip("/")  # an emulator's
    parts = urlsplit(base)
    host = f"{parts.scheme}://{parts.netloc}"
    is_host = parts.hostname and not re.search(r"[@\\\s]", base)  # others would read another one
    if parts.scheme not in ("http", "https") or not is_host or host != base:
        raise CredentialError(
            f"{location}: the endpoint {hide(endpoint)!r} is none; give http(s)://host:port"
        )
    return base


def _key(location: Location, credential: Credential) -> Any:
    try:
        info = json.loads(credential.get("private_key") or "")
        return service_account.Credentials.from_service_account_info(info, scopes=_SCOPES)
    except (ValueError, TypeError, AttributeError):  # whose text may hold a part of it
        raise CredentialError(
            f"{location}: the private_key from {credential.source} is no service account's key; "
            f"give the JSON file that Google has made of it"
        ) from None


def _with_token(token: Callable[[], str], source: str) -> Credential:
    return Credential(source, {"token": Secret(source, token)})


class _Token:
    """An access token that is fetched when it is first needed, and again before it expires."""

    def __init__(self, location: Location, find: Callable[[], Any]) -> None:
        self._location = location
        self._find = find
        self._found: Any = None
        self._lock = threading.Lock()

    def __call__(self) -> str:
        with self._lock:
            try:
                self._found = self._found or self._find()
                if not self._found.valid:
                    self._found.refresh(Request())
            except refused.DefaultCredentialsError as error:
                raise AccessDeniedError(
                    f"no credential was found: {_told(error)}; set GOOGLE_APPLICATION_CREDENTIALS, "
                    f"or name a credential by '?cred='"
                ) from error
            except refused.GoogleAuthError as error:
                is_away = isinstance(error, refused.TransportError) or error.retryable
                kind = UnreachableError if is_away else AccessDeniedError
                raise kind(f"no access token: {_told(error)}") from error
            return str(self._found.token)


def _told(error: Exception) -> str:
    said = " ".join(str(error.args[0] if error.args else error).split()).partition(" To set up ")[0]
    return hide(said)[:_LONGEST].rstrip(".")

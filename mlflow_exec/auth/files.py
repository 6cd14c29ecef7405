"""Credentials in files, which others write and renew: they are read for each request."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path

from requests import PreparedRequest

from mlflow_exec.auth.base import HEADER, Bearer, Credential, Flow, expiry_of_jwt
from mlflow_exec.auth.settings import BasicFileSettings, TokenFileSettings
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import CredentialError

_LIMIT_BYTES = 1024 * 1024


def text_of(path: Path, setting: str) -> str:
    """Return the one line of a file with a token or a password.

    Raises:
        CredentialError: It cannot be read, or holds something else.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_LIMIT_BYTES).decode("utf-8").strip()
    except OSError as error:
        raise CredentialError(f"{setting}: {path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise CredentialError(f"{setting}: {path}: it is not UTF-8") from None
    if not text or "\n" in text or not text.isprintable():
        raise CredentialError(f"{setting}: {path}: one line of text is needed in it")
    return text


class TokenFile(Flow):
    """The token that is in a file now."""

    def __init__(self, settings: TokenFileSettings) -> None:
        self._path = settings.token_file

    def credential(self) -> Bearer:
        """Read the file."""
        token = text_of(self._path, "token_file")
        return Bearer.of(token, f"file {self._path}", expiry_of_jwt(token))

    def instead_of(self, refused: Credential) -> Bearer | None:
        """Read it again."""
        assert isinstance(refused, Bearer)
        found = self.credential()
        return None if found.is_as(refused) else found


@dataclass(frozen=True)
class Basic(Credential):
    """A user's name and password."""

    user: str
    password: Secret
    source: str

    def put(self, request: PreparedRequest) -> None:
        """Put them on a request."""
        pair = Secret.of(f"{self.user}:{self.password.reveal()}", self.source)
        coded = base64.b64encode(pair.reveal().encode()).decode("ascii")
        request.headers[HEADER] = f"Basic {Secret.of(coded, self.source).reveal()}"


class BasicFile(Flow):
    """The user and the password that are in files now."""

    def __init__(self, settings: BasicFileSettings) -> None:
        self._settings = settings

    def credential(self) -> Basic:
        """Read the files."""
        given = self._settings
        user = given.username or ""
        if given.username_file is not None:
            user = text_of(given.username_file, "username_file")
        if ":" in user:
            raise CredentialError("username: there is a colon in it, with which no server knows it")
        source = f"file {given.password_file}"
        password = text_of(given.password_file, "password_file")
        return Basic(user, Secret.of(password, source), source)

    def instead_of(self, refused: Credential) -> Basic | None:
        """Read them again."""
        assert isinstance(refused, Basic)
        found = self.credential()
        same = found.password.reveal() == refused.password.reveal() and found.user == refused.user
        return None if same else found

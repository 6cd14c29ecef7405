"""Secret values: held without being shown, read only where they are used."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Container
from urllib.parse import quote, quote_plus

# TOKEN, but not what belongs to texts: TOKENIZERS_PARALLELISM, MAX_TOKENS.
_SURELY_SECRET = (
    r"PASSWORD|PASSWD|SECRET|TOKEN(?!IZ|S)|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY"
)
_SECRET_NAME = re.compile(f"{_SURELY_SECRET}|PRIVATE|_KEY$|^KEY$", re.IGNORECASE)
# Parameters are named by scientists: group_key, private_layers.
_SECRET_PARAMETER = re.compile(_SURELY_SECRET, re.IGNORECASE)
_NO_SECRET_VALUE = re.compile(r"|[+-]?[\d.]+(e[+-]?\d+)?|true|false|none|null", re.IGNORECASE)
# A password anywhere, and over HTTP a user name too: alone it is often a token.
_URL_CREDENTIALS = re.compile(
    r"(?<=//)[^/@\s]*:[^/@\s]*@|(?<=http://)[^/@\s]*@|(?<=https://)[^/@\s]*@"
)
# What makes a URL good for whoever has it.
_URL_SIGNATURES = re.compile(
    r"(?<=[?&])((?:x-(?:amz|goog|oss)-)?(?:signature|security-token)|sig)=[\w%.~+/=-]+",
    re.IGNORECASE,
)
# What MLflow's client reads by itself; a user's name is no secret.
_OF_TRACKING = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_SHORTEST = 6
_revealed: set[str] = set()


class Secret:
    """A value that is never shown: not by ``repr``, ``str``, formatting, or pickling.

    ``source`` says where the value comes from, in words that may be printed. The value is read at
    each ``reveal()``, so a plan that holds a secret does not hold its value.
    """

    __slots__ = ("_read", "source")

    def __init__(self, source: str, read: Callable[[], str]) -> None:
        self.source = source
        self._read = read

    @classmethod
    def of(cls, value: str, source: str) -> Secret:
        """Wrap a value that is already known."""
        return cls(source, lambda: value)

    @classmethod
    def from_environment(cls, variable: str) -> Secret:
        """Refer to a variable of this process's environment."""
        return cls(f"environment variable {variable}", lambda: os.environ[variable])

    def reveal(self) -> str:
        """Return the value; only for the request that needs it. `hide` knows it from then on."""
        value = self._read()
        _revealed.add(value.strip())
        return value

    def plain(self) -> str:
        """Return the value of what is kept beside secrets and is none, such as a user's name."""
        return self._read()

    def __repr__(self) -> str:
        return f"Secret(*** from {self.source})"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret cannot be pickled: it would show its value")


def looks_secret(name: str) -> bool:
    """Whether a variable's name says that its value is a secret (``HF_TOKEN``, ``DB_PASSWORD``)."""
    return _SECRET_NAME.search(name) is not None


def why_secret(name: str, value: str, known_as_none: Container[str] = ()) -> str:
    """Say why a variable's value is not to be written in the open; empty if it may be.

    Args:
        name: The variable.
        value: Its value.
        known_as_none: Names that look like those of secrets and are none.
    """
    if name in known_as_none:
        return ""
    if looks_secret(name):
        return "the name says that this is a secret"
    return "its value holds a URL with credentials" if holds_credentials(value) else ""


def why_secret_parameter(name: str, value: str, known_as_none: Container[str] = ()) -> str:
    """Say why a parameter's value is not to be written in the open; empty if it may be.

    Numbers and words like ``true`` are no secrets, whatever the parameter is called.
    """
    if name in known_as_none or _NO_SECRET_VALUE.fullmatch(value):
        return ""
    if _SECRET_PARAMETER.search(name):
        return "the name says that its value is a secret"
    return "its value holds a URL with credentials" if holds_credentials(value) else ""


def holds_credentials(text: str) -> bool:
    """Whether there is a URL with credentials in a text; those that name a variable are none."""
    return any("$" not in match.group() for match in _URL_CREDENTIALS.finditer(text))


def without_credentials(text: str) -> str:
    """Return a URI, or a text with URIs in it, without the credentials in them."""
    return _URL_CREDENTIALS.sub("", text)


def _forms(value: str) -> tuple[str, ...]:
    """Return a value as it is, and as URLs, forms and JSON spell it."""
    raw = value.encode("utf-8", "surrogateescape")  # a variable need not be UTF-8
    return value, quote(raw), quote(raw, safe=""), quote_plus(raw), json.dumps(value)[1:-1]


def hide(text: str) -> str:
    """Return a text for people without the secrets that this process knows.

    Those are credentials in URLs and what signs some, the tracking server's credentials, and every
    `Secret` that was revealed; values of fewer than six characters stay.
    """
    known = _revealed | {os.environ.get(name, "").strip() for name in _OF_TRACKING}
    forms = {form for value in known if len(value) >= _SHORTEST for form in _forms(value)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, "***")
    return _URL_SIGNATURES.sub(r"\1=***", without_credentials(text))

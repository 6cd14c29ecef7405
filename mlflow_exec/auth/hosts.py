"""Which hosts a credential is for, and whether the way there is safe for it."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from mlflow_exec.errors import ConfigError

_PORTS = {"http": 80, "https": 443}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Place:
    """Where a request goes.

    Attributes:
        host: In lower case, an IPv6 address without brackets.
        port: The usual one of the scheme where none is named.
        is_safe: Whether nobody on the way can read what is sent.
    """

    host: str
    port: int
    is_safe: bool

    @classmethod
    def of(cls, url: str) -> Place:
        """Read a URL as the connection's own parser does: two could take it for different hosts.

        Raises:
            ConfigError: It names no host.
        """
        try:
            parts = parse_url(url)
        except LocationParseError as error:
            raise ConfigError("sign-in: the URL of a request cannot be read") from error
        if not parts.host:
            raise ConfigError("sign-in: the URL of a request names no host")
        host = parts.host.strip("[]").lower().rstrip(".")
        # A scheme of a store that wraps another one: spool+https.
        scheme = (parts.scheme or "").lower().rpartition("+")[2]
        safe = scheme == "https" or host in _LOOPBACK
        return cls(host, parts.port or _PORTS.get(scheme, 0), safe)

    def is_of(self, named: str) -> bool:
        """Whether it is that of `host_name`'s result; without a port that of every port."""
        host, port = _parts(named)
        return self.host == host and port in (None, self.port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def host_name(text: str, where: str) -> str:
    """Return a ``host`` or ``host:port`` as it is compared.

    Raises:
        ConfigError: It is neither.
    """
    name = str(text).strip().lower().rstrip(".")
    try:
        host, _ = _parts(name)
    except ValueError:
        host = ""
    if not host or any(mark in name for mark in "/@?#\\ *"):
        raise ConfigError(f"{where}: a host is needed, such as mlflow.example or "
                          f"mlflow.example:5000; given {name.rpartition('@')[2]!r}")  # fmt: skip
    return name


def _parts(name: str) -> tuple[str, int | None]:
    parts = urlsplit(f"//{name}")
    return parts.hostname or "", parts.port

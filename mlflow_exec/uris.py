"""The one parser of artifact URIs: what it lets through names one place, and shows no password.

MLflow's clients store such URIs, and its server opens them. So whatever could be read in two ways
is refused here: a second decoding, a way up, a fragment, parameters, a host that is none.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from typing import NoReturn
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from mlflow_exec.credentials import Secret, hide
from mlflow_exec.errors import LocationError
from mlflow_exec.schemes import BY_NAME, HF_BUCKETS, Authority, Scheme

_LONGEST = 4096
_SHOWN = 200
# They turn the direction of a text, so that it shows as another one.
_TURNS = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(?://([^/?]*))?([^?]*)(?:\?(.*))?", re.DOTALL)
_BEGIN = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:(//)?")
_AUTHORITY = re.compile(
    r"(?:([^:@[\]]*)(?::([^@[\]]*))?@)?(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)?(?::([0-9]*))?"
)
_BUCKET_OF_NAMESPACE = re.compile(r"[A-Za-z0-9._-]+@[A-Za-z0-9._-]+")
_KINDS = ("models", "datasets", "spaces")
_BUCKETS = "buckets"
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REPOSITORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*(@(?!refs$)[A-Za-z0-9][A-Za-z0-9._-]*)?")
_ENCODED = re.compile("%[0-9A-Fa-f]{2}")
_BAD_ESCAPE = re.compile("%(?![0-9A-Fa-f]{2})")
_HOST = re.compile(r"\[[0-9a-f:.]+\]|(?!-)[a-z0-9-]+(\.[a-z0-9-]+)*\.?")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VALUE = re.compile(r"[A-Za-z0-9 ._{}-]*")
_DATABASE_FILE = re.compile(r".+\.(db|sqlite3?)", re.IGNORECASE)
CRED = "cred"
"""The option that names an entry of the credentials file."""


@dataclass(frozen=True)
class Location:
    """A place where artifacts are: a root, or something below it.

    Attributes:
        scheme: What it says of its URIs.
        names: The path, decoded, one after the other; none is empty, ``.`` or ``..``.
        host: The host in lower case, or the bucket as it is written (with its namespace, where
            buckets have one: ``bucket@namespace``), or a repository's kind; empty where there is
            none of them.
        port: None where the URI has none.
        user: A user's name; empty where there is none.
        password: One that the URI holds, which it should not.
        options: The query, sorted.
    """

    scheme: Scheme
    names: tuple[str, ...]
    host: str = ""
    port: int | None = None
    user: str = ""
    password: Secret | None = field(default=None, compare=False)
    options: tuple[tuple[str, str], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Location:
        """Return what a URI names.

        Raises:
            LocationError: It is none of ours, or could mean more than one place.
        """
        match = _URI.fullmatch(_without_plus(_of_xethub(_checked_text(text))))
        scheme = BY_NAME.get(match[1].lower()) if match else None
        if match is None or scheme is None:
            _refuse(text, f"the scheme is none of {', '.join(BY_NAME)}")
        if scheme.authority is Authority.FILE:
            names = _file_names(text, match[2], match[3])
            return cls(scheme, names, options=_options(text, match[4], scheme))
        if scheme.authority is Authority.FOLDER:
            names = _folder_names(text, match[2], match[3], scheme)
            return cls(scheme, names, options=_options(text, match[4], scheme))
        if scheme.authority in (Authority.BUCKET_OF_NAMESPACE, Authority.REPOSITORY):
            host, names = match[2] or "", _names(text, match[3])
            scheme = HF_BUCKETS if (scheme.name, host) == ("hf", _BUCKETS) else scheme
            if scheme.authority is Authority.REPOSITORY:
                host, names = _repository(text, host, names, scheme)
            elif not _BUCKET_OF_NAMESPACE.fullmatch(host):
                _refuse(text, f"a bucket and its namespace are needed: {scheme.example}")
            return cls(scheme, names, host, options=_options(text, match[4], scheme))
        authority = _AUTHORITY.fullmatch(match[2] or "")
        if authority is None or not authority[3]:
            _refuse(text, f"a host is needed: {scheme.example}")
        user, password, host, port = authority.groups()
        name = _decoded(text, user or "")
        if ":" in name:  # a password to whoever reads it so: HTTP's Basic does
            _refuse(text, "an encoded ':' is not allowed in a user's name")
        names = _names(text, match[3])
        if len(names) < scheme.depth:
            _refuse(text, f"the path is too short: {scheme.example}")
        return cls(
            scheme,
            names,
            _host(text, host, scheme),
            _port(text, port),
            name,
            Secret.of(_decoded(text, password), "the URI") if password else None,
            _options(text, match[4], scheme),
        )

    @property
    def cred(self) -> str | None:
        """The entry of the credentials file that it names."""
        return dict(self.options).get(CRED)

    @property
    def reached_port(self) -> int | None:
        """The port that is connected to: its own, else the usual one of its scheme."""
        return self.port if self.port is not None else self.scheme.port

    def split(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the names that are not ours to choose, such as a database's, and the others."""
        depth = self.scheme.depth
        if self.scheme.authority is Authority.FILE:
            depth = 1 + next(i for i, name in enumerate(self.names) if _is_database(name))
        return self.names[:depth], self.names[depth:]

    def join(self, path: str) -> Location:
        """Return what a relative artifact path names below it.

        Raises:
            LocationError: The path leads out of it, or no store could keep it.
        """
        return replace(self, names=(*self.names, *artifact_names(path)))

    def contains(self, other: Location) -> bool:
        """Whether another one is this one or below it, by whomever it is reached."""
        return (
            self.scheme == other.scheme
            and _endpoint(self) == _endpoint(other)
            and other.names[: len(self.names)] == self.names
        )

    def __str__(self) -> str:
        """Return the URI, without a password."""
        safe = "@" if self.scheme.authority is Authority.REPOSITORY else ""
        path = "".join("/" + quote(name, safe=safe) for name in self.names)
        query = f"?{urlencode(self.options)}" if self.options else ""
        if self.scheme.authority is Authority.FILE:
            return f"{self.scheme.name}:///{path}{query}"
        if self.scheme.authority is Authority.FOLDER:
            return f"{self.scheme.name}:{path}{query}"
        user = f"{quote(self.user, safe='')}@" if self.user else ""
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme.name}://{user}{self.host}{port}{path}{query}"


def artifact_names(path: str) -> tuple[str, ...]:
    """Return the names of a relative artifact path, as MLflow gives it: not encoded.

    Raises:
        LocationError: It leads out of its root, or no store could keep it.
    """
    if not path:
        return ()
    names = tuple(path.strip("/").split("/")) if not path.startswith("/") else ()
    if not names or any(name in ("", ".", "..") for name in names):
        _refuse(path, "a relative path without '.' and '..' is needed")
    for name in names:
        if _has_controls(name) or "\\" in name:
            _refuse(path, "control characters and backslashes are not allowed in names")
    return names


def _refuse(text: str, why: str) -> NoReturn:
    """Raise the error, which shows nothing that could be a password, however it was meant."""
    before, at, behind = text.rpartition("@")
    begins = _BEGIN.match(before)
    shown = f"{begins[0] if begins else ''}\N{HORIZONTAL ELLIPSIS}@{behind}" if at else text
    shown = shown.partition("?")[0][:_SHOWN]
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in shown)
    raise LocationError(f"{hide(shown)!r}: {why}")


def _has_controls(text: str) -> bool:
    return any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") or c in _TURNS for c in text)


def _checked_text(text: str) -> str:
    if len(text) > _LONGEST:
        _refuse(text, f"longer than {_LONGEST} characters")
    # MLflow joins names to URIs as they are, and blanks are common in them.
    if _has_controls(text) or any(c.isspace() and c != " " for c in text):
        _refuse(text, "white space and control characters are not allowed")
    for mark, what in (("#", "a fragment"), ("\\", "a backslash"), (";", "a parameter")):
        if mark in text:
            _refuse(text, f"{what} is not allowed; write {quote(mark)} in a name")
    _check_splits(text, text)
    return text


def _check_splits(text: str, spelled: str) -> None:
    """Refuse what MLflow itself could not split, as when it joins paths."""
    try:
        urlsplit(spelled)
    except ValueError:
        _refuse(text, "what stands after '//' is not read by others; write brackets as %5B and %5D")


def _decoded(text: str, part: str) -> str:
    """Return a part decoded once; whatever could be decoded again is refused."""
    if _BAD_ESCAPE.search(part):
        _refuse(text, "'%' stands alone; write %25")
    try:
        found = unquote(part, errors="strict")
    except UnicodeDecodeError:
        _refuse(text, "what is encoded is not UTF-8")
    if _ENCODED.search(found):
        _refuse(text, "it is encoded twice")
    if _has_controls(found) or "\\" in found:
        _refuse(text, "control characters and backslashes are not allowed in names")
    return found


def _names(text: str, path: str) -> tuple[str, ...]:
    # One slash behind is common; more of them would stand in what MLflow joins, which is refused.
    path = path.removeprefix("/")
    path = path if path == "/" else path.removesuffix("/")
    found = tuple(_decoded(text, part) for part in path.split("/")) if path else ()
    for name in found:
        if name in ("", ".", ".."):
            _refuse(text, "empty names, '.' and '..' are not allowed in the path")
        if "/" in name:
            _refuse(text, "an encoded '/' is not allowed in a name")
    return found


def _file_names(text: str, authority: str | None, path: str) -> tuple[str, ...]:
    """Return the path of a file and what follows; MLflow's joining has eaten slashes before it.

    ``sqlite:////data/a.db`` becomes ``sqlite://data/a.db/1/…``, so both mean ``/data/a.db``.
    """
    rest = text[text.index(":") + 1 :]
    slashes = len(rest) - len(rest.lstrip("/"))
    if slashes not in (1, 2, 4):  # SQLAlchemy reads none and three as relative
        _refuse(text, "the path of the file is relative; write all of it, after four slashes")
    _check_splits(text, f"sqlite://{rest.lstrip('/')}")
    names = _names(text, f"{authority or ''}/{path.lstrip('/')}")
    if not any(map(_is_database, names)):
        _refuse(text, "a file is needed whose name ends with .db, .sqlite or .sqlite3")
    return names


def _folder_names(
    text: str, authority: str | None, path: str, scheme: Scheme
) -> tuple[str, ...]:
    """Return the path of a folder; after two slashes a host would stand, or what was joined."""
    names = _names(text, path)
    if authority or not names or not path.startswith("/") or path.startswith("//"):
        _refuse(text, f"a path from the root is needed, after one slash or three: {scheme.example}")
    return names


def _of_xethub(text: str) -> str:
    """Return what XetHub's ``xet://user/repository/branch/…`` is called since it became a part."""
    match = re.fullmatch(r"xet://([^/?@]+)/([^/?@]+)(?:/([^/?@]+))?((?:[/?].*)?)", text, re.I)
    if match is None:
        return text
    branch = f"@{match[3]}" if match[3] else ""
    return f"hf://models/{match[1]}/{match[2]}{branch}{match[4]}"


def _without_plus(text: str) -> str:
    """Return a URI in its usual spelling where it has the one that MLflow's server can read.

    It takes ``+`` for an encoded blank, also in a scheme, when a version of a model is registered.
    """
    text = re.sub("^fsspec-(?=[a-z0-9]+:)", "fsspec+", text, flags=re.IGNORECASE)
    return re.sub("^mssql:", "mssql+pyodbc:", text, flags=re.IGNORECASE)


def _repository(
    text: str, authority: str, names: tuple[str, ...], scheme: Scheme
) -> tuple[str, tuple[str, ...]]:
    """Return the kind of a repository, and the path from its owner on."""
    if authority == _BUCKETS and any("@" in name for name in names[:2]):
        _refuse(text, f"a bucket has no revisions: {scheme.example}")
    if authority not in (*_KINDS, _BUCKETS):
        authority, names = "models", (authority, *names)
    if len(names) < 2 or not (_OWNER.fullmatch(names[0]) and _REPOSITORY.fullmatch(names[1])):
        _refuse(text, f"an owner and a repository, without '/' in its revision: {scheme.example}")
    return authority, names


def _is_database(name: str) -> bool:
    return _DATABASE_FILE.fullmatch(name) is not None


def _host(text: str, host: str, scheme: Scheme) -> str:
    if host.startswith("["):
        try:
            IPv6Address(host[1:-1])
        except ValueError:
            _refuse(text, f"{host!r} is no address")
    if scheme.authority is Authority.BUCKET:
        return host
    lower = host.lower()
    if not _HOST.fullmatch(lower):
        _refuse(text, f"{host!r} is no host")
    return lower


def _port(text: str, port: str | None) -> int | None:
    if port is None:
        return None
    if not port or not 0 < int(port) < 65536:
        _refuse(text, "a port is one of 1 to 65535")
    return int(port)


def _options(text: str, query: str | None, scheme: Scheme) -> tuple[tuple[str, str], ...]:
    if not query:
        return ()
    allowed = (CRED, *scheme.options)
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:
        _refuse(text, "the query is not of the form ?key=value")
    keys = [key for key, _ in pairs]
    for key, value in pairs:
        if key not in allowed:
            which = f"option {key!r}" if _NAME.fullmatch(key) else "an option"
            _refuse(text, f"{which} is not allowed; known: {', '.join(allowed)}")
        if not _VALUE.fullmatch(value) or ".." in value:
            _refuse(text, f"option {key!r} has a value that is not allowed")
    if len(set(keys)) != len(keys):
        _refuse(text, "an option is given twice")
    if CRED in keys and not _NAME.fullmatch(dict(pairs)[CRED]):
        _refuse(text, f"option {CRED!r} is no name")
    return tuple(sorted(pairs))


def _endpoint(location: Location) -> tuple[str, int | None, tuple[tuple[str, str], ...]]:
    """Return what is connected to; credentials do not belong to it."""
    rest: Iterable[tuple[str, str]] = (pair for pair in location.options if pair[0] != CRED)
    return location.host, location.reached_port, tuple(rest)

"""Who asks a Hadoop cluster: a user's name, or a Kerberos ticket or keytab."""

from __future__ import annotations

import getpass
import hashlib
import os
import re
import struct
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow_exec.clients.hadoop_config import HadoopConfig
from mlflow_exec.errors import ConfigError, UnreachableError
from mlflow_exec.registry import missing_extra

SIGN_IN = "run kinit, or give 'principal' and 'keytab'"
"""The way on for who is not signed in."""
# https://web.mit.edu/kerberos/krb5-latest/doc/formats/keytab_file_format.html
_AWAY = "Cannot contact any KDC"  # of MIT's library
_KEYTAB_VERSIONS = (b"\x05\x01", b"\x05\x02")


@dataclass(frozen=True)
class Login:
    """Who asks.

    Attributes:
        user: The name that the cluster knows the asker by.
        proxy_user: For whom it is asked, where that is someone else.
        principal: The Kerberos principal, where one was named.
        keytab: The file with its key.
        kerberos: Whether one signs in by Kerberos, else the name alone is believed.
    """

    user: str
    proxy_user: str | None = None
    principal: str | None = None
    keytab: str | None = None
    kerberos: bool = False

    @property
    def effective_user(self) -> str:
        """The user whose applications and files are meant."""
        return self.proxy_user or self.user

    def credentials(self) -> Any:
        """Return what gssapi signs in with: of the keytab, else of the ticket cache.

        The key distribution centre is asked only where a ticket of the keytab is due.

        Raises:
            ConfigError: There is no valid ticket, or the keytab gives none.
            UnreachableError: No key distribution centre answers.
            MissingExtraError: gssapi is not installed.
        """
        gssapi = load_gssapi()
        name = None
        if self.principal:
            name = gssapi.Name(self.principal, gssapi.NameType.kerberos_principal)
        try:
            if self.keytab:
                # In memory: a ticket file of the user's own stays as it is.
                mark = hashlib.sha256(f"{self.principal} {self.keytab}".encode()).hexdigest()[:16]
                store = {"client_keytab": self.keytab, "ccache": f"MEMORY:mlflow-exec-{mark}"}
                return gssapi.Credentials(name=name, usage="initiate", store=store)
            return gssapi.Credentials(name=name, usage="initiate")
        except gssapi.exceptions.GSSError as error:
            if _AWAY in kerberos_reason(error):
                raise UnreachableError(
                    f"Kerberos: {kerberos_reason(error)}; try again later, or correct krb5.conf"
                ) from error
            if self.keytab:
                raise ConfigError(
                    f"keytab: signing in as {self.principal!r} with {self.keytab!r} failed: "
                    f"{kerberos_reason(error)}; correct 'principal' and 'keytab'"
                ) from error
            why = kerberos_reason(error)
            raise ConfigError(f"Kerberos: no valid ticket: {why}; {SIGN_IN}") from error


def find_login(
    config: HadoopConfig,
    *,
    user: str | None = None,
    principal: str | None = None,
    keytab: str | None = None,
) -> Login:
    """Return who asks this cluster; no server is asked.

    Where the cluster signs in by Kerberos: the principal of the keytab, else of the ticket cache;
    a ``user`` (else ``HADOOP_PROXY_USER``) who is someone else is then asked for. Else ``user``,
    ``HADOOP_USER_NAME``, or the user of this process.

    Args:
        config: The cluster's configuration.
        user: As whom to act.
        principal: A Kerberos principal.
        keytab: A file with its key.

    Raises:
        ConfigError: These do not go together, a file cannot be read, or there is no ticket.
        MissingExtraError: The cluster signs in by Kerberos and its Python packages are missing.
    """
    if keytab and not principal:
        raise ConfigError("keytab: 'principal' is missing; name the principal of the keytab")
    if not config.is_secure:
        if principal:
            raise ConfigError(
                f"principal: {principal!r} was given, but the cluster of {config.folder} does not "
                f"sign in by Kerberos (hadoop.security.authentication); leave 'principal' and "
                f"'keytab' away, or choose the cluster by 'hadoop_conf_dir'"
            )
        name = user or os.environ.get("HADOOP_USER_NAME") or _process_user()
        proxied = os.environ.get("HADOOP_PROXY_USER") or None
        return Login(name, None if user or proxied == name else proxied)
    if keytab:
        path = str(Path(keytab).expanduser().absolute())
        principal = _check_keytab(path, str(principal))
        login = Login(short_name(principal), principal=principal, keytab=path, kerberos=True)
    else:
        login = _of_ticket(principal)
    wanted = user or os.environ.get("HADOOP_PROXY_USER")
    proxy_user = wanted if wanted and wanted != login.user else None
    return Login(login.user, proxy_user, login.principal, login.keytab, kerberos=True)


def short_name(principal: str) -> str:
    """Return the user of a principal by Hadoop's default rule: its first part."""
    return principal.partition("@")[0].partition("/")[0]


def _process_user() -> str:
    with suppress(KeyError, OSError):
        return getpass.getuser()
    raise ConfigError(
        f"user: this process's user (uid {os.getuid()}) has no name; set 'user' or HADOOP_USER_NAME"
    )


def _of_ticket(principal: str | None) -> Login:
    """Return the login of the ticket cache."""
    credentials = Login("", principal=principal, kerberos=True).credentials()
    gssapi = load_gssapi()
    try:
        found, lifetime_s = str(credentials.name), credentials.lifetime
    except gssapi.exceptions.GSSError as error:
        why = kerberos_reason(error)
        raise ConfigError(f"Kerberos: no valid ticket: {why}; {SIGN_IN}") from error
    if lifetime_s is not None and lifetime_s <= 0:
        raise ConfigError(f"Kerberos: the ticket of {found} has expired; {SIGN_IN}")
    if principal and found.partition("@")[0] != principal.partition("@")[0]:
        raise ConfigError(
            f"principal: the ticket is of {found}, not of {principal!r}; run kinit {principal}, "
            f"or give its 'keytab'"
        )
    # Java reads the cache as it is, so the principal is named only where it was asked for.
    return Login(short_name(found), principal=principal, kerberos=True)


def load_gssapi(extra: str = "yarn-kerberos") -> Any:
    """Import gssapi.

    Args:
        extra: The extra of this package that installs it, for the message.

    Raises:
        MissingExtraError: It is not installed.
        ConfigError: The system's library is not.
    """
    try:
        import gssapi
    except ModuleNotFoundError as error:
        raise missing_extra(extra, error) from error
    except (ImportError, OSError) as error:  # the package without the system's library
        raise ConfigError(
            f"Kerberos: the Python package 'gssapi' cannot be loaded: {error}; install the "
            f"system's Kerberos library (Debian, Ubuntu: libgssapi-krb5-2)"
        ) from error
    return gssapi


def kerberos_reason(error: Any) -> str:
    """Return the mechanism's own words, which are the more special ones."""
    text = " ".join(str(error).split())
    return re.sub(r"^.*\bMinor \(\d+\): ", "", text)


# -- keytabs --------------------------------------------------------------------------------


def _check_keytab(path: str, principal: str) -> str:
    """Return the full name of a principal whose key is in the file."""
    try:
        held = keytab_principals(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"keytab: {path!r} cannot be read: {error.strerror or error}") from error
    except (ValueError, struct.error) as error:
        raise ConfigError(f"keytab: {path!r} is no keytab: {error}") from error
    for candidate in held:
        if principal in (candidate, candidate.rpartition("@")[0]):
            return candidate
    raise ConfigError(
        f"keytab: {path!r} holds no key of {principal!r}; it holds those of "
        f"{', '.join(held) or 'nobody'}"
    )


def keytab_principals(content: bytes) -> list[str]:
    """Return the principals whose keys are in a keytab, each once, in order.

    Raises:
        ValueError: It is no keytab, or of a version that is not known.
    """
    if content[:2] not in _KEYTAB_VERSIONS:
        raise ValueError("it does not begin like one")
    is_old = content[:2] == b"\x05\x01"
    order = "=" if is_old else ">"
    found: dict[str, None] = {}
    at = 2
    while at + 4 <= len(content):
        (size,) = struct.unpack_from(f"{order}i", content, at)
        at += 4
        if size > 0:  # a negative one is a hole
            found[_principal(content[at : at + size], order, is_old)] = None
        at += abs(size)
    return list(found)


def _principal(entry: bytes, order: str, is_old: bool) -> str:
    (count,) = struct.unpack_from(f"{order}h", entry, 0)
    at, texts = 2, []
    # The realm comes first; the old version counts it as one of the parts.
    for _ in range(count if is_old else count + 1):
        (length,) = struct.unpack_from(f"{order}H", entry, at)
        texts.append(entry[at + 2 : at + 2 + length].decode("utf-8", "replace"))
        at += 2 + length
    return f"{'/'.join(texts[1:])}@{texts[0]}"

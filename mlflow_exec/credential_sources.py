"""Where the credentials of an artifact location come from: named sources, in a documented order.

1. ``?cred=NAME``: the entry of that name in ``~/.mlflow-exec/credentials.yaml``;
2. a password in the URI, with a warning;
3. the variables of the system's own tools, or the same with ``_FILE`` behind, which name a file;
4. a folder with a file for each field, as Kubernetes mounts a Secret;
5. nothing of ours: the SDK's own chain, or none.

Variables without a secret among them, such as that of an endpoint, do not end the search: they give
what a folder with secrets lacks.

Files are read when a value is used, so what is changed there counts from then on. A credential says
for which hosts it is: whoever may store a URI could else have it sent anywhere.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from mlflow_exec.credentials import Secret
from mlflow_exec.errors import CredentialError
from mlflow_exec.exec_credentials import fields_in, output_of
from mlflow_exec.schemes import Authority
from mlflow_exec.server_policy import is_server
from mlflow_exec.uris import CRED, Location

_LOG = logging.getLogger(__name__)

FILE = "MLFLOW_EXEC_CREDENTIALS"
"""The variable that names another credentials file."""
FOLDER = "MLFLOW_EXEC_CREDENTIALS_DIR"
"""The variable that names the folder of a mounted Secret."""
STRICT = "MLFLOW_EXEC_STRICT"
"""The variable by which a password in a URI is refused."""
_HOSTS, _ENDPOINT = "hosts", "endpoint"
_FIELDS = (
    _HOSTS, "user", "password", "token", "key_id", "key_secret", "session_token", "private_key",
    "host_key", "principal", "keytab", "endpoint", "region", "account", "connection_string",
)  # fmt: skip
# No secrets, so they may be shown.
_PLAIN = (_HOSTS, "user", "host_key", "principal", "keytab", "endpoint", "region", "account")
# What a command says lives so long is asked for anew a little before.
_EARLIER_S = 30.0
# What it says nothing of is kept for so long.
_KEPT_S = 300.0


@dataclass(frozen=True)
class Credential:
    """What a store is asked with.

    Attributes:
        source: Where its secrets come from, for people.
        fields: Its values by name.
        is_whole: Whether it was named, or says itself where it belongs: nothing of the environment
            is added to it then, and nothing that an SDK finds by itself.
    """

    source: str
    fields: Mapping[str, Secret] = field(default_factory=dict)
    is_whole: bool = True

    @property
    def holds_secret(self) -> bool:
        """Whether there is more in it than names and addresses."""
        return any(name not in _PLAIN for name in self.fields)

    def get(self, name: str) -> str | None:
        """Return a value as it is now; None where there is none."""
        found = self.fields.get(name)
        if found is None:
            return None
        return found.plain() if name in _PLAIN else found.reveal()

    def of_user(self, user: str) -> Credential:
        """Return this one for a user that is named elsewhere, such as in a URI; "" changes none."""
        if not user:
            return self
        return replace(self, fields={**self.fields, "user": Secret.of(user, "the URI")})


_OF_THE_SDK = "the SDK's own chain where it has one"
NOTHING = Credential(f"nothing of ours; {_OF_THE_SDK}", is_whole=False)


def find_credential(
    location: Location, environment: Mapping[str, str] | None = None
) -> Credential:
    """Return the credential of a location.

    Raises:
        CredentialError: It is named and not there, may not be read by others than its owner, is in
            a URI where that is refused, or is for other hosts.
    """
    env = os.environ if environment is None else environment
    if location.password is not None:
        in_uri = _in_uri(location, location.password, env)
        if location.cred is None:
            return in_uri
    found = _given(location, env) if location.cred is None else _entry(location.cred, env)
    _check_host(location, found)
    return found


def _check_host(location: Location, credential: Credential) -> None:
    if location.scheme.authority is not Authority.HOST or not credential.fields:
        return
    hosts = (credential.get(_HOSTS) or "").lower().replace(",", " ").split()
    if location.host not in hosts and f"{location.host}:{location.reached_port}" not in hosts:
        by = f", by {credential.fields[_HOSTS].source}" if hosts else ""
        raise CredentialError(
            f"{location}: the credential from {credential.source} is for "
            f"{', '.join(hosts) or 'no host'}{by}; if it may be sent there, name {location.host} "
            f"in its {_HOSTS!r}"
        )


def _in_uri(location: Location, password: Secret, env: Mapping[str, str]) -> Credential:
    mark = "&" if location.options else "?"
    way_on = f"write it into {_path(env)} and use {location}{mark}{CRED}=NAME"
    if is_server(env) or env.get(STRICT, "").lower() in ("1", "true"):
        raise CredentialError(f"{location}: a password in a URI is refused here; {way_on}")
    _LOG.warning("%s: a password in a URI is shown to whoever sees the run; %s", location, way_on)
    user = Secret.of(location.user, "the URI")
    return Credential("the URI", {"user": user, "password": password})


def _given(location: Location, env: Mapping[str, str]) -> Credential:
    """Return what variables and a mounted Secret give: no secrets of both, one would be foreign."""
    variables = _variables(location, env)
    if variables.holds_secret or not env.get(FOLDER):
        return variables if variables.fields else NOTHING
    mounted = _mounted(Path(env[FOLDER]))
    if mounted.holds_secret:  # for whom it is and where, it says itself, as far as it does
        fields, is_whole = {**variables.fields, **mounted.fields}, _ENDPOINT in mounted.fields
        return Credential(mounted.source, fields, is_whole)
    fields = {**mounted.fields, **variables.fields}
    return Credential(_source_of(fields), fields, is_whole=False) if fields else NOTHING


def _source_of(fields: Mapping[str, Secret]) -> str:
    secrets = [secret.source for name, secret in fields.items() if name not in _PLAIN]
    if secrets:
        return ", ".join(secrets)
    plain = ", ".join(value.source for value in fields.values())
    return f"{plain}, where no secret is; {_OF_THE_SDK}"


def _variables(location: Location, env: Mapping[str, str]) -> Credential:
    found: dict[str, Secret] = {}
    for name, variables in location.scheme.environment:
        for variable in variables:
            if env.get(variable):
                secret = secret_of_variable(variable, env)
            elif env.get(f"{variable}_FILE"):
                secret = secret_of_file(Path(env[f"{variable}_FILE"]))
            else:
                continue
            found[name] = secret
            break
    return Credential(_source_of(found), found, is_whole=False)


def secret_of_variable(variable: str, env: Mapping[str, str]) -> Secret:
    """Refer to a variable of an environment; empty where it is not set."""
    return Secret(f"environment variable {variable}", lambda: env.get(variable, ""))


def _mounted(folder: Path) -> Credential:
    try:
        names = sorted(path.name for path in folder.iterdir() if path.name in _FIELDS)
    except OSError as error:
        raise CredentialError(f"{FOLDER}: {folder}: {error.strerror}") from error
    return Credential(f"folder {folder}", {name: secret_of_file(folder / name) for name in names})


def secret_of_file(path: Path) -> Secret:
    """Refer to a file's text without blanks around it; using it raises CredentialError."""

    def read() -> str:
        try:
            return path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise CredentialError(f"file {path}: {why}") from error

    return Secret(f"file {path}", read)


# -- the credentials file -------------------------------------------------------------------


def _path(env: Mapping[str, str]) -> Path:
    return Path(env.get(FILE) or Path.home() / ".mlflow-exec" / "credentials.yaml")


def _entry(name: str, env: Mapping[str, str]) -> Credential:
    path = _path(env)
    entries = _read(path)
    if name not in entries:
        known = ", ".join(sorted(map(str, entries))) or "none"
        raise CredentialError(f"{path}: there is no entry {name!r}; known: {known}")
    entry, where = entries[name], f"entry {name!r} of {path}"
    if not isinstance(entry, Mapping) or not entry:
        raise CredentialError(f"{where}: fields are needed: {', '.join(_FIELDS)}, or exec")
    if "exec" in entry:
        return _of_command(entry, where, env)
    return Credential(where, {key: _value(key, entry[key], where, env) for key in entry})


def _read(path: Path) -> Mapping[str, Any]:
    try:
        mode = path.stat().st_mode
        if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise CredentialError(f"{path}: others may read it; chmod 600 {path}")
        found = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        raise CredentialError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError):  # whose message shows what stands there
        raise CredentialError(f"{path}: it is not YAML") from None
    if not isinstance(found, Mapping):
        raise CredentialError(f"{path}: entries by their names are needed")
    return found


def _value(key: str, value: Any, where: str, env: Mapping[str, str]) -> Secret:
    if key not in _FIELDS:
        raise CredentialError(f"{where}: unknown field {key!r}; known: {', '.join(_FIELDS)}, exec")
    if key == _HOSTS and isinstance(value, list):
        return Secret.of(" ".join(map(str, value)), where)
    if isinstance(value, str):
        return Secret.of(value, where)
    if isinstance(value, Mapping) and len(value) == 1:
        ((kind, name),) = value.items()
        if kind == "file":
            return secret_of_file(Path(str(name)).expanduser())
        if kind == "env" and env.get(str(name)):
            return secret_of_variable(str(name), env)
        if kind == "env":
            raise CredentialError(f"{where}: {key}: the variable {name} is not set")
    raise CredentialError(f"{where}: {key}: a text, {{env: NAME}} or {{file: PATH}} is needed")


# -- commands -------------------------------------------------------------------------------


def _of_command(entry: Mapping[str, Any], where: str, env: Mapping[str, str]) -> Credential:
    command = entry["exec"]
    others = {key: value for key, value in entry.items() if key != "exec"}
    if not set(others) <= set(_PLAIN) or not isinstance(command, list) or not command:
        raise CredentialError(
            f"{where}: exec: a list of words is needed, and no secrets beside it; allowed: "
            f"{', '.join(_PLAIN)}"
        )
    words = tuple(str(word) for word in command)
    with _COMMANDS_LOCK:  # MLflow opens a location for each call
        run = _COMMANDS.setdefault((words, where), _Command(words, where))
    fields = {name: run.field(name) for name in run.now()}
    return Credential(where, {**fields, **{k: _value(k, v, where, env) for k, v in others.items()}})


class _Command:
    """A command that prints fields, run again in time."""

    def __init__(self, words: tuple[str, ...], where: str) -> None:
        self._words = words
        self._where = f"{where}: exec: {words[0]}"
        self._fields: dict[str, str] = {}
        self._until_s = 0.0
        self._lock = threading.Lock()

    def now(self) -> Mapping[str, str]:
        with self._lock:
            if time.time() >= self._until_s:
                self._fields, self._until_s = self._run()
            return self._fields

    def field(self, name: str) -> Secret:
        read: Callable[[], str] = lambda: self.now().get(name, "")  # noqa: E731
        return Secret(self._where, read)

    def _run(self) -> tuple[dict[str, str], float]:
        printed, expires_s = fields_in(output_of(self._words, self._where), self._where)
        until_s = time.time() + _KEPT_S if expires_s is None else expires_s - _EARLIER_S
        return {name: str(printed[name]) for name in _FIELDS if printed.get(name)}, until_s


_COMMANDS: dict[tuple[tuple[str, ...], str], _Command] = {}
_COMMANDS_LOCK = threading.Lock()

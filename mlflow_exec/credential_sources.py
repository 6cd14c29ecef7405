"""Where the credentials of an artifact location come from: named sources, in a documented order.

1. ``?cred=NAME``: the entry of that name in ``~/.mlflow-exec/credentials.yaml``;
2. a password in the URI, with a warning;
3. the variables of the system's own tools, or the same with ``_FILE`` behind, which name a file;
4. a folder with a file for each field, as Kubernetes mounts a Secret;
5. nothing of ours: the SDK's own chain, or none.

Files and commands are read when a value is used, so what is changed there counts from then on.
"""

from __future__ import annotations

import json
import logging
import os
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml

from mlflow_exec.credentials import Secret
from mlflow_exec.errors import CredentialError
from mlflow_exec.server_policy import is_server
from mlflow_exec.uris import CRED, Location

_LOG = logging.getLogger(__name__)

FILE = "MLFLOW_EXEC_CREDENTIALS"
"""The variable that names another credentials file."""
FOLDER = "MLFLOW_EXEC_CREDENTIALS_DIR"
"""The variable that names the folder of a mounted Secret."""
STRICT = "MLFLOW_EXEC_STRICT"
"""The variable by which a password in a URI is refused."""
_FIELDS = ("user", "password", "token", "key_id", "key_secret", "session_token", "private_key")
_EXEC_S = 60.0
# What a command says lives so long is asked for anew a little before.
_EARLIER_S = 30.0


@dataclass(frozen=True)
class Credential:
    """What a store is asked with.

    Attributes:
        source: Where it comes from, for people.
        fields: Its values by name.
    """

    source: str
    fields: Mapping[str, Secret] = field(default_factory=dict)

    def get(self, name: str) -> str | None:
        """Return a value as it is now; None where there is none."""
        found = self.fields.get(name)
        return found.reveal() if found is not None else None


NOTHING = Credential("nothing of ours; the SDK's own chain where it has one")


def find_credential(
    location: Location, environment: Mapping[str, str] | None = None
) -> Credential:
    """Return the credential of a location.

    Raises:
        CredentialError: It is named and not there, may not be read by others than its owner, or is
            in a URI where that is refused.
    """
    env = os.environ if environment is None else environment
    if location.cred is not None:
        return _entry(location.cred, env)
    if location.password is not None:
        return _in_uri(location, location.password, env)
    variables = _variables(location, env)
    if variables.fields:
        return variables
    if env.get(FOLDER):
        return _mounted(Path(env[FOLDER]), env)
    return NOTHING


def _in_uri(location: Location, password: Secret, env: Mapping[str, str]) -> Credential:
    mark = "&" if location.options else "?"
    way_on = f"write it into {_path(env)} and use {location}{mark}{CRED}=NAME"
    if is_server(env) or env.get(STRICT, "").lower() in ("1", "true"):
        raise CredentialError(f"{location}: a password in a URI is refused here; {way_on}")
    _LOG.warning("%s: a password in a URI is shown to whoever sees the run; %s", location, way_on)
    user = Secret.of(location.user, "the URI")
    return Credential("the URI", {"user": user, "password": password})


def _variables(location: Location, env: Mapping[str, str]) -> Credential:
    found: dict[str, Secret] = {}
    names = []
    for name, variables in location.scheme.environment:
        for variable in variables:
            if env.get(variable):
                secret = Secret.of(env[variable], f"environment variable {variable}")
            elif env.get(f"{variable}_FILE"):
                secret = _of_file(Path(env[f"{variable}_FILE"]))
            else:
                continue
            found[name] = secret
            names.append(secret.source)
            break
    return Credential(", ".join(names), found)


def _mounted(folder: Path, env: Mapping[str, str]) -> Credential:
    try:
        names = sorted(path.name for path in folder.iterdir() if path.name in _FIELDS)
    except OSError as error:
        raise CredentialError(f"{FOLDER}: {folder}: {error.strerror}") from error
    return Credential(f"folder {folder}", {name: _of_file(folder / name) for name in names})


def _of_file(path: Path) -> Secret:
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
        return _of_command(entry, where)
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
    if isinstance(value, str):
        return Secret.of(value, where)
    if isinstance(value, Mapping) and len(value) == 1:
        ((kind, name),) = value.items()
        if kind == "file":
            return _of_file(Path(str(name)).expanduser())
        if kind == "env" and env.get(str(name)):
            return Secret.of(env[str(name)], f"environment variable {name}")
        if kind == "env":
            raise CredentialError(f"{where}: {key}: the variable {name} is not set")
    raise CredentialError(f"{where}: {key}: a text, {{env: NAME}} or {{file: PATH}} is needed")


# -- commands -------------------------------------------------------------------------------


def _of_command(entry: Mapping[str, Any], where: str) -> Credential:
    command = entry["exec"]
    if set(entry) != {"exec"} or not isinstance(command, list) or not command:
        raise CredentialError(f"{where}: exec: a list of words is needed, and no other field")
    run = _Command([str(word) for word in command], where)
    return Credential(where, {name: run.field(name) for name in run.now()})


class _Command:
    """A command that prints fields, or an ``ExecCredential`` as kubectl's; run again in time."""

    def __init__(self, words: list[str], where: str) -> None:
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
        try:
            done = subprocess.run(
                self._words, stdin=subprocess.DEVNULL, capture_output=True, timeout=_EXEC_S,
                check=False, text=True,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired, ValueError) as error:
            raise CredentialError(f"{self._where}: {type(error).__name__}") from error
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [""])[-1]
            raise CredentialError(f"{self._where}: exit code {done.returncode}: {last[:300]}")
        try:
            found = json.loads(done.stdout)
            status = found.get("status", found)
            expires = status.get("expirationTimestamp")
            until_s = _time_s(expires) - _EARLIER_S if expires else float("inf")
        except (ValueError, AttributeError):
            raise CredentialError(f"{self._where}: it does not print a JSON object") from None
        return {name: str(status[name]) for name in _FIELDS if status.get(name)}, until_s


def _time_s(text: str) -> float:
    found = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).timestamp()

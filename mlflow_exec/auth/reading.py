"""Which sign-ins are configured: by variables, for one server, or by a file, for many.

``MLFLOW_EXEC_AUTH`` names a flow and ``MLFLOW_EXEC_AUTH_<SETTING>`` its settings. Without it
``~/.mlflow-exec/auth.yaml`` has an entry for each host. There is no third place, and no default.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from mlflow_exec import registry
from mlflow_exec.auth.base import Flow
from mlflow_exec.auth.flows import FLOWS, FlowEntry, flow_entry
from mlflow_exec.auth.hosts import Place, host_name
from mlflow_exec.auth.locks import ProcessLock
from mlflow_exec.auth.settings import SignInSettings
from mlflow_exec.errors import ConfigError
from mlflow_exec.settings.reading import closest, known_keys, parse_settings

PROVIDER = "mlflow-exec"
"""The name of the provider: what MLFLOW_TRACKING_AUTH is set to."""
VARIABLE = "MLFLOW_EXEC_AUTH"
"""The variable that names a flow, and begins the names of those with its settings."""
FILE = "MLFLOW_EXEC_AUTH_CONFIG"
"""The variable that names another file."""
_DOCS = "see docs/sign-in.md"


class SignIn:
    """One configured sign-in.

    Args:
        entry: Its flow.
        settings: Of the flow.
        source: Where they are from, for people.
        hosts: Those that get the credential; none stands for the tracking server's.
    """

    def __init__(
        self, entry: FlowEntry, settings: SignInSettings, source: str, hosts: Iterable[str] = ()
    ) -> None:
        self.entry = entry
        self.settings = settings
        self.source = source
        named = [host_name(host, f"{source}: hosts") for host in settings.hosts]
        self.hosts = tuple(dict.fromkeys([*hosts, *named]))
        self._flow: Flow | None = None
        self._making = ProcessLock()

    def is_for(self, place: Place, tracking: Place | None) -> bool:
        """Whether requests to a place get its credential."""
        if self.hosts:
            return any(place.is_of(host) for host in self.hosts)
        return tracking is not None and (place.host, place.port) == (tracking.host, tracking.port)

    def may_go(self, place: Place) -> bool:
        """Whether nobody on the way there can read it, or that was allowed."""
        return place.is_safe or self.settings.allow_http

    def flow(self) -> Flow:
        """Return its flow, one for the process.

        Raises:
            MissingExtraError: What it needs is not installed.
        """
        with self._making:
            if self._flow is None:
                self._flow = registry.load(self.entry.flow, self.entry.extra)(self.settings)
            return self._flow


def given_by(env: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return what `find_sign_ins` depends on; as long as it is the same, so is the result."""
    found = [(name, value) for name, value in env.items() if name.startswith(VARIABLE)]
    if not env.get(VARIABLE):
        path = file_path(env)
        try:
            found.append((str(path), str(path.stat().st_mtime_ns)))
        except OSError:
            found.append((str(path), "away"))
    return tuple(sorted(found))


def file_path(env: Mapping[str, str]) -> Path:
    """Return the file that is read where no variable names a flow."""
    given = env.get(FILE)
    return Path(given).expanduser() if given else Path.home() / ".mlflow-exec" / "auth.yaml"


def find_sign_ins(env: Mapping[str, str] | None = None) -> list[SignIn]:
    """Return what is configured; at least one.

    Raises:
        ConfigError: Nothing is, or something of it is wrong.
    """
    env = os.environ if env is None else env
    if env.get(VARIABLE):
        return [_of_variables(env)]
    stray = sorted(name for name in env if name.startswith(f"{VARIABLE}_") and name != FILE)
    if stray:
        raise ConfigError(f"{stray[0]}: it belongs to a flow, and {VARIABLE} names none. Known: "
                          f"{', '.join(entry.name for entry in FLOWS)}")  # fmt: skip
    path = file_path(env)
    if not path.exists():
        raise ConfigError(
            f"sign-in: nothing is configured: {VARIABLE} names no flow and {path} is not there. "
            f"Known flows: {', '.join(entry.name for entry in FLOWS)}; {_DOCS}"
        )
    return _of_file(path)


def _of_variables(env: Mapping[str, str]) -> SignIn:
    entry = flow_entry(env[VARIABLE], VARIABLE)
    settings: type[SignInSettings] = registry.load(entry.settings)
    known: dict[str, str] = {f"{VARIABLE}_{name.upper()}": name for name in known_keys(settings)}
    of_files = {f"{VARIABLE}_{name.upper()}_FILE": name for name in settings.secrets()}
    config: dict[str, Any] = {}
    where = f"{VARIABLE}={entry.name}"
    for variable, value in env.items():
        if not variable.startswith(f"{VARIABLE}_") or variable == FILE:
            continue
        if variable not in {**known, **of_files}:
            names = sorted({**known, **of_files})
            guess = closest(variable, names)
            raise ConfigError(f"{where}: unknown variable {variable!r}{guess}. "
                              f"Known: {', '.join(names)}")  # fmt: skip
        name = known.get(variable) or of_files[variable]
        if not value:
            continue
        if name in config:
            raise ConfigError(f"{where}: {name}: it is given by a variable and by a file; give one")
        if name in settings.secrets():
            config[name] = {"env": variable} if variable in known else {"file": value}
        else:
            config[name] = value
    return SignIn(entry, parse_settings(settings, config, where), f"variable {VARIABLE}")


def _of_file(path: Path) -> list[SignIn]:
    try:
        mode = path.stat().st_mode
        found = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, yaml.YAMLError):  # whose message shows what stands there
        raise ConfigError(f"{path}: it is not YAML") from None
    if not isinstance(found, Mapping) or not found:
        raise ConfigError(f"{path}: entries by their hosts are needed; {_DOCS}")
    if os.name == "posix" and mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{path}: others may write it, and it names commands; chmod go-w {path}")
    open_to_others = os.name == "posix" and bool(mode & (stat.S_IRWXG | stat.S_IRWXO))
    result: list[SignIn] = []
    for host, given in found.items():
        name = host_name(host, str(path))
        sign_in = _entry(given, f"entry {name!r} of {path}", name, open_to_others)
        taken = [host for other in result for host in other.hosts if host in sign_in.hosts]
        if taken:
            raise ConfigError(f"{sign_in.source}: {taken[0]}: an entry above is for it, too")
        result.append(sign_in)
    return result


def _entry(given: Any, where: str, host: str, open_to_others: bool) -> SignIn:
    if not isinstance(given, Mapping) or not isinstance(given.get("flow"), str):
        raise ConfigError(f"{where}: 'flow' is needed, and the flow's settings beside it. Known: "
                          f"{', '.join(entry.name for entry in FLOWS)}")  # fmt: skip
    entry = flow_entry(given["flow"], where)
    settings: type[SignInSettings] = registry.load(entry.settings)
    config = {str(key): value for key, value in given.items() if key != "flow"}
    known = known_keys(settings)
    for key in config:
        if key not in known:
            raise ConfigError(f"{where}: unknown setting {key!r}{closest(key, known)}. "
                              f"Known: flow, {', '.join(known)}")  # fmt: skip
    literal = [name for name in settings.secrets() if isinstance(config.get(name), str)]
    if literal and open_to_others:
        raise ConfigError(
            f"{where}: {literal[0]}: others may read the file; chmod 600 it, or give "
            f"{{file: PATH}} or {{env: NAME}}"
        )
    return SignIn(entry, parse_settings(settings, config, where), where, [host])

"""A Hadoop cluster as its client configuration describes it: where its daemons' web ports are.

Read by itself, without Java: ``core-site.xml``, ``hdfs-site.xml`` and ``yarn-site.xml`` of one
folder, with the defaults that matter here. The names and defaults are those of
https://hadoop.apache.org/docs/stable/hadoop-project-dist/hadoop-common/core-default.xml,
hdfs-default.xml and yarn-default.xml.
"""

from __future__ import annotations

import getpass
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

from mlflow_exec.errors import ConfigError

# A later file overrules an earlier one, except where that one says `final`.
_FILES = ("core-site.xml", "hdfs-site.xml", "yarn-site.xml")
_INCLUDE = "{http://www.w3.org/2001/XInclude}include"
_FALLBACK = "{http://www.w3.org/2001/XInclude}fallback"
# Hadoop's own limits are the same 20 for variables, and none for included files.
_DEPTH = 20
_VARIABLE = re.compile(r"\$\{([^{}$\s]+)\}")
_RENAMED = {
    "fs.default.name": "fs.defaultFS",
    "dfs.http.address": "dfs.namenode.http-address",
    "dfs.https.address": "dfs.namenode.https-address",
    "dfs.federation.nameservices": "dfs.nameservices",
}
# What a daemon binds to where it may be asked on any address of its host.
_ANY_ADDRESS = ("0.0.0.0", "[::]", "")


@dataclass(frozen=True)
class _Web:
    """A daemon's web address in the configuration.

    Attributes:
        property: The property that holds it; ``.<id>`` follows where there are several daemons.
        port: The port where none is configured.
        host_from: A property with the host or host:port, for where the address is not configured.
    """

    property: str
    port: int
    host_from: str


_RESOURCE_MANAGER = {
    "http": _Web("yarn.resourcemanager.webapp.address", 8088, "yarn.resourcemanager.hostname"),
    "https": _Web(
        "yarn.resourcemanager.webapp.https.address", 8090, "yarn.resourcemanager.hostname"
    ),
}
_NAMENODE = {
    "http": _Web("dfs.namenode.http-address", 9870, "dfs.namenode.rpc-address"),
    "https": _Web("dfs.namenode.https-address", 9871, "dfs.namenode.rpc-address"),
}


@dataclass(frozen=True)
class HadoopConfig:
    """The client configuration of one cluster.

    Attributes:
        folder: Where it was read from.
        where_from: What named the folder, in words for messages.
        values: The properties as they are written, variables not yet replaced.
    """

    folder: Path
    where_from: str
    values: Mapping[str, str]

    def __hash__(self) -> int:
        return hash((self.folder, self.where_from, tuple(sorted(self.values.items()))))

    def get(self, name: str, default: str = "") -> str:
        """Return a property with its variables replaced, as Hadoop does it.

        ``${name}`` is another property, ``user.name`` or ``user.home``; ``${env.X}`` and
        ``${env.X:-default}`` are of the environment. What cannot be found stays as it is written.
        """
        return self._resolve(self.values.get(name, default)).strip()

    def _resolve(self, text: str) -> str:
        for _ in range(_DEPTH):
            replaced = _VARIABLE.sub(self._variable, text)
            if replaced == text:
                break
            text = replaced
        return text

    def _variable(self, match: re.Match[str]) -> str:
        name = match.group(1)
        if name.startswith("env."):
            variable, _, default = name[len("env.") :].partition("-")
            value = os.environ.get(variable.rstrip(":"))
            # As in a shell: with a colon, an empty variable counts as missing too.
            missing = not value if variable.endswith(":") else value is None
            return (default if "-" in name else match.group()) if missing else str(value)
        if name in self.values:
            return self.values[name]
        system = _SYSTEM_PROPERTIES.get(name)
        return system() if system else match.group()

    # -- what it says -----------------------------------------------------------------------

    @property
    def default_filesystem(self) -> str:
        """The file system of paths without one (``fs.defaultFS``)."""
        found = self.get("fs.defaultFS", "file:///")
        return found if found.endswith("//") else found.rstrip("/")

    @property
    def is_secure(self) -> bool:
        """Whether one signs in by Kerberos."""
        return self.get("hadoop.security.authentication", "simple").lower() == "kerberos"

    @property
    def cluster_id(self) -> str:
        """The name that its administrators gave the cluster; empty if none."""
        return self.get("yarn.resourcemanager.cluster-id")

    @property
    def yarn_scheme(self) -> str:
        """How YARN's daemons are asked: ``http`` or ``https``."""
        return "https" if self.get("yarn.http.policy").upper() == "HTTPS_ONLY" else "http"

    def resource_managers(self) -> tuple[str, ...]:
        """Return the web addresses of all ResourceManagers; more than one with high availability.

        Raises:
            ConfigError: High availability is on and names none.
        """
        scheme = self.yarn_scheme
        web = _RESOURCE_MANAGER[scheme]
        if self.get("yarn.resourcemanager.ha.enabled").lower() != "true":
            return (f"{scheme}://{self._address(web, '') or f'localhost:{web.port}'}",)
        ids = self._names("yarn.resourcemanager.ha.rm-ids")
        found = [self._address(web, f".{id_}") for id_ in ids]
        if not ids or not all(found):
            missing = [id_ for id_, address in zip(ids, found, strict=True) if not address]
            raise ConfigError(
                f"Hadoop configuration {self.folder}: yarn.resourcemanager.ha.enabled is true, "
                f"but {web.host_from}.<id> or {web.property}.<id> is missing for "
                f"{', '.join(missing) or 'every id (yarn.resourcemanager.ha.rm-ids is empty)'}; "
                f"correct yarn-site.xml"
            )
        return tuple(f"{scheme}://{address}" for address in found)

    def namenodes(self, filesystem: str = "") -> tuple[str, ...]:
        """Return the WebHDFS addresses of a file system; more than one with high availability.

        Args:
            filesystem: ``hdfs://…``, ``webhdfs://…`` or ``swebhdfs://…``; by default the
                configuration's own.

        Raises:
            ConfigError: It is no HDFS, or no address of it is configured.
        """
        filesystem = filesystem or self.default_filesystem
        where = f"Hadoop configuration {self.folder}: the file system {filesystem!r}"
        try:
            parts = urlsplit(filesystem)
            authority, host, port = parts.netloc.rpartition("@")[2], parts.hostname, parts.port
        except ValueError as error:
            raise ConfigError(f"{where} is no URI: {error}") from error
        if parts.scheme not in ("hdfs", "webhdfs", "swebhdfs") or not host:
            raise ConfigError(
                f"{where} is not an HDFS; set fs.defaultFS in core-site.xml, or give one such as "
                f"'hdfs://namenode:8020'"
            )
        if parts.scheme != "hdfs" and port:
            return (f"{'https' if parts.scheme == 'swebhdfs' else 'http'}://{authority}",)
        only_https = self.get("dfs.http.policy").upper() == "HTTPS_ONLY"
        scheme = "https" if only_https or parts.scheme == "swebhdfs" else "http"
        web = _NAMENODE[scheme]
        if port is None and authority in self._names("dfs.nameservices"):
            ids = self._names(f"dfs.ha.namenodes.{authority}")
            names = [f".{authority}.{id_}" for id_ in ids] or [f".{authority}"]
            found = [self._address(web, name) for name in names]
            if not all(found):
                missing = ", ".join(
                    f"{web.property}{n}" for n in names if not self._address(web, n)
                )
                raise ConfigError(
                    f"{where} names a nameservice without {missing}; correct hdfs-site.xml"
                )
            return tuple(f"{scheme}://{address}" for address in found)
        return (f"{scheme}://{self._single(web, authority, host)}",)

    def _single(self, web: _Web, authority: str, host: str) -> str:
        """Return the web address of a NameNode that is named by its host."""
        own = urlsplit(self.default_filesystem).netloc == authority
        configured = self.get(web.property) if own else ""
        configured_host, _, port = configured.rpartition(":")
        if configured_host in _ANY_ADDRESS:
            return f"{f'[{host}]' if ':' in host else host}:{port or web.port}"
        return configured

    def _address(self, web: _Web, suffix: str) -> str:
        """Return ``host:port``; empty where nothing of it is configured."""
        address = self.get(web.property + suffix)
        # As yarn-default.xml has it: the address is made of the host's name.
        host = self.get(web.host_from + suffix)
        host = host if ":" not in host or host.endswith("]") else host.rpartition(":")[0]
        configured_host, _, port = address.rpartition(":")
        if address and not (port.isdigit() and configured_host):
            configured_host, port = (address, "") if not port.isdigit() else (configured_host, port)
        if configured_host in _ANY_ADDRESS:
            configured_host = host
        if not (address or host):
            return ""
        if configured_host in _ANY_ADDRESS:
            configured_host = "localhost"
        return f"{configured_host}:{port or web.port}"

    def _names(self, property_: str) -> list[str]:
        return [name.strip() for name in self.get(property_).split(",") if name.strip()]


def _user() -> str:
    with suppress(KeyError, OSError):
        return getpass.getuser()
    return str(os.getuid())


_SYSTEM_PROPERTIES: dict[str, Callable[[], str]] = {
    "user.name": _user,
    "user.home": lambda: str(Path.home()),
    "java.io.tmpdir": lambda: "/tmp",
}


# -- reading --------------------------------------------------------------------------------


def read_config(folder: str | None) -> HadoopConfig:
    """Read the configuration of the cluster that is meant.

    It is in the folder that is given, else in ``HADOOP_CONF_DIR``, ``YARN_CONF_DIR``,
    ``$HADOOP_HOME/etc/hadoop`` or ``/etc/hadoop/conf``.

    Args:
        folder: The setting ``hadoop_conf_dir``.

    Raises:
        ConfigError: There is none, it cannot be read, or a file of it is no XML.
    """
    tried: list[str] = []
    for where_from, path, is_named in _candidates(folder):
        if any((path / name).is_file() for name in _FILES):
            return HadoopConfig(path, where_from, _read_folder(path))
        if is_named:
            raise ConfigError(
                f"{where_from}: {str(path)!r} is no folder with a Hadoop configuration: none of "
                f"{', '.join(_FILES)} is in it"
            )
        tried.append(str(path))
    raise ConfigError(
        f"hadoop_conf_dir: no Hadoop configuration was found: HADOOP_CONF_DIR and YARN_CONF_DIR "
        f"are not set, and there is none in {', '.join(tried)}; set 'hadoop_conf_dir' to the "
        f"folder with core-site.xml and yarn-site.xml"
    )


def _candidates(folder: str | None) -> Iterator[tuple[str, Path, bool]]:
    """Yield what names a folder, the folder, and whether it was named for this purpose."""
    if folder:
        yield "setting 'hadoop_conf_dir'", Path(folder).expanduser().absolute(), True
    for variable in ("HADOOP_CONF_DIR", "YARN_CONF_DIR"):
        if os.environ.get(variable):
            yield variable, Path(os.environ[variable]).absolute(), True
    if os.environ.get("HADOOP_HOME"):
        yield "HADOOP_HOME", Path(os.environ["HADOOP_HOME"]).absolute() / "etc" / "hadoop", False
    yield "/etc/hadoop/conf", Path("/etc/hadoop/conf"), False


def _read_folder(folder: Path) -> dict[str, str]:
    values: dict[str, str] = {}
    final: set[str] = set()
    for name in _FILES:
        if not (folder / name).is_file():
            continue
        final_here: set[str] = set()
        for key, value, is_final in _properties(folder / name, 0):
            if key in final:
                continue
            values[key] = value
            if is_final:
                final_here.add(key)
        final |= final_here
    return values


def _properties(path: Path, depth: int) -> Iterator[tuple[str, str, bool]]:
    """Yield name, value and ``final`` of each property in a file and in those it includes."""
    try:
        root = ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise ConfigError(
            f"Hadoop configuration: {path} is no XML: {error}; correct the file"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"Hadoop configuration: {path} cannot be read: {error.strerror or error}"
        ) from error
    yield from _of_elements(root, path, depth)


def _of_elements(
    parent: ElementTree.Element, path: Path, depth: int
) -> Iterator[tuple[str, str, bool]]:
    for element in parent:
        if element.tag == _INCLUDE:
            yield from _included(element, path, depth)
        elif element.tag == "configuration":
            yield from _of_elements(element, path, depth)
        elif element.tag == "property":
            fields = {child.tag: child.text or "" for child in element}
            # Since Hadoop 3 they may be attributes, too.
            fields = {key: value.strip() for key, value in {**element.attrib, **fields}.items()}
            name = fields.get("name", "")
            if name and "value" in fields:
                is_final = fields.get("final") == "true"
                yield _RENAMED.get(name, name), fields["value"], is_final


def _included(
    element: ElementTree.Element, path: Path, depth: int
) -> Iterator[tuple[str, str, bool]]:
    href = element.get("href", "")
    target = path.parent / href.removeprefix("file://")
    fallback = element.find(_FALLBACK)
    if depth >= _DEPTH or "://" in href.removeprefix("file://"):
        raise ConfigError(
            f"Hadoop configuration: {path} includes {href!r}, which cannot be followed"
        )
    if target.is_file():
        yield from _properties(target, depth + 1)
    elif fallback is not None:
        yield from _of_elements(fallback, path, depth)
    else:
        raise ConfigError(
            f"Hadoop configuration: {path} includes {str(target)!r}, which does not exist"
        )

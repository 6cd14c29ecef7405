"""Where one YARN lives on this machine: its folder and its ports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mlflow_exec.clients.ports import free_port

HDFS_PORTS = ("namenode", "namenode-web", "datanode", "datanode-web", "datanode-ipc")
NODE_PORTS = ("node", "node-localizer", "node-web")


def resource_manager_ports(daemon: str) -> tuple[str, ...]:
    """Return the names of a ResourceManager's ports, which begin with that of the daemon."""
    return (daemon, *(f"{daemon}-{part}" for part in ("scheduler", "tracker", "admin", "web")))


@dataclass(frozen=True)
class Layout:
    """The folder of a cluster's files, and the addresses of its daemons."""

    folder: Path
    host: str
    ports: Mapping[str, int] = field(default_factory=dict)

    def address(self, port: str) -> str:
        """Return host and port for one of the names in `ports`."""
        return f"{self.host}:{self.ports[port]}"

    def url(self, port: str) -> str:
        """Return the http URL, without a path, of one of the names in `ports`."""
        return f"http://{self.address(port)}"

    @property
    def conf_dir(self) -> Path:
        """The clients' configuration, and that of all daemons but the NodeManagers."""
        return self.folder / "conf"

    @property
    def cluster_id(self) -> str:
        """A name that no other cluster of this machine has."""
        return self.folder.name

    def node_folder(self, node: str) -> Path:
        """Return the folder of one NodeManager: configuration, local files, logs of containers."""
        return self.folder / "nodes" / node

    def record(self, daemon: str) -> Path:
        """Return the file in which a daemon's process is written down."""
        return self.folder / "processes" / f"{daemon}.json"

    def log(self, daemon: str) -> Path:
        """Return the file of a daemon's output."""
        return self.folder / "log" / f"{daemon}.log"


def free_ports(names: Iterable[str], taken: Iterable[int] = ()) -> dict[str, int]:
    """Return a port of loopback for each name that nobody uses now, none twice."""
    used = set(taken)
    found = {}
    for name in names:
        while (port := free_port()) in used:
            pass
        used.add(port)
        found[name] = port
    return found

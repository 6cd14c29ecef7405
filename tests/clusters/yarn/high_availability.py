"""A YARN with two ResourceManagers, of which a ZooKeeper lets one be active."""

from __future__ import annotations

import socket
from collections.abc import Iterator

from tests.clusters.processes import appears
from tests.clusters.yarn import configuration
from tests.clusters.yarn.cluster import YarnCluster
from tests.clusters.yarn.daemons import Daemon
from tests.clusters.yarn.layout import HDFS_PORTS, resource_manager_ports

_IDS = ("rm1", "rm2")
_FAILOVER_S = 60.0
_MAIN = "org.apache.zookeeper.server.ZooKeeperServerMain"
_ZOOKEEPER = """\
dataDir={folder}/zookeeper
clientPortAddress={host}
clientPort={port}
tickTime=500
admin.enableServer=false
4lw.commands.whitelist=ruok
"""


class HighlyAvailableYarnCluster(YarnCluster):
    """A YARN whose ResourceManagers are the daemons `resourcemanager-rm1` and `-rm2`.

    There is a daemon `zookeeper` too. Where there is an active one decides itself, in seconds.
    """

    @property
    def resource_manager_urls(self) -> tuple[str, ...]:
        """Where the REST of each is; the one that stands by sends clients to the active one."""
        return tuple(self._layout.url(f"{name}-web") for name in self._resource_managers())

    @property
    def resource_manager_url(self) -> str:
        """Where the REST of the active one is; of the first one while there is none."""
        active = self.active() or self._resource_managers()[0]
        return self._layout.url(f"{active}-web")

    def active(self) -> str | None:
        """Return the name of the daemon that is active."""
        for name, url in zip(self._resource_managers(), self.resource_manager_urls, strict=True):
            info = self.get(f"{url}/ws/v1/cluster/info") or {}
            if info.get("clusterInfo", {}).get("haState") == "ACTIVE":
                return name
        return None

    def kill_active(self) -> str:
        """Kill the active one, as a crash would; returns its name once the other one serves."""
        killed = self.active()
        if killed is None:
            raise RuntimeError("no ResourceManager is active")
        self.kill_daemon(killed)
        if not appears(self._failed_over, timeout_s=_FAILOVER_S, interval_s=0.2):
            raise RuntimeError(f"after the end of {killed} no other one serves")
        return killed

    def _failed_over(self) -> bool:
        return self.active() is not None and bool(self._listed())

    def _ports(self) -> tuple[str, ...]:
        managers = (resource_manager_ports(name) for name in self._resource_managers())
        return (*HDFS_PORTS, *(port for ports in managers for port in ports), "zookeeper")

    def _resource_managers(self) -> tuple[str, ...]:
        return tuple(f"resourcemanager-{number}" for number in _IDS)

    def _yarn(self) -> Iterator[Daemon]:
        layout = self._layout
        config = layout.folder / "zoo.cfg"
        port = layout.ports["zookeeper"]
        config.write_text(_ZOOKEEPER.format(folder=layout.folder, host=layout.host, port=port))
        yield self._daemon("zookeeper", _MAIN, lambda _: _answers(layout.host, port), str(config))
        for number, name in zip(_IDS, self._resource_managers(), strict=True):
            # Which of the two it is cannot be told from the host here.
            conf_dir = layout.folder / f"conf-{number}"
            own = {"yarn-site": {"yarn.resourcemanager.ha.id": number}}
            configuration.write(conf_dir, self._files(own))
            yield self._resource_manager(name, conf_dir=conf_dir)

    def _site(self) -> dict[str, str]:
        site = {
            "yarn.resourcemanager.ha.enabled": "true",
            "yarn.resourcemanager.ha.rm-ids": ",".join(_IDS),
            "yarn.resourcemanager.ha.automatic-failover.enabled": "true",
            "yarn.resourcemanager.ha.automatic-failover.embedded": "true",
            "yarn.resourcemanager.store.class": (
                "org.apache.hadoop.yarn.server.resourcemanager.recovery.ZKRMStateStore"
            ),
            "hadoop.zk.address": self._layout.address("zookeeper"),
            # How long a dead one counts as active; ZooKeeper allows 20 ticks at most.
            "hadoop.zk.timeout-ms": "4000",
            "yarn.client.failover-sleep-base-ms": "200",
            "yarn.client.failover-sleep-max-ms": "1000",
        }
        for number, name in zip(_IDS, self._resource_managers(), strict=True):
            site |= configuration.resource_manager_addresses(
                self._layout, daemon=name, suffix=f".{number}"
            )
        return site


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=5) as connection:
            connection.sendall(b"ruok")
            return connection.recv(4) == b"imok"
    except OSError:
        return False

"""A YARN with one node and an HDFS: every daemon a real process of this machine."""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.clusters.processes import Process, appears
from tests.clusters.ray_cgroup import MemoryCgroup
from tests.clusters.yarn import client, configuration, daemons, remains
from tests.clusters.yarn.daemons import Daemon
from tests.clusters.yarn.jars import jars, java_home
from tests.clusters.yarn.layout import (
    HDFS_PORTS,
    NODE_PORTS,
    Layout,
    free_ports,
    resource_manager_ports,
)

if TYPE_CHECKING:
    from typing_extensions import Self

MEMORY_LIMIT_BYTES = 4 * 1024**3
"""What all NodeManagers and containers of a cluster may use together, where cgroups can be had."""
NODE = "n1"

_HEAP_MB = 384


class YarnCluster:
    """A real YARN and HDFS. It is used up by `stop`: start another one.

    Two can run at the same time, in one process or in several. What a killed process leaves is
    removed by the next start. Daemons have names: `namenode`, `datanode`, `resourcemanager`, and
    `nodemanager-n1` for node `n1`, there from the start.

    Args:
        properties: further properties by file (`{"yarn-site": {"yarn.acl.enable": "false"}}`).
    """

    _host = "127.0.0.1"
    _first_nodes: tuple[str, ...] = (NODE,)

    def __init__(self, *, properties: configuration.Files | None = None) -> None:
        self._properties = properties or {}
        self._layout = Layout(Path(), self._host)
        self._started = False
        self._daemons: dict[str, Daemon] = {}
        self._nodes: dict[str, Layout] = {}
        self._cgroup: MemoryCgroup | None = None

    def start(self) -> Self:
        """Start it and return it when its node takes containers and HDFS takes files.

        Takes about 15 s; half a minute more when the jars are to be fetched.

        Raises:
            RuntimeError: a daemon did not come up; names its log's last lines. Nothing is left.
        """
        jars()
        self._layout = Layout(remains.claim(), self._host, free_ports(self._ports()))
        self._started = True
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End all of it, containers too, and remove what it made; safe to repeat."""
        if self._started:
            remains.remove(self._layout.folder)
            self._started = False

    @property
    def folder(self) -> Path:
        """The folder of all its files; `log/` has what the daemons print."""
        return self._layout.folder

    @property
    def conf_dir(self) -> Path:
        """The folder of its configuration, for HADOOP_CONF_DIR."""
        return self._layout.conf_dir

    @property
    def superuser(self) -> str:
        """The superuser of HDFS: who started it."""
        return pwd.getpwuid(os.geteuid()).pw_name

    @property
    def resource_manager_url(self) -> str:
        """Where the ResourceManager's REST is: `<this>/ws/v1/cluster`."""
        return self._layout.url("resourcemanager-web")

    @property
    def webhdfs_url(self) -> str:
        """Where the NameNode's REST is: `<this>/webhdfs/v1/<path>`."""
        return self._layout.url("namenode-web")

    @property
    def data_node_url(self) -> str:
        """Where contents come and go: the NameNode's REST sends its clients there."""
        return self._layout.url("datanode-web")

    @property
    def memory_limit_bytes(self) -> int | None:
        """What all containers together may use before the kernel kills one; None: no such limit."""
        return MEMORY_LIMIT_BYTES if self._cgroup else None

    def environment(self, user: str | None = None) -> dict[str, str]:
        """Return the variables that make a process a client of it, `yarn` on PATH among them.

        Args:
            user: who the client says he is; the HDFS superuser by default.
        """
        return {
            "HADOOP_CONF_DIR": str(self.conf_dir),
            "HADOOP_USER_NAME": user or self.superuser,
            "JAVA_HOME": str(java_home()),
            "PATH": f"{self.folder}/bin:{os.environ['PATH']}",
        }

    def make_home(self, user: str) -> str:
        """Make a user's home folder in HDFS, his own; returns its path. Safe to repeat."""
        home = f"/user/{user}"
        self.make_folder(home, owner=user, permission="700")
        return home

    def make_folder(self, path: str, *, owner: str | None = None, permission: str = "755") -> None:
        """Make a folder in HDFS, with those above it; safe to repeat."""
        url = f"{self.webhdfs_url}/webhdfs/v1{path}?op="
        for operation in (
            "MKDIRS",
            f"SETPERMISSION&permission={permission}",
            f"SETOWNER&owner={owner or self.superuser}",
        ):
            self.call(url + operation, method="PUT")

    def call(
        self, url: str, *, user: str | None = None, method: str = "GET", body: Any = None
    ) -> Any:
        """Return the JSON that a daemon answers, None when it is empty.

        Args:
            url: of the daemon.
            user: who asks; the HDFS superuser by default.
            method: of HTTP.
            body: what is sent as JSON.

        Raises:
            urllib.error.HTTPError: the answer says that it failed; holds the body.
            OSError: nobody answers.
        """
        mark = "&" if "?" in url else "?"
        asking = f"{url}{mark}user.name={user or self.superuser}"
        return client.call(asking, method=method, body=body)

    def get(self, url: str) -> Any:
        """Return the JSON behind a URL of a daemon, None while nobody answers so."""
        try:
            return self.call(url)
        except (OSError, ValueError):
            return None

    def containers(self) -> dict[str, list[int]]:
        """Return the processes of every container that runs, by the container's id."""
        self.require_processes()
        return remains.containers(self.folder)

    def require_processes(self) -> None:
        """Skip the running test where the daemons are not ours to kill; here they are."""

    def process(self, daemon: str) -> Process | None:
        """Return the living process of a daemon."""
        return self._named(daemon).process()

    def log(self, daemon: str) -> Path:
        """Return the file of a daemon's output."""
        return self._named(daemon).log

    def stop_daemon(self, name: str) -> None:
        """End a daemon as its operator would; a NodeManager ends its containers before."""
        self._named(name).end(grace_s=30)

    def kill_daemon(self, name: str) -> None:
        """Kill a daemon, as a crash would; the containers of a NodeManager run on."""
        self._named(name).end(grace_s=0)

    def start_daemon(self, name: str) -> None:
        """Start a daemon that does not run, where it was; returns when it serves.

        A ResourceManager serves when it has the living nodes again.
        """
        self._named(name).spawn()
        self._named(name).await_ready()
        if name in self._resource_managers():
            for node in map(_daemon_of, self._nodes):
                if self.process(node):
                    self._daemons[node].await_ready()

    def restart(self, name: str) -> None:
        """Kill a daemon and start it again; returns when it serves."""
        self.kill_daemon(name)
        self.start_daemon(name)

    def start_node(self, name: str, *, properties: configuration.Properties | None = None) -> None:
        """Add a node, or start one that was stopped; returns when it takes containers.

        Args:
            name: of the node: its daemon is `nodemanager-<name>`.
            properties: of its own yarn-site, such as less memory.
        """
        self.require_processes()
        self._add_node(name, properties or {}).spawn()
        self._daemons[_daemon_of(name)].await_ready()

    def stop_node(self, name: str) -> None:
        """End a node with all that runs on it; YARN misses it after its liveness interval."""
        self.stop_daemon(_daemon_of(name))

    def node_id(self, name: str) -> str:
        """Return what YARN calls a node: its host and port."""
        layout = self._nodes[name]
        return next(str(node["id"]) for node in self._listed() if daemons.is_node(layout, node))

    def add_label(self, label: str) -> None:
        """Let nodes have a label; only with the option `node_labels` for it."""
        self.require_processes()
        url = f"{self.resource_manager_url}/ws/v1/cluster/add-node-labels"
        body = {"nodeLabelInfo": [{"name": label, "exclusivity": True}]}
        self.call(url, user=configuration.ADMIN, method="POST", body=body)

    def label_node(self, name: str, label: str) -> None:
        """Give a node a label that was added, in place of what it has; `""` takes it away."""
        node = self.node_id(name)
        url = f"{self.resource_manager_url}/ws/v1/cluster/nodes/{node}/replace-labels"
        self.call(f"{url}?labels={label}", user=configuration.ADMIN, method="POST")

    def _named(self, daemon: str) -> Daemon:
        self.require_processes()
        return self._daemons[daemon]

    def _start(self) -> None:
        self._write_files()
        for daemon in (*self._hdfs(), *self._yarn()):
            self._daemons[daemon.name] = daemon
        for node in self._first_nodes:
            self._add_node(node, {})
        hdfs = ("namenode", "datanode")
        for name, daemon in self._daemons.items():
            if name not in hdfs and daemon.process() is None:  # a Kerberos runs already
                daemon.spawn()
        self._format()
        for name in hdfs:
            self._daemons[name].spawn()
        for daemon in self._daemons.values():
            daemon.await_ready()
        self.make_folder("/tmp", permission="1777")
        self.make_folder("/user")

    def _write_files(self) -> None:
        layout = self._layout
        for name in ("tmp", "log", "processes"):
            (layout.folder / name).mkdir()
        configuration.write_log4j(layout.folder / "log4j.properties")
        configuration.write(layout.conf_dir, self._files())
        java = Path(f"{java_home()}/bin/java")
        client.write_command(layout.folder / "bin", conf=layout.conf_dir, jars=jars(), java=java)
        self._cgroup = MemoryCgroup.make(
            remains.CGROUP_PREFIX + layout.folder.name, MEMORY_LIMIT_BYTES
        )

    def _files(self, *further: configuration.Files) -> configuration.Files:
        return configuration.merged(
            configuration.cluster_files(self._layout, jars()),
            self._own_files(),
            self._properties,
            *further,
        )

    def _own_files(self) -> configuration.Files:
        """Return what is this kind of cluster's own."""
        return {"yarn-site": self._site()}

    def _site(self) -> dict[str, str]:
        return configuration.resource_manager_addresses(self._layout)

    def _ports(self) -> tuple[str, ...]:
        return (*HDFS_PORTS, *resource_manager_ports("resourcemanager"))

    def _resource_managers(self) -> tuple[str, ...]:
        return ("resourcemanager",)

    def _hdfs(self) -> Iterator[Daemon]:
        layout, get = self._layout, self.get
        yield self._daemon(
            "namenode", daemons.NAME_NODE, lambda _: daemons.name_node_serves(layout, get)
        )
        yield self._daemon(
            "datanode", daemons.DATA_NODE, lambda _: daemons.data_node_serves(layout, get)
        )

    def _yarn(self) -> Iterator[Daemon]:
        for name in self._resource_managers():
            yield self._resource_manager(name)

    def _resource_manager(self, name: str, *, conf_dir: Path | None = None) -> Daemon:
        url, get = self._layout.url(f"{name}-web"), self.get
        return self._daemon(
            name,
            daemons.RESOURCE_MANAGER,
            lambda _: daemons.resource_manager_serves(url, get),
            conf_dir=conf_dir,
        )

    def _daemon(
        self,
        name: str,
        main: str,
        serves: Callable[[int], bool],
        *arguments: str,
        conf_dir: Path | None = None,
    ) -> Daemon:
        command = daemons.java(self._layout, main, *arguments, heap_mb=_HEAP_MB, conf_dir=conf_dir)
        return Daemon(name, command, self._environment(), self._layout, serves)

    def _format(self) -> None:
        arguments = ("-format", "-force", "-nonInteractive")
        formatting = self._daemon("namenode-format", daemons.NAME_NODE, lambda _: False, *arguments)
        written = self.folder / "hdfs" / "name" / "current" / "VERSION"
        process = formatting.spawn()
        done = appears(lambda: not process.alive(), timeout_s=daemons.READY_S)
        if not done or not written.exists():
            raise RuntimeError(f"namenode -format: failed; {formatting.tail()}")

    def _add_node(self, name: str, properties: configuration.Properties) -> Daemon:
        layout = self._nodes.get(name) or self._new_node(name)
        self._nodes[name] = layout
        files = self._files(configuration.node_files(layout), {"yarn-site": properties})
        configuration.write(layout.conf_dir, files)
        daemon = self._daemon(
            _daemon_of(name),
            daemons.NODE_MANAGER,
            lambda since_ms: any(
                daemons.node_serves(layout, node, since_ms=since_ms) for node in self._listed()
            ),
            conf_dir=layout.conf_dir,
        )
        if self._cgroup:
            daemon = replace(daemon, cgroup=self._cgroup.procs)
        self._daemons[daemon.name] = daemon
        return daemon

    def _new_node(self, name: str) -> Layout:
        layouts = [self._layout, *self._nodes.values()]
        taken = {port for layout in layouts for port in layout.ports.values()}
        ports = free_ports(NODE_PORTS, taken)
        return Layout(self._layout.node_folder(name), self._layout.host, ports)

    def _environment(self) -> dict[str, str]:
        return daemons.environment(self._layout, user=self.superuser)

    def _listed(self) -> list[dict[str, Any]]:
        found = self.get(f"{self.resource_manager_url}/ws/v1/cluster/nodes") or {}
        nodes: list[dict[str, Any]] = (found.get("nodes") or {}).get("node", [])
        return nodes


def _daemon_of(node: str) -> str:
    return f"nodemanager-{node}"

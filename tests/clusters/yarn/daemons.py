"""The daemons of a cluster: processes of Java that say when they serve."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.clusters.processes import Process, appears, start
from tests.clusters.yarn.jars import jars, java_home
from tests.clusters.yarn.layout import Layout

Get = Callable[[str], Any]
"""Returns the JSON behind a URL of a daemon, None while there is no such answer."""

READY_S = 180.0

_HADOOP = "org.apache.hadoop"
NAME_NODE = f"{_HADOOP}.hdfs.server.namenode.NameNode"
DATA_NODE = f"{_HADOOP}.hdfs.server.datanode.DataNode"
RESOURCE_MANAGER = f"{_HADOOP}.yarn.server.resourcemanager.ResourceManager"
NODE_MANAGER = f"{_HADOOP}.yarn.server.nodemanager.NodeManager"

# Quick to start rather than fast, for they live short. Hadoop on Java 17 reflects on java.lang, and
# the JVM would leave its statistics in the machine's /tmp.
JVM_OPTIONS = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "--add-opens=java.base/java.lang=ALL-UNNAMED",
    "-Djava.net.preferIPv4Stack=true",
)


@dataclass(frozen=True)
class Daemon:
    """One daemon, running or not."""

    name: str
    command: list[str]
    environment: Mapping[str, str]
    layout: Layout
    """The cluster's, for its log and the record of its process."""
    serves: Callable[[int], bool]
    """Tells whether the one that was started at that time (in ms since 1970) serves."""
    cgroup: Path | None = None
    """The file that takes its number, for it and all that it starts."""

    @property
    def log(self) -> Path:
        """The file of its output."""
        return self.layout.log(self.name)

    def process(self) -> Process | None:
        """Return its living process."""
        return Process.read(self._record)

    def spawn(self) -> Process:
        """Start it; returns at once."""
        process = start(
            self.command, log=self.log, record=self._record, environment=self.environment,
            ahead=NODE_MANAGER not in self.command,  # which has the containers as children
        )  # fmt: skip
        if self.cgroup is not None:
            self.cgroup.write_text(str(process.pid))
        return process

    def await_ready(self) -> None:
        """Return when it serves.

        Raises:
            RuntimeError: it ended or took too long; holds the end of its log.
        """
        since_ms = int(self._record.stat().st_mtime * 1000)

        def settled() -> bool:
            return self.process() is None or self.serves(since_ms)

        if not appears(settled, timeout_s=READY_S, interval_s=0.2):
            raise RuntimeError(f"{self.name}: not ready in {READY_S} s; {self.tail()}")
        if self.process() is None:
            raise RuntimeError(f"{self.name}: ended; {self.tail()}")

    def end(self, *, grace_s: float) -> None:
        """End it by SIGTERM, after `grace_s` by SIGKILL; returns when it is gone."""
        if process := self.process():
            process.end(grace_s=grace_s)

    def tail(self) -> str:
        """Return the end of its log, for an error's text."""
        lines = self.log.read_text(errors="replace").splitlines()[-15:]
        return "the end of its log:\n" + "\n".join(lines)

    @property
    def _record(self) -> Path:
        return self.layout.record(self.name)


def java(
    layout: Layout,
    main: str,
    *arguments: str,
    heap_mb: int = 256,
    conf_dir: Path | None = None,
) -> list[str]:
    """Return the command line of one of Hadoop's programs, by default with the cluster's conf."""
    options = [
        f"-Xmx{heap_mb}m",
        *JVM_OPTIONS,
        f"-Djava.io.tmpdir={layout.folder}/tmp",
        f"-Dlog4j.configuration=file:{layout.folder}/log4j.properties",
    ]
    class_path = f"{conf_dir or layout.conf_dir}:{jars()}/*"
    return [f"{java_home()}/bin/java", *options, "-cp", class_path, main, *arguments]


def environment(layout: Layout, *, user: str) -> dict[str, str]:
    """Return all variables of a daemon; what YARN hands on to containers comes from there."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "JAVA_HOME": str(_quick_java_home(layout)),
        "HADOOP_CONF_DIR": str(layout.conf_dir),
        "HADOOP_USER_NAME": user,
    }


def _quick_java_home(layout: Layout) -> Path:
    """Return a folder whose java starts quickly: each application has a master of its own."""
    home = Path(layout.folder) / "java"
    program = home / "bin" / "java"
    if not program.exists():
        program.parent.mkdir(parents=True)
        quick = " ".join(JVM_OPTIONS[:3])
        program.write_text(f'#!/bin/sh\nexec "{java_home()}/bin/java" {quick} "$@"\n')
        program.chmod(0o755)
    return home


def name_node_serves(layout: Layout, get: Get) -> bool:
    """Tell whether the NameNode is out of its safe mode: then clients can write."""
    return _name_node_state(layout, get).get("FSState") == "Operational"


def data_node_serves(layout: Layout, get: Get) -> bool:
    """Tell whether the NameNode knows a DataNode that lives."""
    return bool(_name_node_state(layout, get).get("NumLiveDataNodes", 0) > 0)


def _name_node_state(layout: Layout, get: Get) -> Mapping[str, Any]:
    bean = f"{layout.url('namenode-web')}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"
    found: list[dict[str, Any]] = (get(bean) or {}).get("beans") or [{}]
    return found[0]


def resource_manager_serves(url: str, get: Get) -> bool:
    """Tell whether a ResourceManager, active or standing by, has started."""
    info = get(f"{url}/ws/v1/cluster/info") or {}
    return bool(info.get("clusterInfo", {}).get("state") == "STARTED")


def node_serves(layout: Layout, node: Mapping[str, Any], *, since_ms: int) -> bool:
    """Tell whether a node of the ResourceManager's list is that of `layout`, and takes containers.

    Args:
        layout: that of the node.
        node: an element of `/ws/v1/cluster/nodes`.
        since_ms: when its NodeManager was started, in milliseconds since 1970: what the
            ResourceManager knows from before is not it.
    """
    return bool(
        is_node(layout, node)
        and node["state"] == "RUNNING"
        and node["lastHealthUpdate"] >= since_ms
    )


def is_node(layout: Layout, node: Mapping[str, Any]) -> bool:
    """Tell whether a node of the ResourceManager's list is that of `layout`."""
    return str(node["nodeHTTPAddress"]).endswith(f":{layout.ports['node-web']}")

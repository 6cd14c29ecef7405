"""Hadoop's configuration files for a cluster of the tests.

Reference: https://hadoop.apache.org/docs/r3.4.1/ (core-default.xml, hdfs-default.xml,
yarn-default.xml, CapacityScheduler). What is set here differs from the defaults for a reason.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path

from tests.clusters.yarn.layout import Layout

Properties = Mapping[str, str]
Files = Mapping[str, Properties]
"""The properties of each file, by the file's name without `.xml`."""

ADMIN = "admin"
"""The user who administers YARN and all its queues."""
NODE_MEMORY_MB = 8192
NODE_VCORES = 8
QUEUES = ("default", "ml", "small", "closed", "stopped")
"""`small` never gets more than a quarter of the cluster, `closed` takes applications of the
administrator's only, `stopped` takes none."""

_NOBODY = " "
_LOG4J = """\
log4j.rootLogger=INFO, console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%d{ISO8601} %p %c{2}: %m%n
"""


def cluster_files(layout: Layout, jars: Path) -> dict[str, dict[str, str]]:
    """Return the files of all daemons and clients."""
    return {
        "core-site": _core(layout),
        "hdfs-site": _hdfs(layout),
        "yarn-site": {
            **_yarn(layout, jars),
            **_resource_manager(layout),
        },
        "capacity-scheduler": _capacity_scheduler(),
    }


def node_files(layout: Layout) -> dict[str, dict[str, str]]:
    """Return what is a NodeManager's own; `layout` is that of the node."""
    return {
        "yarn-site": {
            "yarn.nodemanager.hostname": layout.host,
            "yarn.nodemanager.address": layout.address("node"),
            "yarn.nodemanager.localizer.address": layout.address("node-localizer"),
            "yarn.nodemanager.webapp.address": layout.address("node-web"),
            "yarn.nodemanager.local-dirs": str(layout.folder / "local"),
            "yarn.nodemanager.log-dirs": str(layout.folder / "logs"),
        }
    }


def resource_manager_addresses(
    layout: Layout, *, daemon: str = "resourcemanager", suffix: str = ""
) -> dict[str, str]:
    """Return where a ResourceManager listens.

    Args:
        layout: the cluster's.
        daemon: what the names of its ports begin with.
        suffix: of the properties' names: a dot and its id, where there are two.
    """
    prefix = "yarn.resourcemanager"
    return {
        f"{prefix}.hostname{suffix}": layout.host,
        f"{prefix}.address{suffix}": layout.address(daemon),
        f"{prefix}.scheduler.address{suffix}": layout.address(f"{daemon}-scheduler"),
        f"{prefix}.resource-tracker.address{suffix}": layout.address(f"{daemon}-tracker"),
        f"{prefix}.admin.address{suffix}": layout.address(f"{daemon}-admin"),
        f"{prefix}.webapp.address{suffix}": layout.address(f"{daemon}-web"),
    }


def merged(*all_files: Files) -> dict[str, dict[str, str]]:
    """Return the properties of all; a later one wins."""
    result: dict[str, dict[str, str]] = {}
    for files in all_files:
        for name, properties in files.items():
            result.setdefault(name, {}).update(properties)
    return result


def write(folder: Path, files: Files) -> None:
    """Write the files into a folder, made if need be; a file there is replaced as a whole."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, properties in files.items():
        root = ET.Element("configuration")
        for key, value in sorted(properties.items()):
            entry = ET.SubElement(root, "property")
            ET.SubElement(entry, "name").text = key
            ET.SubElement(entry, "value").text = value
        ET.indent(root)
        part = folder / f"{name}.xml.part"
        ET.ElementTree(root).write(part, encoding="utf-8", xml_declaration=True)
        part.rename(folder / f"{name}.xml")


def read(path: Path) -> dict[str, str]:
    """Return the properties of one file of Hadoop's; empty when it is not there."""
    if not path.exists():
        return {}
    entries = ET.parse(path).getroot().iter("property")
    return {entry.findtext("name", ""): entry.findtext("value", "") for entry in entries}


def write_log4j(path: Path) -> None:
    """Write what makes a daemon log to its output."""
    path.write_text(_LOG4J)


def _core(layout: Layout) -> dict[str, str]:
    return {
        "fs.defaultFS": f"hdfs://{layout.address('namenode')}",
        "hadoop.tmp.dir": str(layout.folder / "tmp"),
        # A client of a daemon that a test has killed is to say so soon.
        "ipc.client.connect.max.retries": "3",
        "ipc.client.connect.retry.interval": "500",
        "ipc.client.connect.max.retries.on.timeouts": "3",
    }


def _hdfs(layout: Layout) -> dict[str, str]:
    return {
        "dfs.replication": "1",
        "dfs.permissions.enabled": "true",
        "dfs.namenode.name.dir": f"file://{layout.folder}/hdfs/name",
        "dfs.datanode.data.dir": f"file://{layout.folder}/hdfs/data",
        "dfs.namenode.http-address": layout.address("namenode-web"),
        "dfs.datanode.address": layout.address("datanode"),
        "dfs.datanode.http.address": layout.address("datanode-web"),
        "dfs.datanode.ipc.address": layout.address("datanode-ipc"),
        # WebHDFS sends clients there by name.
        "dfs.datanode.hostname": layout.host,
        "dfs.namenode.safemode.extension": "0",
        "dfs.namenode.datanode.registration.ip-hostname-check": "false",
        "dfs.namenode.fs-limits.min-block-size": "0",
        # A writer may ask to close a file before the DataNode's report of the block was heard. By
        # default it then waits for 400 ms, which is most of what a small file takes; here it asks
        # again soon, and for as long.
        "dfs.client.block.write.locateFollowingBlock.initial.delay.ms": "10",
        "dfs.client.block.write.locateFollowingBlock.retries": "10",
    }


def _yarn(layout: Layout, jars: Path) -> dict[str, str]:
    return {
        "yarn.acl.enable": "true",
        "yarn.admin.acl": ADMIN,  # the default lets everybody do everything
        "yarn.application.classpath": f"{layout.conf_dir},{jars}/*",
        "yarn.log-aggregation-enable": "true",
        "yarn.nodemanager.remote-app-log-dir": "/tmp/logs",
        "yarn.nodemanager.env-whitelist": "JAVA_HOME,PATH",
        "yarn.nodemanager.resource.memory-mb": str(NODE_MEMORY_MB),
        "yarn.nodemanager.resource.cpu-vcores": str(NODE_VCORES),
        # A container over its memory is killed by the NodeManager, who looks often. By default
        # Hadoop 3.4 leaves that to cgroups of its own, which nothing here has.
        "yarn.nodemanager.pmem-check-enabled": "true",
        "yarn.nodemanager.resource.memory.enforced": "false",
        "yarn.nodemanager.container-monitor.interval-ms": "300",
        "yarn.nodemanager.vmem-check-enabled": "false",
        # A full disk of the machine is none of the tests' business.
        "yarn.nodemanager.disk-health-checker.enable": "false",
        # A node outlives a ResourceManager that is away.
        "yarn.nodemanager.resourcemanager.connect.max-wait.ms": "-1",
    }


def _resource_manager(layout: Layout) -> dict[str, str]:
    return {
        "yarn.resourcemanager.cluster-id": layout.cluster_id,
        "yarn.resourcemanager.scheduler.class": (
            "org.apache.hadoop.yarn.server.resourcemanager.scheduler.capacity.CapacityScheduler"
        ),
        "yarn.resourcemanager.recovery.enabled": "true",
        "yarn.resourcemanager.work-preserving-recovery.enabled": "true",
        "yarn.resourcemanager.work-preserving-recovery.scheduling-wait-ms": "1000",
        "yarn.resourcemanager.store.class": (
            "org.apache.hadoop.yarn.server.resourcemanager.recovery.FileSystemRMStateStore"
        ),
        "yarn.resourcemanager.fs.state-store.uri": f"file://{layout.folder}/resourcemanager-state",
        "yarn.scheduler.minimum-allocation-mb": "128",
        "yarn.scheduler.maximum-allocation-mb": str(NODE_MEMORY_MB),
        "yarn.scheduler.maximum-allocation-vcores": str(NODE_VCORES),
        # Several nodes are on one host here.
        "yarn.scheduler.include-port-in-node-name": "true",
        # Everything happens at a heartbeat.
        "yarn.resourcemanager.nodemanagers.heartbeat-interval-ms": "200",
        # By default ten minutes each.
        "yarn.nm.liveness-monitor.expiry-interval-ms": "20000",
        "yarn.am.liveness-monitor.expiry-interval-ms": "60000",
        "yarn.resourcemanager.container.liveness-monitor.interval-ms": "5000",
        "yarn.client.nodemanager-connect.max-wait-ms": "10000",
        "yarn.resourcemanager.connect.max-wait.ms": "60000",
        "yarn.resourcemanager.connect.retry-interval.ms": "500",
    }


def _capacity_scheduler() -> dict[str, str]:
    root = "yarn.scheduler.capacity.root"
    percent = {"default": "50", "ml": "30", "small": "10", "closed": "5", "stopped": "5"}
    properties = {
        "yarn.scheduler.capacity.maximum-am-resource-percent": "0.8",
        "yarn.scheduler.capacity.resource-calculator": (
            "org.apache.hadoop.yarn.util.resource.DominantResourceCalculator"
        ),
        f"{root}.queues": ",".join(QUEUES),
        # A right to a queue is one to all below it.
        f"{root}.acl_submit_applications": _NOBODY,
        f"{root}.acl_administer_queue": ADMIN,
        f"{root}.small.maximum-capacity": "25",
        f"{root}.stopped.state": "STOPPED",
    }
    for queue in QUEUES:
        properties[f"{root}.{queue}.capacity"] = percent[queue]
        # One user may fill what is free.
        properties[f"{root}.{queue}.user-limit-factor"] = "20"
        properties[f"{root}.{queue}.acl_administer_queue"] = ADMIN
        submitters = _NOBODY if queue == "closed" else "*"
        properties[f"{root}.{queue}.acl_submit_applications"] = submitters
    return properties

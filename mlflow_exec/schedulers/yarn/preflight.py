"""What can be said of an application before it is submitted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from mlflow_exec.clients.hadoop_config import HadoopConfig
from mlflow_exec.clients.yarn import ResourceManager
from mlflow_exec.errors import ClusterError, ConfigError, UnreachableError
from mlflow_exec.schedulers.yarn.queues import (
    find_queue,
    is_parent,
    largest_container,
    largest_node,
    makes_queues,
    may_submit,
    queues_in,
)

Json = Mapping[str, Any]

_FULL_PERCENT = 0.01


def check_application(
    manager: ResourceManager, config: HadoopConfig, application: Json, user: str
) -> list[str]:
    """Refuse what YARN would refuse for ever; return warnings of what is only so now.

    Args:
        manager: The cluster.
        config: Its configuration.
        application: As it would be submitted, templates and patches included.
        user: Whose it would be.

    Raises:
        ConfigError: The queue, the label or the size is impossible.
        ClusterError: The cluster cannot be asked.
    """
    warnings: list[str] = []
    queue = str(application.get("queue") or "default")
    info = manager.queues()
    warnings += _check_queue(config, info, queue, user)
    asked = application["master"]["resources"]
    everywhere = [node for node in manager.nodes() if node.get("state") == "RUNNING"]
    _check_size(info, queue, asked, everywhere)
    label = str(application.get("node_label") or "")
    if label:
        _check_label(manager, label)
        nodes = [node for node in everywhere if label in _listed(node.get("nodeLabels"))]
        warnings += _unfit(nodes, asked, label)
    return warnings


def check_logs(config: HadoopConfig) -> list[str]:
    """Return a warning where nobody gathers the logs of applications."""
    told = config.get("yarn.log-aggregation-enable")
    if told and told.lower() != "true":
        return [
            "yarn.log-aggregation-enable is false in yarn-site.xml: a log is read from its node "
            "only, and its end may be lost"
        ]
    return []


def _check_queue(config: HadoopConfig, info: Json, name: str, user: str) -> list[str]:
    queue = find_queue(info, name)
    if queue is None:
        return _check_unknown(info, name)
    state = str(queue.get("state") or "RUNNING")
    if state != "RUNNING":
        raise ConfigError(f"queue: {queue['path']} is {state} and takes no applications")
    warnings = []
    if may_submit(info, queue, user, config.get("yarn.admin.acl")) is False:
        text = (
            f"queue: {user!r} may not submit to {queue['path']}; ask for the right "
            f"(acl_submit_applications), or use another 'queue'"
        )
        if config.get("yarn.acl.enable").lower() == "true":
            raise ConfigError(text)
        # This machine's configuration does not say that YARN looks at these lists.
        warnings.append(text)
    used, limit = queue.get("absoluteUsedCapacity"), queue.get("absoluteMaxCapacity")
    if used is not None and limit is not None and float(limit) - float(used) < _FULL_PERCENT:
        warnings.append(f"queue {queue['path']} is full now; the job waits")
    return warnings


def _check_unknown(info: Json, name: str) -> list[str]:
    """Refuse a queue that nobody knows, unless one above it, or a rule, may make it."""
    known = list(queues_in(info))
    above = (name if name.startswith("root.") else f"root.{name}").rpartition(".")[0]
    makers = [q for q in known if q["path"] == above and makes_queues(q)]
    if makers or info.get("type") != "capacityScheduler":
        return [f"queue: {name!r} does not exist yet; YARN may make it, or refuse the job"]
    leaves = sorted(str(q["path"]).removeprefix("root.") for q in known if not is_parent(q))
    close = get_close_matches(name, leaves, n=1)
    guess = f" (did you mean {close[0]!r}?)" if close else ""
    raise ConfigError(f"queue: there is no queue {name!r}{guess}. Known: {', '.join(leaves)}")


def _check_size(info: Json, name: str, asked: Json, nodes: Sequence[Json]) -> None:
    """Refuse a container that is larger than what the queue, or any node, gives one.

    YARN refuses what no node that is there could hold, too.
    """
    largest = largest_container(find_queue(info, name) or info) or largest_container(info)
    for key, most in largest_node(nodes).items():
        largest[key] = min(largest.get(key, most), most)
    for key, ours, unit in (
        ("memory", "memory", " MiB"), ("vcores", "cpu", " vcores"), ("gpus", "gpu", " GPUs"),
    ):  # fmt: skip
        wanted, limit = int(asked.get(key) or 0), largest.get(key)
        if limit is None and key == "gpus" and wanted and largest:
            raise ConfigError("resources.gpu: the cluster has no resource 'yarn.io/gpu'")
        if limit is not None and wanted > limit:
            raise ConfigError(
                f"resources.{ours}: {wanted}{unit} are asked for, and the cluster gives a "
                f"container {limit}{unit} at most"
            )


def _check_label(manager: ResourceManager, label: str) -> None:
    try:
        known = [str(item.get("name")) for item in manager.labels()]
    except UnreachableError:
        raise
    except ClusterError:
        known = []
    if label not in known:
        there = ", ".join(name for name in known if name) or "none"
        raise ConfigError(f"node_label: there is no label {label!r}. Known: {there}")


def _unfit(nodes: Sequence[Json], asked: Json, label: str) -> list[str]:
    """Return a warning where no node that runs now is large enough for the container."""
    memory_mib, vcores = int(asked.get("memory") or 0), int(asked.get("vcores") or 0)
    for node in nodes:
        total_mib = int(node.get("usedMemoryMB") or 0) + int(node.get("availMemoryMB") or 0)
        cores = int(node.get("usedVirtualCores") or 0) + int(
            node.get("availableVirtualCores") or 0
        )
        if total_mib >= memory_mib and cores >= vcores:
            return []
    of = f" with the label {label!r}" if label else ""
    return [
        f"resources: no node{of} that runs now can hold {memory_mib} MiB and {vcores} vcores; "
        f"the job waits for one"
    ]


def _listed(labels: Any) -> list[str]:
    if isinstance(labels, Mapping):
        labels = labels.get("string") or labels.get("nodeLabel") or []
    return [labels] if isinstance(labels, str) else [str(label) for label in labels or ()]

"""The queues of a cluster, out of what its ResourceManager tells of its scheduler.

https://hadoop.apache.org/docs/r3.4.1/hadoop-yarn/hadoop-yarn-site/ResourceManagerRest.html
#Cluster_Scheduler_API; what is in no documentation is from CapacitySchedulerQueueInfo.java.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mlflow_exec.errors import ConfigError

Json = Mapping[str, Any]


def queues_in(info: Json) -> Iterator[Json]:
    """Yield every queue of a scheduler's tree with its path in ``path``, parents first."""
    yield from _below(info, "")


def _below(queue: Json, above: str) -> Iterator[Json]:
    name = str(queue.get("queueName") or queue.get("rootQueue", {}).get("queueName") or "root")
    # The fair scheduler names a queue by its whole path, the capacity scheduler by its last part.
    path = str(queue.get("queuePath") or (f"{above}.{name}" if above and "." not in name else name))
    inner = queue.get("queues") or queue.get("childQueues") or queue.get("rootQueue") or {}
    children = inner.get("queue") if "queue" in inner else [inner] if "queueName" in inner else []
    children = children if isinstance(children, list) else [children]
    yield {**queue, "path": path, "is_parent": bool(children)}
    for child in children:
        yield from _below(child, path)


def find_queue(info: Json, name: str) -> Json | None:
    """Return the queue that YARN takes a name for; None if it is not told.

    Raises:
        ConfigError: The name fits several queues, or one that takes no applications by itself.
    """
    known = list(queues_in(info))
    full = name if name.startswith("root") else f"root.{name}"
    found = [queue for queue in known if queue["path"] in (name, full)]
    found = found or [queue for queue in known if str(queue["path"]).rpartition(".")[2] == name]
    leaves = [queue for queue in found if not is_parent(queue)]
    if len(leaves) > 1:
        paths = ", ".join(str(queue["path"]) for queue in leaves)
        raise ConfigError(f"queue: {name!r} fits several queues: {paths}; give the whole path")
    if found and not leaves and not makes_queues(found[0]):
        below = [str(q["path"]) for q in known if str(q["path"]).startswith(f"{found[0]['path']}.")]
        raise ConfigError(
            f"queue: {found[0]['path']!r} takes no applications by itself; choose one of "
            f"{', '.join(below)}"
        )
    return leaves[0] if leaves else found[0] if found else None


def is_parent(queue: Json) -> bool:
    """Whether a queue only has others below it."""
    return bool(queue["is_parent"]) or str(queue.get("queueType") or queue.get("type")) == "parent"


def makes_queues(queue: Json) -> bool:
    """Whether a queue makes others below it when applications ask for them."""
    eligible = str(queue.get("autoCreationEligibility") or "off").lower()
    return eligible != "off" or bool(queue.get("leafQueueTemplate"))


def may_submit(info: Json, queue: Json, user: str, administrators: str = "") -> bool | None:
    """Whether a user may submit to a queue, by its lists and those above; None if not told.

    Args:
        info: The scheduler.
        queue: One of `queues_in`.
        user: The user; groups are known to the cluster only.
        administrators: The list of the cluster's (``yarn.admin.acl``).
    """
    path = str(queue["path"])
    above = [q for q in queues_in(info) if path == q["path"] or path.startswith(f"{q['path']}.")]
    lists = [administrators]
    for each in above:
        found = (each.get("queueAcls") or {}).get("queueAcl")
        if not found:
            return None  # before Hadoop 3.3
        entries = found if isinstance(found, list) else [found]
        lists += [
            str(entry.get("accessControlList") or "")
            for entry in entries
            if entry.get("accessType") in ("SUBMIT_APP", "ADMINISTER_QUEUE")
        ]
    users, groups = zip(*(text.partition(" ")[::2] for text in lists), strict=True)
    if any("*" in text or user in text.split(",") for text in users):
        return True
    return None if any(text.strip() for text in groups) else False


def largest_container(queue: Json) -> dict[str, int]:
    """Return what a container may have at most: ``memory`` (MiB), ``vcores``, ``gpus``.

    Empty where a queue does not tell.
    """
    return _resources(queue.get("maximumAllocation"))


def largest_node(nodes: Iterable[Json]) -> dict[str, int]:
    """Return the most of each resource that a node has, as in `largest_container`."""
    found: dict[str, int] = {}
    for node in nodes:
        for key, amount in _resources(node.get("totalResource")).items():
            found[key] = max(amount, found.get(key, 0))
    return found


def _resources(told: Any) -> dict[str, int]:
    if not isinstance(told, Mapping) or "memory" not in told:
        return {}
    found = {"memory": int(told["memory"]), "vcores": int(told["vCores"])}
    told = (told.get("resourceInformations") or {}).get("resourceInformation") or []
    for entry in told if isinstance(told, list) else [told]:
        if entry.get("name") == "yarn.io/gpu":
            found["gpus"] = int(entry.get("value") or 0)
    return found

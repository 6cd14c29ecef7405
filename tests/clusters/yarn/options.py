"""What a cluster of the tests can have besides: further properties for `YarnCluster`."""

from __future__ import annotations

from tests.clusters.yarn.configuration import QUEUES

_GPU = "yarn.io/gpu"
_CAPACITY = "yarn.scheduler.capacity"

Option = dict[str, dict[str, str]]


def preemption() -> Option:
    """Return what lets a queue take back its share, within seconds, from one that has more."""
    policy = "yarn.resourcemanager.monitor.capacity.preemption"
    return {
        "yarn-site": {
            "yarn.resourcemanager.scheduler.monitor.enable": "true",
            f"{policy}.monitoring_interval": "500",
            f"{policy}.max_wait_before_kill": "1000",
            f"{policy}.total_preemption_per_round": "1.0",
            f"{policy}.natural_termination_factor": "1.0",
            f"{policy}.max_ignored_over_capacity": "0.0",
        }
    }


def priorities(highest: int) -> Option:
    """Return what lets applications have a priority above 0."""
    return {"yarn-site": {"yarn.cluster.max-application-priority": str(highest)}}


def gpus(count: int) -> Option:
    """Return what gives every node a number of GPUs that nobody looks for; YARN counts them."""
    return {
        "resource-types": {"yarn.resource-types": _GPU},
        "node-resources": {f"yarn.nodemanager.resource-type.{_GPU}": str(count)},
    }


def proxy_user(user: str) -> Option:
    """Return what lets a user act as any other."""
    name = f"hadoop.proxyuser.{user}"
    return {"core-site": {f"{name}.hosts": "*", f"{name}.groups": "*"}}


def node_labels(*labels: str) -> Option:
    """Return what allows labels on nodes, and gives all of theirs to the queues; see `add_label`.

    Without more, a label's nodes take only what asks for the label.
    """
    scheduler = {f"{_CAPACITY}.root.accessible-node-labels": "*"}
    for queue in QUEUES:
        scheduler[f"{_CAPACITY}.root.{queue}.accessible-node-labels"] = "*"
    for label in labels:
        scheduler[f"{_CAPACITY}.root.accessible-node-labels.{label}.capacity"] = "100"
        for queue in QUEUES:
            share = "100" if queue == "default" else "0"
            name = f"{_CAPACITY}.root.{queue}.accessible-node-labels.{label}"
            scheduler |= {f"{name}.capacity": share, f"{name}.maximum-capacity": "100"}
    return {
        "yarn-site": {
            "yarn.node-labels.enabled": "true",
            "yarn.node-labels.fs-store.root-dir": "file://${hadoop.tmp.dir}/node-labels",
        },
        "capacity-scheduler": scheduler,
    }

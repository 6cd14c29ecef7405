"""Applications for tests, straight by the ResourceManager's REST.

https://hadoop.apache.org/docs/r3.4.1/hadoop-yarn/hadoop-yarn-site/ResourceManagerRest.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests.clusters.processes import appears
from tests.clusters.yarn.cluster import YarnCluster
from tests.clusters.yarn.configuration import ADMIN

_ENDS = ("FINISHED", "FAILED", "KILLED")


def submit(
    cluster: YarnCluster,
    command: str,
    *,
    user: str = "me",
    queue: str = "default",
    memory_mb: int = 128,
    tags: Iterable[str] = (),
    further: Mapping[str, Any] | None = None,
) -> str:
    """Submit a shell command as an application's master and return the application's id.

    It never registers: it is ACCEPTED while it runs, and FAILED when it ends, whatever its exit
    code.

    Args:
        cluster: where.
        command: what a shell runs; its output goes to the container's `stdout` and `stderr`. YARN
            puts it between double quotes as it is, so it has none.
        user: who submits it.
        queue: to which queue.
        memory_mb: of the container.
        tags: of the application.
        further: further keys of the submission, such as `priority`. Of resources, REST heeds memory
            and cores only.

    Raises:
        urllib.error.HTTPError: it is refused.
    """
    apps = f"{cluster.resource_manager_url}/ws/v1/cluster/apps"
    name = str(cluster.call(f"{apps}/new-application", user=user, method="POST")["application-id"])
    redirected = f"({command}) 1><LOG_DIR>/stdout 2><LOG_DIR>/stderr"
    body: Mapping[str, Any] = {
        "application-id": name,
        "application-name": "of the tests",
        "application-type": "TEST",
        "application-tags": {"tag": list(tags)},
        "queue": queue,
        "max-app-attempts": 1,
        "resource": {"memory": memory_mb, "vCores": 1},
        "am-container-spec": {"commands": {"command": redirected}},
        **(further or {}),
    }
    cluster.call(apps, user=user, method="POST", body=body)
    return name


def report(cluster: YarnCluster, application: str, *, user: str = "me") -> dict[str, Any]:
    """Return the ResourceManager's record of an application."""
    url = f"{cluster.resource_manager_url}/ws/v1/cluster/apps/{application}"
    found: dict[str, Any] = cluster.call(url, user=user)["app"]
    return found


def running(cluster: YarnCluster, application: str) -> bool:
    """Tell whether a process of an application runs on a node."""
    number = application.removeprefix("application_")
    return any(f"_{number}_" in container for container in cluster.containers())


def ended(cluster: YarnCluster, application: str, *, timeout_s: float = 120) -> dict[str, Any]:
    """Return the record of an application once it has ended; fails when it does not."""
    assert appears(
        lambda: report(cluster, application)["state"] in _ENDS,
        timeout_s=timeout_s,
        interval_s=0.2,
    ), report(cluster, application)
    return report(cluster, application)


def kill(cluster: YarnCluster, application: str, *, user: str = "me") -> None:
    """Ask for the end of an application; it takes a moment.

    Raises:
        urllib.error.HTTPError: 403: the user has no right to.
    """
    url = f"{cluster.resource_manager_url}/ws/v1/cluster/apps/{application}/state"
    cluster.call(url, user=user, method="PUT", body={"state": "KILLED"})


def tagged(cluster: YarnCluster, tag: str, *, user: str = "me") -> list[str]:
    """Return the ids of the applications with a tag, ended ones too."""
    apps = f"{cluster.resource_manager_url}/ws/v1/cluster/apps"
    found = (cluster.call(f"{apps}?applicationTags={tag}", user=user) or {}).get("apps") or {}
    return [str(app["id"]) for app in found.get("app", [])]


def kill_all(cluster: YarnCluster) -> None:
    """End every application of a cluster that the tests started; returns when none is left."""
    url = f"{cluster.resource_manager_url}/ws/v1/cluster/apps"
    states = "NEW,NEW_SAVING,SUBMITTED,ACCEPTED,RUNNING"
    living = (cluster.call(f"{url}?states={states}", user=ADMIN)["apps"] or {}).get("app", [])
    for app in living:
        kill(cluster, app["id"], user=ADMIN)
    for app in living:
        ended(cluster, app["id"])
    assert appears(lambda: not cluster.containers(), timeout_s=60), cluster.containers()

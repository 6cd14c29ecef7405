"""One watch of a namespace serves all who follow its jobs, and outlives what happens to it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.nobody import complete, make_job
from benchmarks.sent import sent
from mlflow_exec.clients.kubernetes import KubernetesClient, object_path
from mlflow_exec.clients.kubernetes_config import from_kubeconfig
from mlflow_exec.clients.kubernetes_watch import ListWatch
from mlflow_exec.jobs import JobHandle, JobState
from mlflow_exec.schedulers.kubernetes import KubernetesScheduler
from mlflow_exec.schedulers.kubernetes.objects import essential
from mlflow_exec.settings import KubernetesSettings, parse_settings
from mlflow_exec.testing.collecting import Collected, until
from tests.clusters.pytest_kubernetes import KubernetesCluster

Make = Callable[[], JobHandle]


@pytest.fixture
def client(kubernetes_cluster: KubernetesCluster) -> KubernetesClient:
    return from_kubeconfig(kubernetes_cluster.context, str(kubernetes_cluster.kubeconfig))


@pytest.fixture
def make(client: KubernetesClient, namespace: str) -> Make:
    """Make a Job that nobody runs, so that it ends when a test says so."""

    def made() -> JobHandle:
        return make_job(client, uuid.uuid4().hex, namespace)

    return made


@pytest.fixture
def scheduler(kubernetes_cluster: KubernetesCluster, namespace: str) -> KubernetesScheduler:
    return new_scheduler(kubernetes_cluster, namespace)


def new_scheduler(cluster: KubernetesCluster, namespace: str) -> KubernetesScheduler:
    config = {
        "kubeconfig": str(cluster.kubeconfig), "context": cluster.context, "namespace": namespace,
    }  # fmt: skip
    return KubernetesScheduler(parse_settings(KubernetesSettings, config, "test"))


def test_many_who_follow_share_one_watch(
    kubernetes_cluster: KubernetesCluster, namespace: str, client: KubernetesClient, make: Make
) -> None:
    handles = [make() for _ in range(30)]
    with sent() as noted:
        # As many handles of mlflow.projects.run: a scheduler, and a thread that waits, for each.
        seen = [
            Collected(new_scheduler(kubernetes_cluster, namespace).watch([handle]))
            for handle in [*handles, *handles]
        ]
        for one in seen:
            one.until(bool, "a first status")
        for handle in handles:
            complete(client, handle)
        for one in seen:
            (_, last) = one.all()[-1]
            assert last is not None
            assert last.state is JobState.SUCCEEDED
    asked = [request for request in noted.requests if request.method == "GET"]
    # The watch begins anew while the first ones join; alone, each would make four requests.
    assert len(asked) <= 2 * len(seen), f"{len(asked)} requests for {len(seen)} who follow"


def test_who_asks_again_and_again_costs_nothing(
    scheduler: KubernetesScheduler, client: KubernetesClient, make: Make
) -> None:
    handle = make()
    until(lambda: not scheduler.glance(handle).native, "the job is followed")
    with sent() as noted:
        assert {scheduler.glance(handle).state for _ in range(500)} == {JobState.QUEUED}
        assert len(noted.requests) <= 1
    complete(client, handle)
    until(lambda: scheduler.glance(handle).state is JobState.SUCCEEDED, "the end is told", 30)


def test_somebody_who_comes_later_is_told_the_same(
    scheduler: KubernetesScheduler, client: KubernetesClient, make: Make
) -> None:
    handle = make()
    first = Collected(scheduler.watch([handle]))
    first.until(bool, "a first status")
    second = Collected(scheduler.watch([handle, make()]))
    second.until(lambda said: handle in [item for item, _ in said], "the status of the first job")
    complete(client, handle)
    assert [status and status.state for _, status in first.all()][-1] is JobState.SUCCEEDED
    third = Collected(scheduler.watch([handle]))
    ((_, last),) = third.all()
    assert last is not None
    assert (last.state, bool(last.native)) == (JobState.SUCCEEDED, True)


def test_a_job_deleted_while_others_join_is_told_as_deleted(
    scheduler: KubernetesScheduler, client: KubernetesClient, make: Make
) -> None:
    gone, other = make(), make()
    first = Collected(scheduler.watch([gone]))
    first.until(bool, "a first status")
    path = object_path("jobs", gone.path[0], gone.name, group="batch/v1")
    client.request("DELETE", path, body={"propagationPolicy": "Background"})
    Collected(scheduler.watch([other])).until(bool, "the watch has begun anew")
    assert [status and status.state for _, status in first.all()][-1] is JobState.CANCELLED


def test_a_watch_that_is_too_old_lists_again_and_tells_the_differences(
    client: KubernetesClient, namespace: str, make: Make
) -> None:
    gone, stays = make(), make()
    path = object_path("jobs", namespace, group="batch/v1")
    watch = ListWatch(client, path, "", essential)
    seen = Collected(watch.events())
    seen.until(lambda events: events[-1].kind == "SYNCED" if events else False, "the first list")
    version = watch._version
    watch.stop()
    seen.all()
    client.request("DELETE", f"{path}/{gone.name}", body={"propagationPolicy": "Background"})
    # The server has compacted what this version stands for: it answers 410.
    watch._version, watch._stopped = "1", threading.Event()
    again = Collected(watch.events())
    again.until(lambda events: any(e.kind == "SYNCED" for e in events), "the second list")
    changes = {(e.kind, name_of(e)) for e in again.items if e.packed}
    assert ("DELETED", gone.name) in changes
    assert not any(name == stays.name for _, name in changes), "what has not changed is not told"
    assert int(watch._version) >= int(version)
    watch.stop()


def name_of(event: Any) -> str:
    return str(event.object["metadata"]["name"])

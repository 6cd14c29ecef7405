"""An API server that is slow, refuses, falls silent or forgets costs tries, and nothing else."""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.nobody import complete, fail, make_job, make_pod, set_container
from mlflow_exec.clients.kubernetes import KubernetesClient, object_path
from mlflow_exec.clients.kubernetes_config import from_kubeconfig
from mlflow_exec.clients.kubernetes_watch import Event, ListWatch
from mlflow_exec.errors import UnreachableError
from mlflow_exec.jobs import FailureCategory, JobHandle, JobState
from mlflow_exec.schedulers.kubernetes import KubernetesScheduler
from mlflow_exec.schedulers.kubernetes.objects import essential
from mlflow_exec.settings import KubernetesSettings, parse_settings
from mlflow_exec.testing.collecting import Collected, until, within
from mlflow_exec.testing.jobs import JobMaker, snapshot
from tests.clusters.kubernetes.faulty_api import (
    RETRY_AFTER_S,
    Asked,
    FaultyApi,
    each_once,
    faulty_api,
)
from tests.clusters.pytest_kubernetes import KubernetesCluster

CONTEXT = "through the proxy"
# Docs: a connection that the network has dropped is noticed after so long, by TCP.
NOTICED_S = 40.0


@pytest.fixture
def api(kubernetes_cluster: KubernetesCluster) -> Iterator[FaultyApi]:
    with kubernetes_cluster.api_client() as api_client, faulty_api(api_client) as api:
        yield api


@pytest.fixture
def kubeconfig(api: FaultyApi, tmp_path: Path) -> Path:
    return api.kubeconfig(tmp_path / "kubeconfig", CONTEXT)


@pytest.fixture
def client(kubeconfig: Path) -> KubernetesClient:
    """A client that goes through the proxy."""
    return from_kubeconfig(CONTEXT, str(kubeconfig))


@pytest.fixture
def direct(kubernetes_cluster: KubernetesCluster) -> KubernetesClient:
    """A client that does not, by which a test changes things."""
    return from_kubeconfig(kubernetes_cluster.context, str(kubernetes_cluster.kubeconfig))


@pytest.fixture
def make(direct: KubernetesClient, namespace: str) -> Callable[[], JobHandle]:
    """Make a Job that nobody runs, so that it ends when a test says so."""

    def made() -> JobHandle:
        return make_job(direct, uuid.uuid4().hex, namespace)

    return made


@pytest.fixture
def maker(
    kubernetes_cluster: KubernetesCluster, kubeconfig: Path, namespace: str, tmp_path: Path
) -> Iterator[JobMaker]:
    base = {
        "kubeconfig": str(kubeconfig), "context": CONTEXT, "namespace": namespace,
        "image": kubernetes_cluster.image, "image_pull_policy": "IfNotPresent",
    }  # fmt: skip
    made = JobMaker(
        KubernetesScheduler,
        lambda more: parse_settings(KubernetesSettings, {**base, **more}, "test"),
        tmp_path / "projects",
    )
    yield made
    made.close()


@pytest.mark.parametrize("fault", ["429", "answer broken"])
def test_every_request_may_fail_once(
    api: FaultyApi, maker: JobMaker, direct: KubernetesClient, namespace: str, fault: str
) -> None:
    api.choose = each_once(fault)
    spec = maker.spec("print('it ran')")
    scheduler, plan = maker.plan(spec)
    scheduler.check(plan)
    ended = maker.submit_spec(spec)
    assert ended.ends().state is JobState.SUCCEEDED
    assert ended.log().count("it ran\n") == 1
    assert scheduler.status(ended.handle).state is JobState.SUCCEEDED
    assert [h.name for h in snapshot(scheduler, spec.run_id)] == [ended.handle.name]
    assert all(finding.ok for finding in scheduler.diagnose())
    scheduler.retire(ended.handle, 3600)
    stopped = maker.submit("import time; time.sleep(600)")
    stopped.reaches(JobState.RUNNING)
    within(60, lambda: scheduler.cancel(stopped.handle, timeout_s=60))

    path = object_path("jobs", namespace, group="batch/v1")
    (left,) = direct.request("GET", path)["items"]
    assert left["metadata"]["name"] == ended.handle.name
    assert left["spec"]["ttlSecondsAfterFinished"] == 3600
    assert len([asked for asked in api.asked if asked.fault]) > 15
    # Waiting for a job and its pods to go is asking again; nothing else is asked often.
    once = [a for a in api.asked if "pods" not in a.path and stopped.handle.name not in a.path]
    often = Counter((a.method, a.target, a.content) for a in once)
    assert max(often.values()) <= 6, often.most_common(3)


def test_who_is_asked_to_wait_waits(api: FaultyApi, client: KubernetesClient) -> None:
    api.choose = each_once("429 with Retry-After")
    client.request("GET", "/version")
    first, second = api.asked
    assert second.at_s - first.at_s >= RETRY_AFTER_S


def test_a_request_whose_answer_is_lost_is_sent_again_after_seconds(
    api: FaultyApi, client: KubernetesClient
) -> None:
    api.choose = each_once("silent")
    client.request("GET", "/version")
    first, second = api.asked
    assert 5 <= second.at_s - first.at_s < 20


def test_a_server_that_only_fails_is_given_up_in_time_and_not_asked_often(
    api: FaultyApi, client: KubernetesClient
) -> None:
    api.choose = lambda _: "500"
    began_s = time.monotonic()
    with pytest.raises(UnreachableError, match="500 a fault of the test"):
        client.request("GET", "/version", patience_s=4)
    assert time.monotonic() - began_s < 20
    assert 3 <= len(api.asked) <= 8


def test_the_cluster_s_time_is_not_that_of_a_proxy_before_it(
    api: FaultyApi, client: KubernetesClient, direct: KubernetesClient
) -> None:
    api.choose, api.skew_s = each_once("500"), 600.0
    client.request("GET", "/version")
    api.choose = lambda _: "500"
    with pytest.raises(UnreachableError):
        client.request("GET", "/version", patience_s=0)
    direct.request("GET", "/version")
    told, true = client.now(), direct.now()
    assert told is not None
    assert true is not None
    assert abs((told - true).total_seconds()) < 3


def names(events: list[Event]) -> list[tuple[str, str]]:
    return [(e.kind, e.object["metadata"]["name"]) for e in events if e.packed]


def watched(client: KubernetesClient, namespace: str, **more: Any) -> ListWatch:
    path = object_path("jobs", namespace, group="batch/v1")
    return ListWatch(client, path, "", essential, **more)


def has_synced(events: list[Event]) -> bool:
    return any(event.kind == "SYNCED" for event in events)


def test_a_job_that_failed_says_why_though_the_news_of_its_pod_is_late(
    api: FaultyApi, maker: JobMaker, direct: KubernetesClient, namespace: str
) -> None:
    run_id = uuid.uuid4().hex
    handle = make_job(direct, run_id, namespace)
    make_pod(direct, run_id, handle)
    api.choose = lambda asked: "silent" if asked.is_watch and "/pods" in asked.path else ""
    scheduler = KubernetesScheduler(maker.settings({}))
    seen = Collected(status for _, status in scheduler.watch([handle]))
    seen.until(bool, "a first status")
    set_container(direct, handle, "Failed", {"terminated": {"exitCode": 7, "reason": "Error"}})
    fail(direct, handle)
    last = seen.all()[-1]
    assert last is not None
    assert last.failure is not None
    assert (last.failure.category, last.exit_code) == (FailureCategory.USER_ERROR, 7)


@pytest.mark.large
def test_a_watch_that_the_network_has_dropped_goes_on_within_the_time_that_is_stated(
    api: FaultyApi, client: KubernetesClient, direct: KubernetesClient, namespace: str,
    make: Callable[[], JobHandle],
) -> None:  # fmt: skip
    handle = make()
    watch = watched(client, namespace)
    seen = Collected(watch.events())
    seen.until(has_synced, "the first list")
    until(api.black_hole, "the watch is there to be dropped")
    began_s = time.monotonic()
    complete(direct, handle)
    changed = ("MODIFIED", handle.name)
    seen.until(lambda events: changed in names(events), "the change is told", NOTICED_S)
    assert time.monotonic() - began_s > 5, "the connection was not dropped"
    assert not [event for event in seen.items if event.kind == "LOST"], "nobody has to know"
    watch.stop()


def test_a_watch_that_falls_silent_goes_on_by_a_new_connection(
    api: FaultyApi, client: KubernetesClient, direct: KubernetesClient, namespace: str,
    make: Callable[[], JobHandle],
) -> None:  # fmt: skip
    handle = make()
    watch = watched(client, namespace, silence_s=3)
    seen = Collected(watch.events())
    seen.until(has_synced, "the first list")
    until(api.swallow, "the watch is there to fall silent")
    complete(direct, handle)
    changed = ("MODIFIED", handle.name)
    seen.until(lambda events: changed in names(events), "the change is told", 60)
    watch.stop()
    assert names(seen.all()).count(changed) == 1
    assert not [event for event in seen.items if event.kind == "LOST"], "nobody has to know"


def test_a_watch_too_old_for_a_compacted_server_tells_what_has_changed(
    kubernetes_cluster: KubernetesCluster, api: FaultyApi, client: KubernetesClient,
    direct: KubernetesClient, namespace: str, make: Callable[[], JobHandle],
) -> None:  # fmt: skip
    gone, ended, same = make(), make(), make()
    cluster = kubernetes_cluster.processes()
    watch = watched(client, namespace, silence_s=600)
    seen = Collected(watch.events())
    seen.until(has_synced, "the first list")
    until(api.swallow, "the watch is there to fall silent")
    path = object_path("jobs", namespace, gone.name, group="batch/v1")
    direct.request("DELETE", path, body={"propagationPolicy": "Background"})
    complete(direct, ended)
    new = make()
    cluster.compact()
    cluster.restart("kube-apiserver")
    before = len(seen.items)
    api.cut(dead=True)
    seen.until(lambda events: has_synced(events[before:]), "the second list")
    changes = set(names(seen.items[before:]))
    assert changes >= {("DELETED", gone.name), ("MODIFIED", ended.name), ("ADDED", new.name)}
    assert same.name not in {name for _, name in changes}, "what has not changed is not told"
    watch.stop()


@pytest.mark.parametrize("fault", ["500", "429 with Retry-After"], ids=["fails", "asks to wait"])
def test_a_watch_that_cannot_be_opened_is_not_tried_often(
    api: FaultyApi, client: KubernetesClient, namespace: str, fault: str,
    make: Callable[[], JobHandle],
) -> None:  # fmt: skip
    watch = watched(client, namespace)
    seen = Collected(watch.events())
    seen.until(has_synced, "the first list")

    def only_watches(asked: Asked) -> str:
        return fault if asked.is_watch else ""

    until(lambda: api.watches, "the watch is there to be cut")
    began = len(api.asked)
    api.choose = only_watches
    until(api.cut, "the watch is there to be cut")
    seen.until(lambda events: events[-1].kind == "LOST", "it is told that there is no answer")
    until(lambda: len(api.asked) >= began + 5, "it is tried again and again")
    tries = api.asked[began:]
    assert tries[4].at_s - tries[0].at_s >= 1.5, "each pause is about twice the one before"
    if "Retry-After" in fault:
        pauses = [b.at_s - a.at_s for a, b in itertools.pairwise(tries)]
        assert min(pauses) >= RETRY_AFTER_S
    api.choose = None
    seen.until(lambda events: events[-1].kind == "FOUND", "it is told that there is one again")
    make()
    seen.until(lambda events: events[-1].kind == "ADDED", "the watch goes on")
    watch.stop()


def test_a_watch_that_nobody_listens_to_as_the_cluster_is_back_is_closed(
    api: FaultyApi, client: KubernetesClient, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []  # kept, so that nothing is closed by being forgotten
    open_stream = client.stream

    def noted(*arguments: Any, **options: Any) -> Any:
        opened.append(open_stream(*arguments, **options))
        return opened[-1]

    monkeypatch.setattr(client, "stream", noted)
    failing = iter(["500", "500"])
    api.choose = lambda asked: next(failing, "") if asked.is_watch else ""
    with contextlib.closing(watched(client, namespace).events()) as events:
        assert "FOUND" in (event.kind for event in events)
    (stream,) = opened
    assert stream._response.closed


def test_one_failure_alone_of_a_watch_is_not_told(
    api: FaultyApi, client: KubernetesClient, namespace: str, make: Callable[[], JobHandle]
) -> None:
    watch = watched(client, namespace)
    seen = Collected(watch.events())
    seen.until(has_synced, "the first list")
    until(lambda: api.watches, "the watch is there to be cut")
    api.cut()
    handle = make()
    seen.until(lambda events: ("ADDED", handle.name) in names(events), "the watch goes on")
    watch.stop()
    assert not [event for event in seen.items if event.kind == "LOST"]

"""Follows jobs by one watch of Jobs and one of pods for each namespace."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow_exec.clients.kubernetes import KubernetesClient, object_path
from mlflow_exec.clients.kubernetes_watch import Event, ListWatch
from mlflow_exec.errors import ClusterError
from mlflow_exec.jobs import JobHandle, JobState, JobStatus
from mlflow_exec.schedulers.kubernetes.objects import BATCH
from mlflow_exec.schedulers.kubernetes.plan import LABEL_MANAGED, LABEL_RUN, MANAGED_BY
from mlflow_exec.schedulers.kubernetes.status import job_status, pod_failure, queue_of

_TICK_S = 0.5
# How long a Job may be without a pod before its events are asked for the reason; a queue may hold
# it for days, so Kueue is asked less often.
_NO_POD_S = 2.0
_HELD_S = 5.0
# A label selector of this many run ids is still a short URL; above, all of ours are watched.
_SELECTED_RUNS = 20


def selector(run_ids: Sequence[str]) -> str:
    """Return the label selector of these runs' objects, made so that the server filters."""
    ours = f"{LABEL_MANAGED}={MANAGED_BY}"
    if not run_ids or len(run_ids) > _SELECTED_RUNS:
        return ours
    return f"{ours},{LABEL_RUN} in ({','.join(sorted(set(run_ids)))})"


def job_of(pod: dict[str, Any]) -> str:
    """Return the name of the Job that a pod belongs to."""
    labels = pod["metadata"].get("labels") or {}
    return str(labels.get("batch.kubernetes.io/job-name") or labels.get("job-name") or "")


def job_events(client: KubernetesClient, namespace: str, uids: Sequence[str]) -> list[Any]:
    """Return the events of the objects with these uids; none where they may not be read."""
    found: list[Any] = []
    path = object_path("events", namespace)
    for uid in uids:
        query = {"fieldSelector": f"involvedObject.uid={uid}", "limit": 100}
        try:
            found += client.request("GET", path, query=query).get("items") or []
        except ClusterError:  # events explain, they decide nothing
            return found
    return found


def why_held(client: KubernetesClient, job: dict[str, Any]) -> str:
    """Return why Kueue holds a Job; empty if it does not, or where that may not be read."""
    if not job["spec"].get("suspend") or not queue_of(job):
        return ""
    metadata = job["metadata"]
    query = {"labelSelector": f"kueue.x-k8s.io/job-uid={metadata['uid']}"}
    try:
        # Each release of Kueue serves some of its versions.
        version = client.request("GET", "/apis/kueue.x-k8s.io")["preferredVersion"]["groupVersion"]
        path = object_path("workloads", metadata["namespace"], group=version)
        workloads = client.request("GET", path, query=query)["items"]
    except ClusterError:  # as with events
        return ""
    for workload in workloads:
        for condition in (workload.get("status") or {}).get("conditions") or []:
            if condition["type"] == "QuotaReserved" and condition["status"] == "False":
                return str(condition.get("message") or "")
    return ""


@dataclass
class _Tracked:
    handle: JobHandle
    job: dict[str, Any] | None = None
    pods: dict[str, dict[str, Any]] = field(default_factory=dict)
    events: list[Any] = field(default_factory=list)
    kueue: str = ""
    said: JobStatus | None = None
    bare_since_s: float = 0.0
    over: bool = False


class JobsWatch:
    """One iteration over the statuses of some jobs of one namespace."""

    def __init__(
        self,
        client: KubernetesClient,
        namespace: str,
        handles: Sequence[JobHandle],
        runs: Sequence[str],
    ) -> None:
        """Take the jobs' handles and, for the label selector, their runs."""
        self._client = client
        self._namespace = namespace
        self._tracked = {handle.name: _Tracked(handle) for handle in handles}
        self._queue: queue.SimpleQueue[tuple[str, Event | Exception]] = queue.SimpleQueue()
        chosen = selector(runs)
        self._watches = {
            "jobs": ListWatch(client, object_path("jobs", namespace, group=BATCH), chosen),
            "pods": ListWatch(client, object_path("pods", namespace), chosen),
        }

    def statuses(
        self, stop: threading.Event | None = None
    ) -> Iterator[tuple[JobHandle, JobStatus | None]]:
        """Yield as `Scheduler.watch` promises.

        Raises:
            AccessDeniedError: Jobs or pods may not be watched.
        """
        for kind in self._watches:
            threading.Thread(target=self._follow, args=(kind,), daemon=True).start()
        try:
            yield from self._loop(stop or threading.Event())
        finally:
            for watch in self._watches.values():
                watch.stop()

    def _follow(self, kind: str) -> None:
        try:
            for event in self._watches[kind].events():
                self._queue.put((kind, event))
        except Exception as error:  # raised where it is waited for, or that would wait for ever
            self._queue.put((kind, error))

    def _loop(self, stop: threading.Event) -> Iterator[tuple[JobHandle, JobStatus | None]]:
        unsynced = set(self._watches)
        lost: set[str] = set()
        while not stop.is_set() and any(not item.over for item in self._tracked.values()):
            changed: list[_Tracked] = []
            try:
                kind, event = self._queue.get(timeout=_TICK_S)
            except queue.Empty:
                changed = self._explain_waiting()
            else:
                if isinstance(event, Exception):
                    raise event
                if event.kind == "LOST":
                    lost.add(kind)
                    yield from self._say_unknown(event.error)
                elif event.kind in ("SYNCED", "FOUND"):
                    unsynced -= {kind} if event.kind == "SYNCED" else set()
                    lost.discard(kind)
                    changed = list(self._tracked.values())
                else:
                    changed = self._take(kind, event)
            if not unsynced and not lost:
                for item in changed:
                    yield from self._say(item)

    def _take(self, kind: str, event: Event) -> list[_Tracked]:
        metadata = event.object["metadata"]
        name = metadata["name"] if kind == "jobs" else job_of(event.object)
        item = self._tracked.get(name)
        if item is None or item.over:
            return []
        if kind == "pods":
            if event.kind == "DELETED" and item.job and item.job["spec"].get("suspend"):
                item.pods.pop(metadata["uid"], None)  # the suspension took it: no attempt ended
            else:
                # A deleted pod's last state still tells how an attempt ended.
                item.pods[metadata["uid"]] = event.object
            return [item]
        if item.handle.uid and metadata["uid"] != item.handle.uid:
            return []  # a namesake that was created later
        item.job = event.object
        if event.kind == "DELETED":
            item.job = {**event.object, "deleted": True}
        return [item]

    def _say(self, item: _Tracked) -> Iterator[tuple[JobHandle, JobStatus | None]]:
        if item.over:
            return
        if item.job is None:
            item.over = True
            yield item.handle, None
            return
        status = self._status(item)
        if status != item.said:
            item.said = status
            item.over = status.state.is_final
            yield item.handle, status

    def _status(self, item: _Tracked) -> JobStatus:
        assert item.job is not None
        now = self._client.now()
        status = job_status(item.job, list(item.pods.values()), item.events, item.kueue, now)
        if status.state is JobState.FAILED:
            self._read_late_reason(item)
            return job_status(item.job, list(item.pods.values()), item.events, item.kueue)
        if item.job.get("deleted") and not status.state.is_final:
            return JobStatus(
                JobState.CANCELLED,
                "The Job was deleted in the cluster.",
                attempt=status.attempt,
                native=status.native,
            )
        return status

    def _read_late_reason(self, item: _Tracked) -> None:
        """Read what explains a failure; pods come by another watch and may be behind the Job's."""
        assert item.job is not None
        if not any(pod_failure(pod) for pod in item.pods.values()):
            query = {"labelSelector": f"batch.kubernetes.io/job-name={item.handle.name}"}
            try:
                page = self._client.request(
                    "GET", object_path("pods", self._namespace), query=query
                )
            except ClusterError:
                return
            item.pods |= {pod["metadata"]["uid"]: pod for pod in page["items"]}
        uids = [item.job["metadata"]["uid"], *list(item.pods)[-1:]]
        item.events = job_events(self._client, self._namespace, uids)

    def _explain_waiting(self) -> list[_Tracked]:
        """Ask why, where a Job has had no pod for a while: its events or Kueue alone say so."""
        now_s = time.monotonic()
        explained = []
        for item in self._tracked.values():
            held = item.job is not None and bool(item.job["spec"].get("suspend"))
            if item.over or item.job is None or (item.pods and not held):
                item.bare_since_s, item.kueue = 0.0, ""
                continue
            item.bare_since_s = item.bare_since_s or now_s
            if now_s - item.bare_since_s >= (_HELD_S if held else _NO_POD_S):
                item.bare_since_s = now_s
                if held:
                    item.kueue = why_held(self._client, item.job)
                else:
                    uid = item.job["metadata"]["uid"]
                    item.events = job_events(self._client, self._namespace, [uid])
                explained.append(item)
        return explained

    def _say_unknown(self, why: str) -> Iterator[tuple[JobHandle, JobStatus | None]]:
        status = JobStatus(JobState.UNKNOWN, f"the cluster cannot be asked: {why}")
        for item in self._tracked.values():
            if not item.over and (item.said is None or item.said.state is not JobState.UNKNOWN):
                item.said = status
                yield item.handle, status

"""Follows the jobs of a namespace by one watch of Jobs and one of pods, for all who ask."""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from mlflow_exec.clients.kubernetes import KubernetesClient, object_path
from mlflow_exec.clients.kubernetes_watch import Event, ListWatch
from mlflow_exec.errors import ClusterError
from mlflow_exec.jobs import JobHandle, JobState, JobStatus
from mlflow_exec.schedulers.kubernetes.explain import (
    job_events,
    reasons_of_kueue,
    warnings,
)
from mlflow_exec.schedulers.kubernetes.objects import (
    BATCH,
    SELECTED_RUNS,
    essential,
    job_of,
    owner_of,
    run_of,
    selector,
)
from mlflow_exec.schedulers.kubernetes.status import job_status, pod_failure, queue_of

_TICK_S = 0.5
# How long a Job may be without a pod before its events are asked for the reason; a queue may hold
# it for days, so the questions become rare. An image takes its time, and says so by itself.
_NO_POD_S = 2.0
_NOT_STARTED_S = 8.0
_LONGEST_PAUSE_S = 30.0
# Nobody has followed a job for so long: the watches end.
_IDLE_S = 10.0

Told = tuple[JobHandle, JobStatus | Exception | None]
Tell = Callable[[Told], None]


@dataclass
class _Followed:
    """A job that somebody follows."""

    handle: JobHandle
    listeners: list[Tell] = field(default_factory=list)
    events: list[Any] = field(default_factory=list)
    kueue: str = ""
    said: JobStatus | None = None
    unknown: bool = False
    waits_since_s: float = 0.0

    @property
    def over(self) -> bool:
        """Whether nothing more can be said of it."""
        return self.unknown or (self.said is not None and self.said.state.is_final)

    def say(self, status: JobStatus | Exception | None) -> None:
        for tell in self.listeners:
            tell((self.handle, status))


class NamespaceWatch:
    """The watches of one namespace, and the thread that owns all that they told.

    Others only put messages into its queue.
    """

    def __init__(self, client: KubernetesClient, namespace: str) -> None:
        """Use `follow`; it starts with the first job and ends when nobody follows one."""
        self._client = client
        self._namespace = namespace
        self._queue: queue.SimpleQueue[tuple[str, Any, Any]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False
        # By the Job's name; a name may stand for a job and for an earlier one of the same name.
        self._followed: dict[str, list[_Followed]] = {}
        self._jobs: dict[str, bytes] = {}
        self._deleted: set[str] = set()
        self._pods: dict[str, dict[str, bytes]] = {}
        self._watches: dict[str, ListWatch] = {}
        self._runs: set[str] | None = set()
        self._listed: set[str] = set()
        self._unsynced: set[str] = set()
        self._uncovered_since_s = 0.0
        self._looked_s = self._explained_s = 0.0
        self._lost: dict[str, str] = {}
        self._idle_since_s = time.monotonic()
        threading.Thread(target=self._work, name="mlflow-exec-namespace", daemon=True).start()

    def send(self, message: str, handle: JobHandle, tell: Tell) -> bool:
        """Add (``add``) or remove (``remove``) somebody who follows a job; False if it is over."""
        with self._lock:
            if not self._closed:
                self._queue.put((message, handle, tell))
            return not self._closed

    # -- the thread -------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while not self._is_idle():
                self._take_one()
        except Exception as error:
            self._close(error)
        finally:
            for watch in self._watches.values():
                watch.stop()

    def _is_idle(self) -> bool:
        if self._followed:
            self._idle_since_s = time.monotonic()
        if time.monotonic() - self._idle_since_s < _IDLE_S:
            return False
        with self._lock:
            self._closed = self._queue.empty()
            return self._closed

    def _close(self, error: Exception) -> None:
        """Tell everybody what ended it, those too who have just come."""
        with self._lock:
            self._closed = True
        for item in self._all():
            item.say(error)
        while not self._queue.empty():
            message, handle, tell = self._queue.get()
            if message == "add":
                tell((handle, error))

    def said(self, handle: JobHandle) -> JobStatus | None:
        """Return what was last said of a job, without its record; None where nobody follows it."""
        item = self._find(handle)
        return item.said if item is not None else None

    def is_alive(self) -> bool:
        """Whether it still takes who wants to follow a job."""
        return not self._closed

    def _take_one(self) -> None:
        # Those who come together are watched together.
        waited_s = time.monotonic() - self._uncovered_since_s
        if self._uncovered_since_s and (self._queue.empty() or waited_s > _TICK_S):
            self._watch_more()
        try:
            message, what, more = self._queue.get(timeout=_TICK_S)
        except queue.Empty:
            self._say(self._explain_waiting())
            return
        if message == "add":
            self._add(what, more)
        elif message == "remove":
            self._remove(what, more)
        elif self._watches.get(message) is what:
            self._hear(message, more)

    def _add(self, handle: JobHandle, tell: Tell) -> None:
        item = self._find(handle)
        if item is None:
            item = _Followed(handle)
            self._followed.setdefault(handle.name, []).append(item)
        if tell not in item.listeners:
            item.listeners.append(tell)
        item.said, item.unknown = None, False  # all is said anew, to all
        if self._runs is not None and run_of(handle) not in self._runs:
            self._uncovered_since_s = self._uncovered_since_s or time.monotonic()
            return
        if self._lost:
            item.said = unknown(self._lost)
            item.say(item.said)
        self._say([item])

    def _remove(self, handle: JobHandle, tell: Tell) -> None:
        item = self._find(handle)
        if item is None or tell not in item.listeners:
            return
        item.listeners.remove(tell)
        if item.listeners:
            return
        self._followed[handle.name].remove(item)
        if not self._followed[handle.name]:
            del self._followed[handle.name]
            if handle.name in self._deleted:
                self._deleted.discard(handle.name)
                self._jobs.pop(handle.name, None)
                self._pods.pop(handle.name, None)

    def _find(self, handle: JobHandle) -> _Followed | None:
        found = (i for i in self._followed.get(handle.name, ()) if i.handle.uid == handle.uid)
        return next(found, None)

    def _all(self) -> list[_Followed]:
        return [item for items in self._followed.values() for item in items]

    def _watch_more(self) -> None:
        """Start watches that also cover the jobs added since; what was told before stays."""
        for watch in self._watches.values():
            watch.stop()
        runs = {run_of(item.handle) for item in self._all()}
        chosen = selector(runs)
        self._runs = runs if len(runs) <= SELECTED_RUNS else None
        self._listed, self._unsynced, self._lost = set(), {"jobs", "pods"}, {}
        self._uncovered_since_s = 0.0
        for kind, group in (("jobs", BATCH), ("pods", "")):
            path = object_path(kind, self._namespace, group=group)
            watch = ListWatch(self._client, path, chosen, essential)
            self._watches[kind] = watch
            threading.Thread(target=self._listen, args=(kind, watch), daemon=True).start()

    def _listen(self, kind: str, watch: ListWatch) -> None:
        try:
            for event in watch.events():
                self._queue.put((kind, watch, event))
        except Exception as error:  # raised in the thread that owns all
            self._queue.put((kind, watch, error))

    def _hear(self, kind: str, event: Event | Exception) -> None:
        if isinstance(event, Exception):
            raise event
        if event.kind == "LOST":
            self._lost[kind] = event.error
            for item in self._all():
                if not item.over:
                    item.said = unknown(self._lost)
                    item.say(item.said)
        elif event.kind in ("SYNCED", "FOUND"):
            if event.kind == "SYNCED" and kind in self._unsynced:
                self._unsynced.discard(kind)
                if kind == "jobs":
                    for name in self._jobs.keys() - self._listed:
                        self._forget(name)
            self._lost.pop(kind, None)
            self._say(self._all())
        else:
            name = self._keep(kind, event)
            self._say(self._followed.get(name, []))

    def _keep(self, kind: str, event: Event) -> str:
        """Take note of an object's change; return the Job that it concerns."""
        item, gone = event.object, event.kind == "DELETED"
        name = item["metadata"]["name"] if kind == "jobs" else job_of(item)
        if kind == "jobs":
            self._listed.add(name)
            self._deleted.discard(name)
            self._jobs[name] = event.packed
            if gone:
                self._forget(name)
            return str(name)
        pods = self._pods.setdefault(name, {})
        suspended = name in self._jobs and json.loads(self._jobs[name])["spec"].get("suspend")
        if gone and (suspended or name not in self._followed):
            pods.pop(item["metadata"]["uid"], None)  # a suspension took it: no attempt ended
        else:
            # A deleted pod's last state still tells how an attempt ended.
            pods[item["metadata"]["uid"]] = event.packed
        return name

    def _forget(self, name: str) -> None:
        """Take note that a Job is deleted; its last record is kept for those who follow it."""
        if name in self._followed:
            self._deleted.add(name)
        else:
            self._jobs.pop(name, None)
            self._pods.pop(name, None)

    # -- what is told -----------------------------------------------------------------------

    def _say(self, items: Iterable[_Followed]) -> None:
        if self._unsynced or self._uncovered_since_s or self._lost:
            return
        for item in list(items):
            if item.over:
                continue
            job = self._job(item)
            if job is None:
                item.unknown = True
                item.say(None)
                continue
            status = self._status(item)
            if status != item.said:
                # The record behind it is made anew from what is kept, where somebody asks again.
                item.said = replace(status, native={})
                item.say(status)

    def _job(self, item: _Followed) -> dict[str, Any] | None:
        packed = self._jobs.get(item.handle.name)
        job = None if packed is None else json.loads(packed)
        # A namesake that was created later is another job.
        return job if job and item.handle.uid in ("", job["metadata"]["uid"]) else None

    def _status(self, item: _Followed) -> JobStatus:
        job = self._job(item)
        assert job is not None
        pods = [json.loads(pod) for pod in self._pods.get(item.handle.name, {}).values()]
        pods = [pod for pod in pods if owner_of(pod) in ("", job["metadata"]["uid"])]
        status = job_status(job, pods, item.events, item.kueue, self._client.now())
        if status.state is JobState.FAILED:
            if not item.over:
                pods = self._read_late_reason(item, job, pods)
            return job_status(job, pods, item.events, item.kueue)
        if item.handle.name in self._deleted and not status.state.is_final:
            return JobStatus(
                JobState.CANCELLED,
                "The Job was deleted in the cluster.",
                attempt=status.attempt,
                native=status.native,
            )
        return status

    def _read_late_reason(
        self, item: _Followed, job: dict[str, Any], pods: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Read what explains a failure; pods come by another watch and may be behind the Job's."""
        if not any(pod_failure(pod) for pod in pods):
            query = {"labelSelector": f"batch.kubernetes.io/job-name={item.handle.name}"}
            path = object_path("pods", self._namespace)
            try:
                pods = self._client.request("GET", path, query=query)["items"] or pods
            except ClusterError:
                return pods
        uids = [job["metadata"]["uid"], *[pod["metadata"]["uid"] for pod in pods[-1:]]]
        item.events = job_events(self._client, self._namespace, uids)
        return pods

    def _explain_waiting(self) -> list[_Followed]:
        """Ask why, where Jobs have had no pod for a while, or pods have not started.

        Their events or Kueue alone say so: one request for all of a kind, the less often the longer
        they wait.
        """
        now_s = time.monotonic()
        if self._unsynced or self._lost or now_s - self._looked_s < _NO_POD_S:
            return []
        self._looked_s = now_s
        waiting = [found for item in self._all() if (found := self._waiting(item, now_s))]
        newest_s = max((item.waits_since_s for item, _ in waiting), default=0.0)
        pause_s = min(max(_NO_POD_S, (now_s - newest_s) / 2), _LONGEST_PAUSE_S)
        if not waiting or now_s - self._explained_s < pause_s:
            return []
        self._explained_s = now_s
        kinds = ["Job"]
        if any(self._pods.get(item.handle.name) for item, _ in waiting):
            kinds.append("Pod")
        told = warnings(self._client, self._namespace, *kinds)
        by_kueue = any(queue_of(job) for _, job in waiting)
        reasons = reasons_of_kueue(self._client, self._namespace) if by_kueue else {}
        for item, job in waiting:
            uids = [job["metadata"]["uid"], *self._pods.get(item.handle.name, {})]
            item.events = [event for uid in uids for event in told.get(uid, [])]
            item.kueue = reasons.get(job["metadata"]["uid"], "")
        return [item for item, _ in waiting]

    def _waiting(self, item: _Followed, now_s: float) -> tuple[_Followed, dict[str, Any]] | None:
        """Return a job that has waited so long that somebody has to be asked why, with its Job."""
        state = item.said.state if item.said is not None else None
        job = self._job(item) if state in (JobState.QUEUED, JobState.STARTING) else None
        held = job is not None and bool(job["spec"].get("suspend"))
        has_pod = bool(self._pods.get(item.handle.name)) and not held
        if job is None or (has_pod and state is JobState.QUEUED):
            item.waits_since_s, item.kueue = 0.0, ""  # the pod itself says what it waits for
            return None
        item.waits_since_s = item.waits_since_s or now_s
        waits_s = now_s - item.waits_since_s
        return (item, job) if waits_s >= (_NOT_STARTED_S if has_pod else _NO_POD_S) else None


def unknown(lost: dict[str, str]) -> JobStatus:
    """Return the status of a job whose cluster cannot be asked; why, by what cannot be read."""
    why = next(iter(lost.values()))
    return JobStatus(JobState.UNKNOWN, f"the cluster cannot be asked: {why}")

"""Who follows which job, and the watches that they share: one pair for each namespace."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

from mlflow_exec.clients.kubernetes import KubernetesClient
from mlflow_exec.jobs import JobHandle, JobState, JobStatus
from mlflow_exec.schedulers.kubernetes.watch import NamespaceWatch, Tell, Told

_TICK_S = 0.5
_ANSWER_S = 2.0
_watches: dict[tuple[int, str], NamespaceWatch] = {}
_watches_lock = threading.Lock()


def _send(message: str, client: KubernetesClient, handle: JobHandle, tell: Tell) -> None:
    """Send to the living watch of a namespace; to add somebody, start one if there is none."""
    key = (id(client), handle.path[0])
    with _watches_lock:
        watch = _watches.get(key)
        if watch is not None and watch.send(message, handle, tell):
            return
        _watches.pop(key, None)
        if message == "add":
            _watches[key] = NamespaceWatch(client, handle.path[0])
            _watches[key].send(message, handle, tell)


def _nobody(_: Told) -> None:
    """Stand for somebody who follows a job and only reads what was last said."""


_asked: set[tuple[int, str, str]] = set()


def known_status(client: KubernetesClient, handle: JobHandle) -> JobStatus | None:
    """Return a job's status where it is known without asking the cluster.

    Its record may be left out. Who asks for a second time is going to ask again and again: from
    then on the job is followed, and a question costs nothing.
    """
    key = (id(client), handle.path[0])
    with _watches_lock:
        watch = _watches.get(key)
    said = watch.said(handle) if watch is not None else None
    if said is not None and said.state is not JobState.UNKNOWN:
        if said.state.is_final:
            _send("remove", client, handle, _nobody)
        return said
    if watch is not None and watch.is_alive():
        return _first_said(client, handle)
    question = (*key, handle.name)
    if question in _asked:
        _asked.discard(question)
        _send("add", client, handle, _nobody)
    else:
        _asked.add(question)
    return None


def _first_said(client: KubernetesClient, handle: JobHandle) -> JobStatus | None:
    """Return what a living watch says of a job now; None if it is silent.

    UNKNOWN is an answer, too: the watch tries to reach the cluster already.
    """
    answer: queue.SimpleQueue[Told] = queue.SimpleQueue()
    tell = answer.put
    _send("add", client, handle, tell)
    _send("add", client, handle, _nobody)
    try:
        _, status = answer.get(timeout=_ANSWER_S)
    except queue.Empty:
        return None
    finally:
        _send("remove", client, handle, tell)
    return status if isinstance(status, JobStatus) else None


def follow(
    jobs: Sequence[tuple[KubernetesClient, JobHandle]], stop: threading.Event | None = None
) -> Iterator[tuple[JobHandle, JobStatus | None]]:
    """Yield as `Scheduler.watch` promises.

    Raises:
        AccessDeniedError: Jobs or pods may not be watched.
    """
    said: queue.SimpleQueue[Told] = queue.SimpleQueue()
    stop = stop or threading.Event()
    last: dict[tuple[str, str], JobStatus | None] = {}
    left = {(handle.name, handle.uid) for _, handle in jobs}
    tell = said.put
    for client, handle in jobs:
        _send("add", client, handle, tell)
    try:
        while left and not stop.is_set():
            try:
                handle, status = said.get(timeout=_TICK_S)
            except queue.Empty:
                continue
            if isinstance(status, Exception):
                raise status
            key = (handle.name, handle.uid)
            if key not in left or (key in last and last[key] == status):
                continue  # said to somebody who came later
            last[key] = status
            if status is None or status.state.is_final:
                left.discard(key)
            yield handle, status
    finally:
        for client, handle in jobs:
            _send("remove", client, handle, tell)

"""The output of a job's pods, through the API server."""

from __future__ import annotations

import codecs
import time
from collections.abc import Iterator, Mapping
from typing import Any

from mlflow_exec.clients.kubernetes import PATIENCE_S, KubernetesClient, object_path
from mlflow_exec.clients.pauses import Pauses
from mlflow_exec.errors import ClusterError, NotFoundError, RejectedError, UnreachableError
from mlflow_exec.runtime.end import GAP_LINE, START_LINE_PREFIX
from mlflow_exec.schedulers.kubernetes.objects import container_statuses, preparing
from mlflow_exec.schedulers.kubernetes.plan import CONTAINER

# A job may say nothing for long; the connection is kept by TCP, and renewed after this time.
_SILENCE_S = 300.0
_RETRY_S = 1.0  # at least, between two connections
# Where the API server says that it cannot get the log, the node does not answer, perhaps for long.
_NODE_PATIENCE_S = 5.0


def has_log(pod: Mapping[str, Any]) -> bool:
    """Whether a container of the pod has started, so that there is something to read."""
    containers = [*preparing(pod), *((pod.get("status") or {}).get("containerStatuses") or ())]
    return any("waiting" not in item["state"] for item in containers)


def has_run(job: Mapping[str, Any] | None) -> bool:
    """Whether a Job had a pod that has ended, as far as it tells; a Job that is gone may have."""
    status = {} if job is None else job.get("status") or {}
    return job is None or bool(status.get("succeeded") or status.get("failed"))


class PodLog:
    """Reads one pod's log in order; goes on after a broken connection without repeating lines.

    The kubelet keeps the newest part only of a log that is longer than its limit
    (https://kubernetes.io/docs/concepts/cluster-administration/logging/#log-rotation). Where that
    has taken something away before it was read, a line says so.
    """

    def __init__(
        self, client: KubernetesClient, namespace: str, name: str, pod: Mapping[str, Any]
    ) -> None:
        """Take a pod of which `has_log` is true, with what is known of it."""
        self._client = client
        self._namespace = namespace
        self._name = name
        self._containers = [container["name"] for container in preparing(pod)]
        self._containers.append(CONTAINER)
        self._last_time = ""
        self._at_last_time = 0

    def pieces(self, *, follow: bool) -> Iterator[str]:
        """Yield the output of the pod's containers, one after the other.

        Ends when they have ended (``follow``) or when there is no more now; also when the pod is
        gone, because its log is gone with it.
        """
        for container in self._containers:
            self._last_time, self._at_last_time = "", 0
            yield from self._container(container, follow=follow)

    def _container(self, container: str, *, follow: bool) -> Iterator[str]:
        pauses, begun_s = Pauses(), time.monotonic()
        while True:
            broken = False
            try:
                yield from self._read(container, follow=follow)
            except NotFoundError:
                return  # the pod is gone
            except RejectedError:
                if not (follow and self._is_waiting(container)):
                    return  # this container never started
            except UnreachableError as error:
                patience_s = PATIENCE_S if error.status is None else _NODE_PATIENCE_S
                if not follow and time.monotonic() - begun_s > patience_s:
                    raise
                broken = True  # so there may be more, even if the container has ended
            if not broken:
                if not follow or self._has_ended(container):
                    return
                pauses = Pauses()
            time.sleep(max(pauses.next_s(), _RETRY_S))

    def _is_waiting(self, container: str) -> bool:
        """Whether a container has yet to start, as the main one has while others prepare."""
        path = object_path("pods", self._namespace, self._name)
        try:
            status = self._client.request("GET", path).get("status") or {}
        except ClusterError:
            return False
        over = status.get("phase") in ("Succeeded", "Failed")
        named = [i for i in status.get("containerStatuses") or () if i["name"] == container]
        return not over and all("waiting" in item["state"] for item in named)

    def _has_ended(self, container: str) -> bool:
        try:
            pod = self._client.request("GET", object_path("pods", self._namespace, self._name))
        except NotFoundError:
            return True
        except ClusterError:
            return False
        for item in container_statuses(pod):
            if item["name"] == container:
                return "terminated" in item["state"]
        return True

    def _read(self, container: str, *, follow: bool) -> Iterator[str]:
        query: dict[str, Any] = {"container": container, "timestamps": "true"}
        if follow:
            query["follow"] = "true"
        skip_until, skip_at = self._last_time, self._at_last_time
        if skip_until:
            query["sinceTime"] = skip_until
        path = object_path("pods", self._namespace, self._name, sub="log")
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        buffer, first = "", True
        with self._client.stream(path, query, silence_s=_SILENCE_S, patience_s=0) as pieces:
            for piece in pieces:
                *lines, buffer = (buffer + decoder.decode(piece)).split("\n")
                fresh = []
                for line in lines:
                    stamp, _, text = line.partition(" ")
                    if first:
                        first = False
                        if self._lacks_earlier(container, stamp, text):
                            fresh.append(GAP_LINE)
                    if stamp < skip_until or (stamp == skip_until and skip_at > 0):
                        skip_at -= stamp == skip_until
                        continue
                    self._count(stamp)
                    fresh.append(text)
                if fresh:
                    yield "\n".join(fresh) + "\n"
        if buffer:
            stamp, _, text = buffer.partition(" ")
            self._count(stamp)
            yield text

    def _lacks_earlier(self, container: str, stamp: str, text: str) -> bool:
        """Whether something may be missing before the first line of a connection."""
        if self._last_time:  # the last line of the connection before comes again, if it is there
            return stamp > self._last_time
        return container == CONTAINER and not text.startswith(START_LINE_PREFIX)

    def _count(self, stamp: str) -> None:
        self._at_last_time = self._at_last_time + 1 if stamp == self._last_time else 1
        self._last_time = stamp

"""List and watch: the state of a collection, then every change, for as long as wanted."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from mlflow_exec.clients.kubernetes import KubernetesClient, Stream
from mlflow_exec.errors import AccessDeniedError, ClusterError, NotFoundError, RejectedError

PAGE = 500
# The server ends a watch after this time (jittered); a client that hears nothing for longer than
# the read timeout takes the connection for dead. Bookmarks come about once a minute, so the read
# timeout must be well above that (kubernetes-client/python#2462).
WATCH_S = 290
READ_TIMEOUT_S = 150.0
_BACK_OFF_S = (0.2, 0.5, 1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Event:
    """One change of a collection.

    Attributes:
        kind: ``SYNCED`` (the first list is complete), ``ADDED``, ``MODIFIED``, ``DELETED``,
            ``LOST`` (the cluster cannot be asked; ``error`` says why), ``FOUND`` (it can again).
        object: The object as JSON; empty for SYNCED, LOST and FOUND.
        error: What went wrong, with LOST.
    """

    kind: str
    object: dict[str, Any]
    error: str = ""


def list_pages(client: KubernetesClient, path: str, selector: str) -> Iterator[dict[str, Any]]:
    """Yield the pages of a collection, each as the answer's JSON.

    Raises:
        ClusterError: A page could not be read.
    """
    query: dict[str, Any] = {"limit": PAGE, "labelSelector": selector}
    while True:
        page = client.request("GET", path, query=query)
        yield page
        more = page["metadata"].get("continue")
        if not more:
            return
        query["continue"] = more


class ListWatch:
    """Follows one collection with a label selector until it is stopped.

    A broken connection is mended by watching on from the last resource version; where that is too
    old (410), by listing again and telling the differences, deletions among them.
    """

    def __init__(self, client: KubernetesClient, path: str, selector: str) -> None:
        self._client = client
        self._path = path
        self._selector = selector
        self._known: dict[str, dict[str, Any]] = {}
        self._stopped = threading.Event()
        self._lost = False
        self._stream: Stream | None = None

    def stop(self) -> None:
        """End the iteration, also one that another thread waits in."""
        self._stopped.set()
        if self._stream is not None:
            self._stream.interrupt()

    def events(self) -> Iterator[Event]:
        """Yield the events, endlessly.

        Raises:
            AccessDeniedError: The collection may not be read; waiting would not help.
            NotFoundError: There is no such collection.
        """
        version = ""
        failures = 0
        while not self._stopped.is_set():
            try:
                if not version:
                    for event in self._list():
                        if event.kind == "SYNCED":
                            version = event.error
                            event = Event("SYNCED", {})
                        yield event
                if self._lost:
                    self._lost = False
                    yield Event("FOUND", {})
                failures = 0
                for event in self._watch(version):
                    version = event.object["metadata"]["resourceVersion"]
                    if event.kind != "BOOKMARK":
                        yield event
            except (AccessDeniedError, NotFoundError, RejectedError):
                raise
            except ClusterError as error:
                if error.status == 410:
                    version = ""
                    continue
                if not self._lost:
                    self._lost = True
                    yield Event("LOST", {}, str(error))
                pause_s = _BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)]
                failures += 1
                self._stopped.wait(pause_s * random.uniform(0.5, 1.5))

    def _list(self) -> Iterator[Event]:
        seen: dict[str, dict[str, Any]] = {}
        version = ""
        for page in list_pages(self._client, self._path, self._selector):
            version = page["metadata"]["resourceVersion"]
            for item in page["items"]:
                seen[item["metadata"]["uid"]] = item
        for uid, item in self._known.items():
            if uid not in seen:
                yield Event("DELETED", item)
        for uid, item in seen.items():
            old = self._known.get(uid)
            if old is None:
                yield Event("ADDED", item)
            elif old["metadata"]["resourceVersion"] != item["metadata"]["resourceVersion"]:
                yield Event("MODIFIED", item)
        self._known = seen
        yield Event("SYNCED", {}, version)

    def _watch(self, version: str) -> Iterator[Event]:
        query = {
            "watch": "true",
            "labelSelector": self._selector,
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": int(WATCH_S * random.uniform(0.8, 1.0)),
        }
        buffer = b""
        with self._client.stream(self._path, query, read_timeout_s=READ_TIMEOUT_S) as stream:
            self._stream = stream
            for piece in stream:
                *lines, buffer = (buffer + piece).split(b"\n")
                for line in lines:
                    if self._stopped.is_set():
                        return
                    event = self._parse(line)
                    if event is not None:
                        yield event

    def _parse(self, line: bytes) -> Event | None:
        if not line.strip():
            return None
        data = json.loads(line)
        kind, item = data["type"], data["object"]
        if kind == "ERROR":
            raise ClusterError(str(item.get("message")), status=item.get("code"))
        if kind != "BOOKMARK":
            uid = item["metadata"]["uid"]
            if kind == "DELETED":
                self._known.pop(uid, None)
            else:
                self._known[uid] = item
        return Event(kind, item)

"""List and watch: the state of a collection, then every change, for as long as wanted."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
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


Strip = Callable[[dict[str, Any]], dict[str, Any]]
"""Returns the part of an object that is worth keeping."""


@dataclass(frozen=True)
class Event:
    """One change of a collection.

    Attributes:
        kind: ``SYNCED`` (the first list is complete), ``ADDED``, ``MODIFIED``, ``DELETED``,
            ``LOST`` (the cluster cannot be asked; ``error`` says why), ``FOUND`` (it can again).
        packed: The object as JSON text, a fifth of its size as Python objects; empty for SYNCED,
            LOST and FOUND.
        error: What went wrong, with LOST.
    """

    kind: str
    packed: bytes = b""
    error: str = ""

    @property
    def object(self) -> dict[str, Any]:
        """The object."""
        found: dict[str, Any] = json.loads(self.packed)
        return found


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

    def __init__(
        self,
        client: KubernetesClient,
        path: str,
        selector: str,
        strip: Strip = lambda item: item,
    ) -> None:
        self._client = client
        self._path = path
        self._selector = selector
        self._strip = strip
        self._known: dict[str, tuple[str, bytes]] = {}
        self._version = ""
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
        failures = 0
        while not self._stopped.is_set():
            try:
                if not self._version:
                    yield from self._list()
                if self._lost:
                    self._lost = False
                    yield Event("FOUND")
                failures = 0
                yield from self._watch()
            except (AccessDeniedError, NotFoundError, RejectedError):
                raise
            except ClusterError as error:
                if error.status == 410:
                    self._version = ""
                    continue
                if not self._lost:
                    self._lost = True
                    yield Event("LOST", error=str(error))
                pause_s = _BACK_OFF_S[min(failures, len(_BACK_OFF_S) - 1)]
                failures += 1
                self._stopped.wait(pause_s * random.uniform(0.5, 1.5))

    def _list(self) -> Iterator[Event]:
        seen: dict[str, tuple[str, bytes]] = {}
        version = ""
        for page in list_pages(self._client, self._path, self._selector):
            version = page["metadata"]["resourceVersion"]
            for item in page["items"]:
                seen[item["metadata"]["uid"]] = self._pack(item)
        for uid, (_, packed) in self._known.items():
            if uid not in seen:
                yield Event("DELETED", packed)
        for uid, (item_version, packed) in seen.items():
            old = self._known.get(uid)
            if old is None or old[0] != item_version:
                yield Event("ADDED" if old is None else "MODIFIED", packed)
        self._known = seen
        self._version = version
        yield Event("SYNCED")

    def _pack(self, item: dict[str, Any]) -> tuple[str, bytes]:
        """Return an object's version, and what is kept of it."""
        text = json.dumps(self._strip(item), ensure_ascii=False, separators=(",", ":"))
        return item["metadata"]["resourceVersion"], text.encode()

    def _watch(self) -> Iterator[Event]:
        query = {
            "watch": "true",
            "labelSelector": self._selector,
            "resourceVersion": self._version,
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
        self._version = item["metadata"]["resourceVersion"]
        if kind == "BOOKMARK":
            return None
        uid, packed = item["metadata"]["uid"], self._pack(item)
        if kind == "DELETED":
            self._known.pop(uid, None)
        else:
            self._known[uid] = packed
        return Event(kind, packed[1])

"""List and watch: the state of a collection, then every change, for as long as wanted."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

from mlflow_exec.clients.kubernetes import (
    FIRST_READ_TIMEOUT_S,
    PATIENCE_S,
    READ_TIMEOUT_S,
    KubernetesClient,
    Stream,
)
from mlflow_exec.clients.pauses import Pauses
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)

PAGE = 500
# The server ends a watch after this time (jittered).
WATCH_S = 290
# Bookmarks come about once a minute where anything happens in the cluster. A connection that is
# silent for longer is left, and the watch goes on by a new one from where it was: that costs one
# request, and nobody is told. Connections that the network has dropped are noticed by TCP sooner.
SILENCE_S = 90.0
# A page of a list is worth some tries; then those who wait are told that there is no answer.
_LIST_PATIENCE_S = 10.0
# An API server that has just started may refuse whom it has let in before and will let in again,
# and so may one whose credentials are being rotated.
DENIED_GRACE_S = 30.0
# A watch that ends sooner, and told nothing, counts as a failure.
_SHORTEST_WATCH_S = 1.0


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


def list_pages(
    client: KubernetesClient, path: str, selector: str, *, patience_s: float = PATIENCE_S
) -> Iterator[dict[str, Any]]:
    """Yield the pages of a collection, each as the answer's JSON.

    Raises:
        ClusterError: A page could not be read.
    """
    query: dict[str, Any] = {"limit": PAGE, "labelSelector": selector}
    while True:
        page = client.request("GET", path, query=query, patience_s=patience_s)
        yield page
        more = page["metadata"].get("continue")
        if not more:
            return
        query["continue"] = more


class ListWatch:
    """Follows one collection with a label selector until it is stopped.

    A broken or silent connection is mended by watching on from the last resource version; where
    that is too old (410), by listing again and telling the differences, deletions among them.
    """

    def __init__(
        self,
        client: KubernetesClient,
        path: str,
        selector: str,
        strip: Strip = lambda item: item,
        *,
        silence_s: float = SILENCE_S,
        denied_grace_s: float = DENIED_GRACE_S,
    ) -> None:
        """Ask nobody yet.

        Args:
            client: The cluster.
            path: The collection.
            selector: Of labels.
            strip: What to keep of each object.
            silence_s: How long nothing may come before a connection is taken for dead.
            denied_grace_s: How long it may be refused what it was allowed before.
        """
        self._client = client
        self._path = path
        self._selector = selector
        self._strip = strip
        self._silence_s = silence_s
        self._denied_grace_s = denied_grace_s
        self._known: dict[str, tuple[str, bytes]] = {}
        self._version = ""
        self._stopped = threading.Event()
        self._stream: Stream | None = None
        self._lost = False
        self._failures = 0
        self._pauses = Pauses()
        self._allowed = False
        self._denied_since_s: float | None = None

    def stop(self) -> None:
        """End the iteration, also one that another thread waits in."""
        self._stopped.set()
        if self._stream is not None:
            self._stream.interrupt()

    def events(self) -> Generator[Event, None, None]:
        """Yield the events, endlessly.

        Raises:
            AccessDeniedError: The collection may not be read (any more); waiting would not help.
            NotFoundError: There is no such collection.
        """
        while not self._stopped.is_set():
            try:
                if not self._version:
                    yield from self._list()
                yield from self._watch()
            except (NotFoundError, RejectedError):
                raise
            except ClusterError as error:
                if error.status == 410:
                    self._version = ""
                yield from self._fail(error)

    def _fail(self, error: ClusterError) -> Iterator[Event]:
        """Take note of a failure and pause; told only when it was not one alone."""
        if isinstance(error, AccessDeniedError):
            now_s = time.monotonic()
            self._denied_since_s = self._denied_since_s or now_s
            if not self._allowed or now_s - self._denied_since_s > self._denied_grace_s:
                raise error
        self._failures += 1
        if self._failures > 1 and not self._lost and not self._stopped.is_set():
            self._lost = True
            yield Event("LOST", error=str(error))
        self._stopped.wait(self._pauses.next_s(error.retry_after_s))

    def _answered(self) -> Iterator[Event]:
        """Take note that the cluster answers."""
        self._allowed, self._denied_since_s = True, None
        if self._lost:
            self._lost = False
            yield Event("FOUND")

    def _list(self) -> Iterator[Event]:
        seen: dict[str, tuple[str, bytes]] = {}
        version = ""
        pages = list_pages(
            self._client, self._path, self._selector, patience_s=_LIST_PATIENCE_S
        )
        for page in pages:
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
        # The answer's head comes at once; who is slow with it is given more time, as by `request`.
        open_s = min(FIRST_READ_TIMEOUT_S * 2**self._failures, READ_TIMEOUT_S)
        stream = self._client.stream(
            self._path, query, silence_s=self._silence_s, open_timeout_s=open_s, patience_s=0
        )
        began_s, buffer, told = time.monotonic(), b"", False
        try:
            with stream:
                yield from self._answered()
                self._stream = stream
                for piece in stream if not self._stopped.is_set() else ():
                    *lines, buffer = (buffer + piece).split(b"\n")
                    for line in lines:
                        if self._stopped.is_set():
                            return
                        event = self._parse(line)
                        told = True
                        if event is not None:
                            yield event
        finally:
            worked = told or time.monotonic() - began_s > _SHORTEST_WATCH_S
            if worked:
                self._failures, self._pauses = 0, Pauses()
        if not worked:
            raise UnreachableError(f"{self._client.name}: the watch of {self._path} ended at once")

    def _parse(self, line: bytes) -> Event | None:
        if not line.strip():
            return None
        try:
            data = json.loads(line)
            kind, item = data["type"], data["object"]
        except (ValueError, TypeError, KeyError) as error:
            raise UnreachableError(
                f"{self._client.name}: the watch of {self._path} tells no events: {line[:200]!r}"
            ) from error
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

"""Every HTTP request that this process sends, whoever sends it, by kind and with its time.

MLflow's client, Kubernetes' and those of Hadoop's daemons stand on urllib3, so that one place sees
all of them, retries included.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import urllib3

WRITES = ("POST", "PUT", "PATCH", "DELETE")
_NAMES = re.compile(
    r"mlflow-[0-9a-f]{32}-\d+(-pod)?|[0-9a-f]{32}|(?<=/namespaces/)[^/]+(?=/)|application_\d+_\d+"
)
_MLFLOW = re.compile(r"^/api/[\d.]+/mlflow(-artifacts)?/")


@dataclass(frozen=True)
class Request:
    """One request: to whom, what, and how long its answer took."""

    place: str
    method: str
    path: str
    took_s: float

    @property
    def to_mlflow(self) -> bool:
        """Whether it went to a tracking server."""
        return bool(_MLFLOW.match(self.path))

    @property
    def kind(self) -> str:
        """Its method and path, without what is different in each."""
        return f"{self.method} {_NAMES.sub('*', self.path)}"


@dataclass
class Sent:
    """The requests since the ``with`` began."""

    requests: list[Request] = field(default_factory=list)

    def kinds(self, *, to_mlflow: bool) -> Counter[str]:
        """Count those to the tracking server, or all others, by kind."""
        return Counter(r.kind for r in self.requests if r.to_mlflow is to_mlflow)

    def writes(self) -> list[Request]:
        """Return those that write to the cluster."""
        return [r for r in self.requests if r.method in WRITES and not r.to_mlflow]


@contextmanager
def sent(*threads: str) -> Iterator[Sent]:
    """Note what is sent meanwhile: by the threads whose names begin so, or by all."""
    noted, lock = Sent(), threading.Lock()
    pool = urllib3.connectionpool.HTTPConnectionPool
    send: Callable[..., Any] = pool.urlopen

    def urlopen(self: Any, method: str, url: str, *rest: Any, **more: Any) -> Any:
        start_s = time.perf_counter()
        try:
            return send(self, method, url, *rest, **more)
        finally:
            took_s = time.perf_counter() - start_s
            request = Request(f"{self.host}:{self.port}", method, url.partition("?")[0], took_s)
            if not threads or threading.current_thread().name.startswith(threads):
                with lock:
                    noted.requests.append(request)

    pool.urlopen = urlopen  # type: ignore[method-assign]
    try:
        yield noted
    finally:
        pool.urlopen = send  # type: ignore[method-assign]


def show_kinds(title: str, columns: Mapping[str, Counter[str]]) -> None:
    """Print counts as a table: a row for each kind, a column for each size."""
    print(f"\n### {title}\n")
    print(f"| request | {' | '.join(columns)} |")
    print("| --- |" + " --- |" * len(columns))
    for kind in sorted({kind for counts in columns.values() for kind in counts}):
        print(f"| `{kind}` | {' | '.join(str(counts[kind]) for counts in columns.values())} |")

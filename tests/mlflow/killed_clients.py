"""Client processes that are killed with SIGKILL, or held, before or after a chosen remote call.

A point is written ``before 2 POST /api/2.0/mlflow/runs/log-batch``: the second such call of the
process. Threads interleave differently each time; so calls are counted by name, not overall.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlflow_exec.testing.collecting import until
from tests.mlflow.k8s_runs import K8sRuns

# Python imports it when it starts. MLflow's REST calls and artifacts go by requests, and that and
# the Kubernetes client send all they have by this method of urllib3; a connection that something
# else makes is written down as such.
_WRAPPER = """
import json, os, re, signal, sys, threading, time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit
from urllib3.connectionpool import HTTPConnectionPool

send, lock, counts, inside = HTTPConnectionPool.urlopen, threading.Lock(), {}, threading.local()


def say(line):
    with lock, open(os.environ["CALLS"], "a") as file:
        file.write(line + "\\n")


def name_of(method, url, body):
    parts = urlsplit(url)
    path = re.sub("(?<=/pods/)[^/]+", "POD", re.sub("[0-9a-f]{32}", "RUN", parts.path))
    told = sorted({"watch", "dryRun"} & set(parse_qs(parts.query)))
    if method == "PATCH":
        told += json.loads(body)
    return " ".join([method, path, *told])


def reached(point):
    if point == os.environ.get("KILL_AT"):
        os.kill(os.getpid(), signal.SIGKILL)
    if point == os.environ.get("HOLD_AT"):
        say(point)
        while not Path(os.environ["GO_ON"]).exists():
            time.sleep(0.05)


def urlopen(self, method, url, body=None, *args, **kwargs):
    name = name_of(method, url, body)
    with lock:
        counts[name] = counts.get(name, 0) + 1
        call = f"{counts[name]} {name}"
    say(call)
    reached(f"before {call}")
    inside.urlopen = True
    try:
        answer = send(self, method, url, body, *args, **kwargs)
    finally:
        inside.urlopen = False
    reached(f"after {call}")
    return answer


def on_event(event, arguments):
    if event == "socket.connect" and not getattr(inside, "urlopen", False):
        say(f"past the count: {arguments[1]}")


HTTPConnectionPool.urlopen = urlopen
sys.addaudithook(on_event)
"""


def both(calls: Sequence[str]) -> list[str]:
    """Return the points before and after each of these calls."""
    return [f"{when} {call}" for call in calls for when in ("before", "after")]


def writes(call: str) -> bool:
    """Whether a call changes something on a server."""
    return call.split()[1] not in ("GET", "HEAD") and "dryRun" not in call


@dataclass
class Client:
    """A client's process.

    Attributes:
        point: Where it is killed; empty for one that is not.
    """

    process: subprocess.Popen[str]
    point: str
    file: Path
    go_on: Path

    def calls(self) -> list[str]:
        """Return the calls that it has made so far, and the points at which it was held."""
        return self.file.read_text().splitlines() if self.file.exists() else []

    @property
    def over(self) -> bool:
        return self.process.poll() is not None

    @property
    def killed(self) -> bool:
        return self.process.returncode == -signal.SIGKILL

    def said(self) -> str:
        """Return what it printed, when it is over."""
        return "".join(self.process.communicate(timeout=120))


@dataclass
class Clients:
    """Starts clients with a wrapper around what they send."""

    k8s: K8sRuns
    started: list[Client] = field(default_factory=list)

    @contextmanager
    def _environment(self, point: str, hold_at: str) -> Iterator[dict[str, str]]:
        folder = self.k8s.folder.parent / f"{self.k8s.folder.name}-clients"
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(_WRAPPER)
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")])
        files = folder / f"calls-{len(self.started)}", folder / f"go-on-{len(self.started)}"
        environment = {
            "PYTHONPATH": path, "TMPDIR": str(folder), "CALLS": str(files[0]), "KILL_AT": point,
            "HOLD_AT": hold_at, "GO_ON": str(files[1]), "A_SECRET": "s",
        }  # fmt: skip
        yield environment
        self.started.append(Client(self.k8s.processes[-1], point, *files))

    def mlflow_run(self, project: Path, *options: str, point: str = "", **changes: Any) -> Client:
        """Start ``mlflow run`` of what makes every kind of call; see `K8sRuns.mlflow_run`."""
        settings = {"source": "artifact", "secrets": {"A": {"env": "A_SECRET"}}, **changes}
        options = ("--experiment-id", self.k8s.experiment_id, *options)
        with self._environment(point, "") as environment:
            self.k8s.mlflow_run(project, *options, env=environment, **settings)
        return self.started[-1]

    def attach(self, run_id: str, *, point: str = "", hold_at: str = "") -> Client:
        """Start ``mlflow-exec attach``; one that is held goes on when its ``go_on`` is there."""
        with self._environment(point, hold_at) as environment:
            self.k8s.command_line("mlflow-exec", "attach", run_id, env=environment)
        return self.started[-1]

    def room(self, at_a_time: int) -> None:
        """Wait until fewer than so many clients are there."""
        until(
            lambda: sum(not client.over for client in self.started) < at_a_time,
            "a client is over",
            180,
        )

"""Client processes that are killed with SIGKILL, or held, before or after a chosen remote call.

A point is written ``before 2 POST /api/2.0/mlflow/runs/log-batch``: the second such call of the
process. Threads interleave differently each time; so calls are counted by name, not overall.
``within`` is when a part of a file has been sent, or soon after a step began.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from mlflow_exec.testing.collecting import until
from tests.mlflow.k8s_runs import K8sRuns
from tests.mlflow.submitted_runs import SubmittedRuns
from tests.mlflow.yarn_runs import YarnRuns

Runs = TypeVar("Runs", bound=SubmittedRuns)

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
    query = parse_qs(parts.query)
    path = re.sub("(?<=/pods/)[^/]+", "POD", re.sub("[0-9a-f]{32}", "RUN", parts.path))
    path = re.sub("[.][0-9a-f]{8}[.]part$", ".PART", path)
    path = re.sub("(application|container)_[0-9_]+", lambda match: match[1].upper(), path)
    told = [*sorted({"watch", "dryRun"} & set(query)), *query.get("op", [])]
    if method == "PATCH":
        change = json.loads(body)
        told += change if isinstance(change, dict) else ["JSON"]
    return " ".join([method, path, *told])


def reached(point):
    if point == os.environ.get("KILL_AT"):
        os.kill(os.getpid(), signal.SIGKILL)
    if point == os.environ.get("HOLD_AT"):
        say(point)
        while not Path(os.environ["GO_ON"]).exists():
            time.sleep(0.05)


class Body:  # a file that is sent, which is read piece by piece
    def __init__(self, file, call):
        self.file, self.call, self.pieces = file, call, 0

    def read(self, *size):
        self.pieces += 1
        if self.pieces == 2:
            reached(f"within {self.call}")
        return self.file.read(*size)


def pieces_of(body, call):
    for number, piece in enumerate(body):
        if number == 1:
            reached(f"within {call}")
        yield piece


def begin(name):
    with lock:
        counts[name] = counts.get(name, 0) + 1
        call = f"{counts[name]} {name}"
    say(call)
    reached(f"before {call}")
    return call


def urlopen(self, method, url, body=None, *args, **kwargs):
    call = begin(name_of(method, url, body))
    if hasattr(body, "read"):
        body = Body(body, call)
    elif hasattr(body, "__iter__") and not isinstance(body, (bytes, str)):
        body = pieces_of(body, call)
    inside.urlopen = True
    try:
        answer = send(self, method, url, body, *args, **kwargs)
    finally:
        inside.urlopen = False
    reached(f"after {call}")
    return answer


def counted(name, step):
    def counting(*args, **kwargs):
        call = begin(name)
        soon = threading.Timer(0.3, reached, [f"within {call}"])
        soon.daemon = True
        soon.start()
        result = step(*args, **kwargs)
        soon.cancel()
        reached(f"after {call}")
        return result

    return counting


def on_event(event, arguments):
    if event == "socket.connect" and not getattr(inside, "urlopen", False):
        say(f"past the count: {arguments[1]}")


HTTPConnectionPool.urlopen = urlopen
sys.addaudithook(on_event)
"""


# Importing MLflow takes seconds, so it is done once, by a process that each client is forked from
# before anything was sent. A process in between waits for it, and writes down how it ended.
_FORKS = """
import importlib, json, os, signal, sys
import sitecustomize
import mlflow.cli, mlflow.projects, mlflow_exec.cli
import mlflow_exec.plugins.project_k8s, mlflow_exec.runs.attach, mlflow_exec.runs.submit
import mlflow_exec.schedulers.kubernetes, mlflow_exec.schedulers.ray, mlflow_exec.schedulers.yarn

signal.signal(signal.SIGCHLD, signal.SIG_IGN)
for line in sys.stdin:
    order = json.loads(line)
    if os.fork():
        continue
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    client = os.fork()
    if client:
        code = os.waitstatus_to_exitcode(os.waitpid(client, 0)[1])
        with open(order["ended"] + ".new", "w") as file:
            file.write(str(code))
        os.rename(file.name, order["ended"])
        os._exit(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(said, 1)
    os.dup2(said, 2)
    os.environ.update(order["environment"])
    for name, (module, owner, method) in order["steps"].items():
        owner = getattr(importlib.import_module(module), owner)
        setattr(owner, method, sitecustomize.counted(name, getattr(owner, method)))
    sys.argv = order["arguments"]
    commands = {"mlflow": mlflow.cli.cli, "mlflow-exec": mlflow_exec.cli.main}
    sys.exit(commands[sys.argv[0]]())
"""


def both(calls: Sequence[str]) -> list[str]:
    """Return the points before and after each of these calls."""
    return [f"{when} {call}" for call in calls for when in ("before", "after")]


def writes(call: str) -> bool:
    """Whether a call changes something on a server; a dry run and a review only ask."""
    asks = "dryRun" in call or "/authorization.k8s.io/" in call
    return call.split()[1] not in ("GET", "HEAD") and not asks


@dataclass
class Client:
    """A client's process.

    Attributes:
        point: Where it is killed; empty for one that is not.
        folder: What it writes, and what is written of it.
    """

    point: str
    folder: Path

    def calls(self) -> list[str]:
        """Return the calls that it has made so far, and the points at which it was held."""
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []

    def go_on(self) -> None:
        """Let it go on from where it is held."""
        (self.folder / "go-on").touch()

    @property
    def over(self) -> bool:
        return (self.folder / "ended").exists()

    @property
    def code(self) -> int:
        """Its exit code, when it is over; -n where signal n killed it."""
        until(lambda: self.over, f"the client is over: {self.folder}")
        return int((self.folder / "ended").read_text())

    @property
    def killed(self) -> bool:
        return self.code == -signal.SIGKILL

    def said(self) -> str:
        """Return what it printed, when it is over."""
        return f"exit code {self.code}\n{self.said_so_far()}"

    def said_so_far(self) -> str:
        """Return what it has printed; nothing before it has begun."""
        file = self.folder / "said"
        return file.read_text() if file.exists() else ""


@dataclass
class ClientsOf(Generic[Runs]):
    """Starts clients with a wrapper around what they send.

    Attributes:
        runs: What they submit to.
        started: All of them.
        settings: Of the backend, with which every kind of call is made.
        steps: What counts as a call though urllib3 does not send it, by name: the module, the
            class and the method that does it.
    """

    runs: Runs
    started: list[Client] = field(default_factory=list)
    settings: ClassVar[Mapping[str, Any]] = {"source": "artifact"}
    steps: ClassVar[Mapping[str, tuple[str, str, str]]] = {}
    _forks: subprocess.Popen[str] | None = None

    @property
    def _folder(self) -> Path:
        return self.runs.folder.parent / f"{self.runs.folder.name}-clients"

    def _start(self, *arguments: str, point: str, hold_at: str) -> Client:
        if self._forks is None:
            self._folder.mkdir()
            (self._folder / "sitecustomize.py").write_text(_WRAPPER)
            path = os.pathsep.join([str(self._folder), os.environ.get("PYTHONPATH", "")])
            self._forks = subprocess.Popen(
                [sys.executable, "-c", _FORKS], stdin=subprocess.PIPE, text=True, bufsize=1,
                env=self.runs.environment(PYTHONPATH=path, A_SECRET="s"), start_new_session=True,
            )  # fmt: skip
        folder = self._folder / str(len(self.started))
        folder.mkdir()
        order = {
            "arguments": arguments, "said": str(folder / "said"), "ended": str(folder / "ended"),
            "steps": dict(self.steps), "environment": {
                "TMPDIR": str(folder), "CALLS": str(folder / "calls"), "KILL_AT": point,
                "HOLD_AT": hold_at, "GO_ON": str(folder / "go-on"),
            },
        }  # fmt: skip
        assert self._forks.stdin is not None
        self._forks.stdin.write(json.dumps(order) + "\n")
        self.started.append(Client(point, folder))
        return self.started[-1]

    def mlflow_run(
        self, project: Path, *options: str, point: str = "", hold_at: str = "", **changes: Any
    ) -> Client:
        """Start ``mlflow run`` of what makes every kind of call; further settings by name."""
        settings = {**self.settings, "secrets": {"A": {"env": "A_SECRET"}}, **changes}
        arguments = self.runs.arguments(project, **settings)
        options = ("--experiment-id", self.runs.experiment_id, *options)
        return self._start(*arguments, *options, point=point, hold_at=hold_at)

    def attach(self, run_id: str, *, point: str = "", hold_at: str = "") -> Client:
        """Start ``mlflow-exec attach``; one that is held waits for `Client.go_on`."""
        return self._start("mlflow-exec", "attach", run_id, point=point, hold_at=hold_at)

    def room(self, at_a_time: int) -> None:
        """Wait until fewer than so many clients are there."""
        until(
            lambda: sum(not client.over for client in self.started) < at_a_time,
            "a client is over",
            180,
        )

    def close(self) -> None:
        """End the clients that are still there."""
        if self._forks is None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._forks.pid, signal.SIGKILL)
        self._forks.wait()
        assert self._forks.stdin is not None
        self._forks.stdin.close()


class Clients(ClientsOf[K8sRuns]):
    """Clients of jobs on Kubernetes."""

    @property
    def k8s(self) -> K8sRuns:
        return self.runs


class YarnClients(ClientsOf[YarnRuns]):
    """Clients of jobs on YARN, which are submitted by a process of Java."""

    settings: ClassVar[Mapping[str, Any]] = {"source": "hdfs"}
    steps: ClassVar[Mapping[str, tuple[str, str, str]]] = {
        "START": ("mlflow_exec.clients.skein_process", "DriverProcess", "__init__"),
        "SUBMIT": ("mlflow_exec.clients.skein", "_Running", "submit"),
    }

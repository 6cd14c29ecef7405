"""Processes that outlive whoever started them, known again by number and start time.

A process is written down in a file before anything else happens to it, so that a later session can
end what an earlier one, killed without warning, has left.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

_AHEAD = -10


@dataclass(frozen=True)
class Process:
    """One process of this machine; a number used again by another process is not it."""

    pid: int
    start_ticks: int
    """Its start in clock ticks since the machine's own start: field 22 of /proc/<pid>/stat."""

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """Return the living process of a number, None when there is none (or only a zombie).

        A killed process whose first thread is a zombie still has its sockets until the last
        thread has ended.
        """
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            threads = len(os.listdir(f"/proc/{pid}/task"))
        except (FileNotFoundError, ProcessLookupError):
            return None
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] in "ZX" and threads <= 1 else cls(pid, int(fields[19]))

    @classmethod
    def current(cls) -> Process:
        """Return the process that asks."""
        process = cls.of(os.getpid())
        assert process is not None
        return process

    @classmethod
    def read(cls, path: Path) -> Process | None:
        """Return the process written down in a file if it still lives."""
        try:
            process = cls(**json.loads(path.read_text()))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return process if process.alive() else None

    def write(self, path: Path) -> None:
        """Write it down in a file."""
        path.write_text(json.dumps(asdict(self)))

    def alive(self) -> bool:
        """Tell whether it still runs; reaps it when it was this process's own child."""
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, os.WNOHANG)
        return Process.of(self.pid) == self

    def end(self, *, grace_s: float) -> None:
        """End it by SIGTERM, after `grace_s` by SIGKILL; returns when it is gone."""
        for sign, patience_s in ((signal.SIGTERM, grace_s), (signal.SIGKILL, 30.0)):
            if patience_s > 0 and self.alive():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, sign)
                if appears(lambda: not self.alive(), timeout_s=patience_s):
                    return


def start(
    command: Sequence[str],
    *,
    log: Path,
    record: Path,
    environment: Mapping[str, str] | None = None,
    ahead: bool = False,
) -> Process:
    """Start a process in a session of its own, its output appended to `log`.

    With `ahead` it comes before others where the machine has too much to do, as if it had a machine
    of its own, which the servers of a cluster usually have.

    Raises:
        FileNotFoundError: the program is not there.
    """
    program = shutil.which(command[0], path=(environment or os.environ).get("PATH"))
    if program is None:
        raise FileNotFoundError(f"{command[0]}: no such program on PATH")
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, nothing, 0)]
    actions += [(os.POSIX_SPAWN_DUP2, output, number) for number in (1, 2)]
    try:
        # Not subprocess: its object warns when a child is left running, and that is the purpose.
        pid = os.posix_spawn(
            program, list(command), environment or os.environ, file_actions=actions, setsid=True
        )
    finally:
        os.close(output)
        os.close(nothing)
    if ahead:
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, pid, _AHEAD)
    process = Process.of(pid)
    if process is None:
        raise RuntimeError(f"{command[0]}: ended at once; see {log}")
    process.write(record)
    return process


def appears(condition: Callable[[], object], *, timeout_s: float, interval_s: float = 0.05) -> bool:
    """Poll until `condition()` is true; False when it was not within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval_s)
    return True

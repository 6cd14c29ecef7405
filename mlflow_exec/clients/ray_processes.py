"""The processes of one Ray on this machine, found by their session and a mark they inherit.

Ray puts the processes of its jobs in sessions of their own, and they outlive their parents: only
the environment tells whose they are. Its own processes stay in its session, and some of them write
their title over their environment.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_POLL_S = 0.1
_GRACE_S = 5.0


def started(pid: int) -> str | None:
    """Return when a living process started, in units of the system; None if it does not live."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # ours, if this process started it: no zombie of it is left
    if (_PROC / "self" / "stat").exists():
        try:
            fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        except (OSError, UnicodeDecodeError):
            return None
        # With its first thread a zombie, a killed process still has its files until the last ends.
        return None if fields[0] in "ZX" and int(fields[17]) <= 1 else fields[19]
    answer = _ps("-o", "stat=,lstart=", "-p", str(pid)).strip()
    return None if not answer or answer.startswith("Z") else answer.partition(" ")[2].strip()


def environment(pid: int) -> dict[str, str] | None:
    """Return the environment that a process was started with; None where it cannot be read."""
    try:
        data = (_PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return None
    pairs = (os.fsdecode(item).partition("=") for item in data.split(b"\0") if item)
    return {name: value for name, _, value in pairs}


@dataclass(frozen=True)
class Family:
    """The processes that descend from one.

    Attributes:
        pid: The first process, the leader of its session.
        since: Its start, so that a later process of that number is not taken for it.
        mark: ``NAME=value`` in the environment of all.
    """

    pid: int
    since: str
    mark: str

    def living(self) -> list[int]:
        """Return those that live."""
        # The system gives a number out again only when no session has it any more.
        ours = started(self.pid) in (None, self.since)
        in_session = [pid for pid in _all() if ours and _session(pid) == self.pid]
        return sorted(pid for pid in {*in_session, *_of_mark(self.mark)} if started(pid))

    def end(self, *, timeout_s: float) -> list[int]:
        """End all of them: the first one politely, then all by SIGKILL.

        Args:
            timeout_s: When to give up.

        Returns:
            The processes that are still there.
        """
        end_s = time.monotonic() + timeout_s
        kill_from_s = time.monotonic() + _GRACE_S
        # A process that is dying has no environment any more to be known by.
        seen = {pid: started(pid) for pid in self.living()}
        if started(self.pid) == self.since:
            _signal(self.pid, signal.SIGTERM)
        while True:
            seen |= {pid: started(pid) for pid in self.living()}
            left = sorted(pid for pid, since in seen.items() if since and started(pid) == since)
            if not left or time.monotonic() > end_s:
                return left
            # The first one ends last. What outlives it has nobody left who would end it.
            if time.monotonic() > kill_from_s or started(self.pid) != self.since:
                for other in left:
                    _signal(other, signal.SIGKILL)
            time.sleep(_POLL_S)


def _all() -> list[int]:
    if (_PROC / "self" / "stat").exists():
        return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]
    return [int(pid) for pid in _ps("-A", "-o", "pid=").split()]


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except OSError:
        return None


def _of_mark(wanted: str) -> list[int]:
    if not (_PROC / "self" / "environ").exists():
        listed = _ps("-A", "-E", "-ww", "-o", "pid=,command=").splitlines()
        return [int(line.split()[0]) for line in listed if wanted in line.split()[1:]]
    found = []
    for pid in _all():
        with contextlib.suppress(OSError):
            environ = (_PROC / str(pid) / "environ").read_bytes()
            if os.fsencode(wanted) in environ.split(b"\0"):
                found.append(pid)
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _ps(*arguments: str) -> str:
    result = subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False)
    return result.stdout

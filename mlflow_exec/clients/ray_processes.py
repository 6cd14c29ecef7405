"""The processes of one Ray on this machine, found by a mark in their environment.

Ray puts the processes of its jobs in sessions and process groups of their own, and they outlive
their parents; the environment is what they all inherit.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
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
        return None if fields[0] in "ZX" else fields[19]
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


def of_mark(name: str, value: str) -> list[int]:
    """Return the living processes that have this variable with this value in their environment."""
    wanted = f"{name}={value}"
    if not (_PROC / "self" / "environ").exists():
        listed = _ps("-A", "-E", "-ww", "-o", "pid=,command=").splitlines()
        return sorted(int(line.split()[0]) for line in listed if wanted in line.split()[1:])
    found = []
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            if os.fsencode(wanted) in (entry / "environ").read_bytes().split(b"\0") and started(
                int(entry.name)
            ):
                found.append(int(entry.name))
    return sorted(found)


def end_all(name: str, value: str, pid: int, since: str, *, timeout_s: float) -> list[int]:
    """End every process with the mark: the first one politely, then all by SIGKILL.

    Args:
        name: The variable.
        value: Its value.
        pid: The first process, which ends the others when it is asked to.
        since: Its start, so that a later process of that number is left alone.
        timeout_s: When to give up.

    Returns:
        The processes that are still there.
    """
    end_s = time.monotonic() + timeout_s
    kill_from_s = time.monotonic() + _GRACE_S
    if started(pid) == since:
        _signal(pid, signal.SIGTERM)
    else:
        kill_from_s = 0.0
    while True:
        left = of_mark(name, value)
        if not left or time.monotonic() > end_s:
            return left
        # The first one ends last. What outlives it has nobody left who would end it.
        if time.monotonic() > kill_from_s or started(pid) != since:
            for other in left:
                _signal(other, signal.SIGKILL)
        time.sleep(_POLL_S)


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _ps(*arguments: str) -> str:
    result = subprocess.run(["ps", *arguments], capture_output=True, text=True, check=False)
    return result.stdout

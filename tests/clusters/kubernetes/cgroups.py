"""The cgroup that holds every pod of one cluster, in version 1 or 2."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.clusters.processes import appears

_CONTROLLERS = ("cpu", "cpuset", "memory", "pids", "hugetlb")


def make(name: str) -> None:
    """Make the cgroup `name` below the root of every hierarchy, with what the kubelet needs."""
    for top in _hierarchies():
        unified = top / "cgroup.controllers"
        if unified.exists():
            there = set(unified.read_text().split()) & set(_CONTROLLERS)
            if there:  # none where version 1 has them and version 2 only stands beside it
                enabled = " ".join(f"+{controller}" for controller in there)
                (top / "cgroup.subtree_control").write_text(enabled)
        (top / name).mkdir(exist_ok=True)
        for setting in ("cpuset.cpus", "cpuset.mems"):
            # A new cpuset of version 1 is empty, and nothing can run in it.
            if not unified.exists() and (top / name / setting).exists():
                (top / name / setting).write_text((top / setting).read_text())


def end(name: str) -> None:
    """Kill whatever runs in the cgroup and remove it with all below it."""
    for top in _hierarchies():
        if (top / name).is_dir():
            appears(partial(_empty, top / name), timeout_s=30)
            _remove(top / name)


def _hierarchies() -> Iterator[Path]:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, point, kind, *_ = line.split()
        if kind in ("cgroup", "cgroup2"):
            yield Path(point)


def _empty(folder: Path) -> bool:
    """Kill every process in a cgroup; tell whether there was none."""
    pids: list[str] = []
    for procs in folder.rglob("cgroup.procs"):
        with contextlib.suppress(FileNotFoundError):
            pids += procs.read_text().split()
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    return not pids


def _remove(folder: Path) -> None:
    for path, _, _ in os.walk(folder, topdown=False):
        # A cgroup stays busy for a moment after its last process has ended.
        appears(partial(_gone, path), timeout_s=10)


def _gone(path: str) -> bool:
    with contextlib.suppress(OSError):
        os.rmdir(path)
    return not Path(path).exists()

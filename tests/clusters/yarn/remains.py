"""Ends and removes all of a cluster, whole or half dead, whoever started it."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.clusters.cache import cache_folder, discard, locked
from tests.clusters.processes import Process, appears
from tests.clusters.ray_cgroup import MemoryCgroup

CGROUP_PREFIX = "mlflow-exec-test-"


def claim() -> Path:
    """Return a new folder for a cluster of this process, after removal of those of dead ones."""
    _folders().mkdir(parents=True, exist_ok=True)
    with locked(_folders() / "lock"):
        _clean_dead()
        folder = Path(tempfile.mkdtemp(prefix="yarn-", dir=_folders()))
        Process.current().write(folder / "owner.json")
        return folder


def clean_dead() -> None:
    """Remove every cluster whose owner is dead, with all it left running."""
    _folders().mkdir(parents=True, exist_ok=True)
    with locked(_folders() / "lock"):
        _clean_dead()


def remove(folder: Path) -> None:
    """End every process of a cluster and remove its folder; safe to repeat.

    Raises:
        RuntimeError: a process of a container does not end.
    """
    # The NodeManagers first: they would start what ends. Nobody needs what the others would save.
    for record in sorted(folder.glob("processes/*.json"), reverse=True):
        if process := Process.read(record):
            process.end(grace_s=0)
    if not appears(lambda: not _killed(folder), timeout_s=30):
        raise RuntimeError(f"{folder}: processes do not end: {list(_processes(folder))}")
    MemoryCgroup.remove_empty(CGROUP_PREFIX + folder.name)
    discard(folder)


def containers(folder: Path) -> dict[str, list[int]]:
    """Return the processes of every container that runs on a cluster, by the container's id."""
    found: dict[str, list[int]] = {}
    for pid in sorted(_processes(folder)):
        with contextlib.suppress(OSError):
            for variable in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                if variable.startswith(b"CONTAINER_ID="):
                    found.setdefault(variable.decode().partition("=")[2], []).append(pid)
    return found


def _processes(folder: Path) -> Iterator[int]:
    """Yield the number of every NodeManager and of every process that one has started.

    The latter work below the folder and know it by a variable that YARN sets; in a cgroup they are
    found whatever they have made of themselves.
    """
    inside = f"{folder}/nodes/".encode()
    cgroup = f"/{CGROUP_PREFIX}{folder.name}\n".encode()
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (entry / "environ").read_bytes().split(b"\0")
            if (
                any(variable.startswith(b"LOCAL_DIRS=" + inside) for variable in variables)
                or inside in (entry / "cmdline").read_bytes()
                or cgroup in (entry / "cgroup").read_bytes()
            ):
                yield int(entry.name)


def _killed(folder: Path) -> list[int]:
    """Kill what is left; return what there was."""
    found = list(_processes(folder))
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return found


def _clean_dead() -> None:
    for folder in _folders().glob("yarn-*"):
        if Process.read(folder / "owner.json") is None:
            remove(folder)


def _folders() -> Path:
    return cache_folder() / "run-yarn"

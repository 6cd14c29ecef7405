"""What tests of jobs on a real Ray have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow_exec.jobs import JobHandle, JobState, JobStatus
from mlflow_exec.schedulers.ray import RayScheduler
from mlflow_exec.settings import BackendSettings, RaySettings, parse_settings
from mlflow_exec.testing.jobs import JobMaker
from tests.clusters.pytest_ray import RayCluster


@contextmanager
def ray_jobs(cluster: RayCluster, folder: Path, **chosen: Any) -> Iterator[JobMaker]:
    """Make jobs on a Ray, small ones unless the settings say otherwise; they are stopped after."""

    def settings(further: Mapping[str, Any]) -> BackendSettings:
        given = {"resources": {"cpu": 0.25}, **chosen, **further}
        return parse_settings(RaySettings, cluster.settings(**given), "test")

    maker = JobMaker(RayScheduler, settings, folder)
    yield maker
    maker.close()


def is_in(state: JobState) -> Callable[[list[JobStatus | None]], bool]:
    """Return a check that the last status is in this state."""
    return lambda seen: bool(seen) and seen[-1] is not None and seen[-1].state is state


def driver_processes(handle: JobHandle, script: str) -> list[int]:
    """Return the processes of a job on this machine whose command line has this in it.

    The children of such a process do not count: between fork and exec they show its command line.
    """
    parents: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes()
            environment = (entry / "environ").read_bytes()
            if script.encode() in command and handle.name.split("-")[1].encode() in environment:
                pid = int(entry.name)
                parents[pid] = parent_of(pid)
        except OSError:
            continue
    return [pid for pid, parent in parents.items() if parent not in parents]


def parent_of(pid: int) -> int:
    """Return the process that started this one."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])

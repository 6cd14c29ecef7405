"""A cgroup with a limit on memory, in version 1 or 2."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

from tests.clusters.processes import appears

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class MemoryCgroup:
    """A cgroup of memory; a process joins it by writing its number into `procs`."""

    folder: Path

    @classmethod
    def make(cls, name: str, limit_bytes: int) -> MemoryCgroup | None:
        """Make one with a limit; None where this machine or this user has no right to."""
        unified = (_V2 / "cgroup.controllers").exists()
        folder = (_V2 if unified else _V1) / name
        limit = "memory.max" if unified else "memory.limit_in_bytes"
        try:
            if unified:
                (_V2 / "cgroup.subtree_control").write_text("+memory")
            folder.mkdir(exist_ok=True)
            (folder / limit).write_text(str(limit_bytes))
        except OSError:
            with contextlib.suppress(OSError):
                folder.rmdir()
            return None
        return cls(folder)

    @property
    def procs(self) -> Path:
        """The file that takes the numbers of processes."""
        return self.folder / "cgroup.procs"

    def remove(self) -> None:
        """Remove it once its last process has ended."""
        appears(lambda: _gone(self.folder), timeout_s=30)

    @staticmethod
    def remove_empty(prefix: str) -> None:
        """Remove those of dead sessions; one with a living process stays."""
        for top in (_V1, _V2):
            for folder in top.glob(f"{prefix}*"):
                _gone(folder)


def _gone(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        os.rmdir(folder)
    return not folder.exists()

"""Which cluster numbers of this machine are in use, and by whom.

Written below /run, where a machine that starts anew finds none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tests.clusters.cache import discard, locked
from tests.clusters.kubernetes import network, remains
from tests.clusters.kubernetes.slots import CLAIMS, Slot
from tests.clusters.processes import Process

_COUNT = 16
_LOCK = CLAIMS / "lock"


def claim(folder: Path) -> Slot:
    """Take a free number for this process, after removal of every cluster whose owner is dead.

    Raises:
        RuntimeError: every number is in use.
    """
    clean_dead()
    with locked(_LOCK):
        taken = network.addresses()
        for number in range(_COUNT):
            slot = Slot(number, folder)
            if slot.run.exists() or any(slot.node_ip in line for line in taken):
                continue
            slot.run.mkdir(parents=True)
            slot.claimed_by(Process.current())
            network.remember_sysctls(CLAIMS / "sysctls.json")
            return slot
    raise RuntimeError(f"a cluster for tests: all {_COUNT} numbers below {CLAIMS} are in use")


def release(slot: Slot) -> None:
    """Give a number back; the last one out restores what the kubelet changed in the kernel."""
    with locked(_LOCK):
        discard(slot.run)
        if not list(claimed()):
            network.restore_sysctls(CLAIMS / "sysctls.json")


def clean_dead() -> None:
    """Remove every cluster whose owner is dead, with all it left running."""
    with locked(_LOCK):
        for slot in claimed():
            if not slot.alive():
                remains.remove(slot)
                discard(slot.run)


def claimed() -> Iterator[Slot]:
    """Yield every cluster of this machine, dead ones too."""
    for record in sorted(CLAIMS.glob("*/claim.json")):
        yield Slot(int(record.parent.name), Path(json.loads(record.read_text())["folder"]))


def at(folder: Path) -> Slot | None:
    """Return the cluster whose files are in a folder."""
    return next((slot for slot in claimed() if slot.folder == folder.absolute()), None)

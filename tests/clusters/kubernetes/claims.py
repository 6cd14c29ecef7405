"""Which cluster numbers of this machine are in use, and by whom.

Written below /run, where a machine that starts anew finds none.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.clusters.cache import cache_folder, discard, locked
from tests.clusters.kubernetes import network, remains
from tests.clusters.kubernetes.slots import CLAIMS, Slot
from tests.clusters.processes import Process

_COUNT = 16
_LOCK = CLAIMS / "lock"
_MARK = "cluster-of-mlflow-exec-tests"  # in every folder that may be deleted


def claim(folder: Path | None) -> Slot:
    """Take a free number for this process, after removal of every cluster whose owner is dead.

    Args:
        folder: where the cluster's files are to be kept; by default a new folder in the cache.

    Raises:
        RuntimeError: every number is in use, or the folder holds something else.
    """
    with locked(_LOCK):
        _clean_dead()
        taken = network.addresses()
        for number in range(_COUNT):
            slot = Slot(number, Path())
            if slot.run.exists() or any(slot.node_ip in line for line in taken):
                continue
            slot = Slot(number, _prepared(folder))
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
        _clean_dead()


def _clean_dead() -> None:
    for slot in list(claimed()):
        if not slot.alive():
            remains.remove(slot)
            discard(slot.run)
    known = {slot.folder for slot in claimed()}
    for folder in _folders().glob("*"):
        # Of a machine that has started anew since: no process and no mount of it is left.
        if folder not in known and not list(remains.mounts(folder)):
            discard(folder)


def _folders() -> Path:
    return cache_folder() / "run"


def _prepared(folder: Path | None) -> Path:
    if folder is None:
        _folders().mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix="kubernetes-", dir=_folders()))
    elif at(folder):
        raise RuntimeError(f"{folder}: a cluster is there already; stop it or name another folder")
    elif (folder / _MARK).exists() and not list(remains.mounts(folder)):
        discard(folder)  # likewise
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise RuntimeError(f"{folder}: not empty; name another folder or remove what is in it")
    (folder / _MARK).touch()
    return folder.absolute()


def claimed() -> Iterator[Slot]:
    """Yield every cluster of this machine, dead ones too."""
    for record in sorted(CLAIMS.glob("*/claim.json")):
        yield Slot(int(record.parent.name), Path(json.loads(record.read_text())["folder"]))


def at(folder: Path) -> Slot | None:
    """Return the cluster whose files are in a folder."""
    return next((slot for slot in claimed() if slot.folder == folder.absolute()), None)

"""Ends and removes all of a cluster, whole or half dead, whoever started it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.clusters.cache import discard
from tests.clusters.kubernetes import cgroups, network
from tests.clusters.kubernetes.components import COMPONENTS, containerd_command
from tests.clusters.kubernetes.slots import Slot
from tests.clusters.processes import Process

_CONTAINER_LOGS = Path("/var/log/containers")  # a fixed place of the kubelet's: links to pod logs
_CNI_RESULTS = Path("/var/lib/cni/results")  # a fixed place of containerd's: one file per pod


def remove(slot: Slot) -> None:
    """End every process of a cluster and remove all it made but `slot.run`'s own folder.

    Raises:
        RuntimeError: something is still mounted below its folders; nothing below is deleted then.
    """
    # First what tests started beside it. Then the kubelet: it would start again what ends. Nobody
    # needs what the others would save.
    beside = {path.stem for path in slot.run.glob("*.json")} - {*COMPONENTS, slot.record.stem}
    for name in [*beside, *reversed(list(COMPONENTS))]:
        process = Process.read(slot.pid_file(name))
        if process and name == "containerd":
            _end_tasks(slot)
        if process:
            process.end(grace_s=5 if name == "containerd" else 0)
    cgroups.end(slot.name)
    _end_shims(slot)
    _unmount(slot)
    network.down(slot)
    _remove_files(slot)


def _end_tasks(slot: Slot) -> None:
    """Let containerd itself end its containers: it unmounts their file systems."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        listing = subprocess.run(
            containerd_command(slot, "tasks", "ls", "--quiet"),
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        if tasks := listing.stdout.split():
            command = containerd_command(slot, "tasks", "delete", "--force", *tasks)
            subprocess.run(command, capture_output=True, timeout=60, check=False)


def _end_shims(slot: Slot) -> None:
    """End the shims that a killed containerd has left: they name its socket as an argument."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"containerd-shim-runc-v2") and bytes(slot.socket) in words:
                os.kill(int(folder.name), signal.SIGKILL)
    for address in slot.run.glob("containerd/io.containerd.runtime.v2.task/k8s.io/*/address"):
        discard(Path(address.read_text().strip().removeprefix("unix://")))


def _unmount(slot: Slot) -> None:
    for point in reversed(list(mounts(slot.folder, slot.run))):
        subprocess.run(["umount", "--lazy", str(point)], capture_output=True, check=False)
    # A folder of the host can be mounted there: deleting through the mount would empty it.
    if left := list(mounts(slot.folder, slot.run)):
        raise RuntimeError(f"{slot.folder}: still mounted below it: {', '.join(map(str, left))}")


def mounts(*folders: Path) -> Iterator[Path]:
    """Yield every place below some folders on which something is mounted, outermost first."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = Path(line.split()[4].encode().decode("unicode_escape"))
        if any(point.is_relative_to(folder.absolute()) for folder in folders):
            yield point


def _remove_files(slot: Slot) -> None:
    if _CONTAINER_LOGS.is_dir():
        for link in _CONTAINER_LOGS.iterdir():
            if link.is_symlink() and link.readlink().is_relative_to(slot.folder):
                link.unlink()
    for result in _CNI_RESULTS.glob(f"{slot.name}-*-eth0"):
        pod = result.name.removeprefix(f"{slot.name}-").removesuffix("-eth0")
        for file in _CNI_RESULTS.glob(f"*-{pod}-*"):  # its loopback has one too
            file.unlink()
    discard(slot.folder)
    for path in slot.run.iterdir():
        if path != slot.record:
            discard(path)

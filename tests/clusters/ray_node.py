"""A further node of a Ray that the tests have started, on this machine.

It has the environment of the Ray's own processes, so it ends with them however a session ends, and
its files are in the Ray's folder and go with that.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mlflow_exec.clients import ray_processes
from mlflow_exec.clients.ray import RayClient
from mlflow_exec.clients.ray_processes import Family
from mlflow_exec.testing.collecting import until
from tests.clusters.processes import start

_MARK = "MLFLOW_EXEC_TEST_RAY_NODE"
_OBJECT_STORE_BYTES = 128 * 1024**2


@dataclass(frozen=True)
class RayNode:
    """A node that is up."""

    processes: Family
    folder: Path

    def logs(self) -> Path:
        """Return the folder with the logs of what runs on it."""
        (folder,) = self.folder.glob("session_2*/logs")
        return folder

    def kill(self) -> None:
        """End its raylet as a lost machine does: without a word to the rest of the Ray."""
        (raylet,) = [pid for pid in self.processes.living() if _program(pid) == "raylet"]
        os.kill(raylet, signal.SIGKILL)


@contextmanager
def joined(
    top: Path,
    client: RayClient,
    environment: Mapping[str, str],
    *,
    cpus: int,
    gpus: int,
    custom: Mapping[str, int],
) -> Iterator[RayNode]:
    """Start a node with these resources; it has left the Ray again afterwards.

    Args:
        top: The folder of the Ray.
        client: For its dashboard.
        environment: That of its processes.
        cpus: The node's CPUs.
        gpus: Its GPUs, in name.
        custom: What else it has.
    """
    mark = secrets.token_hex(8)
    folder = top / f"node-{mark[:4]}"  # short, for the sake of the sockets in it
    folder.mkdir()
    address_file = top / "ray_current_cluster"
    until(address_file.exists, "Ray has written its address down")
    process = start(
        [
            "ray", "start", f"--address={address_file.read_text().strip()}", "--block",
            f"--num-cpus={cpus}", f"--num-gpus={gpus}", f"--resources={json.dumps(custom)}",
            "--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0",
            f"--object-store-memory={_OBJECT_STORE_BYTES}", f"--temp-dir={folder}",
            "--disable-usage-stats", "--log-color=false",
        ],
        log=folder / "start.log",
        record=folder / "process.json",
        environment={**environment, _MARK: mark},
    )  # fmt: skip
    started = ray_processes.started(process.pid) or ""
    node = RayNode(Family(process.pid, started, f"{_MARK}={mark}"), folder)

    def known() -> bool:
        return any(custom.items() <= found.items() for found in client.node_resources())

    try:
        until(known, f"{custom} in the cluster; see {folder / 'start.log'}")
        yield node
    finally:
        left = node.processes.end(timeout_s=60)
        assert not left, f"processes of the node are still there: {left}"
        until(lambda: not known(), "the node has left the cluster")


def _program(pid: int) -> str:
    command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return Path(os.fsdecode(command[0])).name

"""A Ray of a test's own, at an address that stays: its head is killed and started anew there."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from mlflow_exec.clients import ray_processes
from mlflow_exec.clients.ports import free_port
from mlflow_exec.clients.ray import RayClient
from mlflow_exec.clients.ray_processes import Family
from mlflow_exec.errors import MlflowExecError
from mlflow_exec.testing.collecting import until
from tests.clusters.processes import appears, start

_MARK = "MLFLOW_EXEC_TEST_RAY_HEAD"
_OBJECT_STORE_BYTES = 128 * 1024**2
# A node that is gone is given up soon; one that is only slow is not, nor what serves a client.
_TIMES = {
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_failure_threshold": "2",
    "RAY_CLIENT_SERVER_CHECK_CHANNEL_TIMEOUT_S": "240",
}


@dataclass
class RayHead:
    """A Ray with one node, which asks for a token.

    Attributes:
        folder: Its temporary files; short, for the sake of the sockets in it.
        port: Of its dashboard, on loopback.
        client_port: Of Ray's own client, of the start that is up.
        session: The start of Ray that is up.
    """

    folder: Path
    port: int
    environment: Mapping[str, str]
    session: str = ""
    client_port: int = 0
    _started: list[Family] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def token_file(self) -> Path:
        return self.folder / "token"

    def client(self) -> RayClient:
        return RayClient(self.address, token=self.token_file.read_text())

    def start(self) -> None:
        """Start it; returns when it takes jobs."""
        mark = secrets.token_hex(8)
        self.client_port = free_port()
        log = self.folder / "start.log"
        process = start(
            [
                "ray", "start", "--head", "--port=0", "--num-cpus=2", f"--temp-dir={self.folder}",
                "--dashboard-host=127.0.0.1", f"--dashboard-port={self.port}",
                f"--ray-client-server-port={self.client_port}", "--dashboard-agent-listen-port=0",
                "--min-worker-port=0", "--max-worker-port=0", "--disable-usage-stats",
                f"--object-store-memory={_OBJECT_STORE_BYTES}", "--log-color=false",
            ],
            log=log, record=self.folder / "process.json",
            environment={**self.environment, _MARK: mark},
        )  # fmt: skip
        since = ray_processes.started(process.pid) or ""
        self._started.append(Family(process.pid, since, f"{_MARK}={mark}"))
        until(self._answers, f"a Ray at {self.address}; see {log}", 180)
        self.session = str(self.client().version()["session_name"])

    def kill(self) -> None:
        """End all of it at once, and everything that runs on it, as a machine that is gone."""
        for family in self._started:
            until(partial(_killed, family), "all of the Ray is gone", 60)

    def restart_dashboard(self) -> None:
        """Kill the dashboard alone, which is what answers the Jobs API, and start it again."""
        living = self._started[-1].living()
        (old,) = [p for p in living if any(a.endswith("/dashboard.py") for a in _command(p))]
        command, environment = _command(old), ray_processes.environment(old)
        assert environment is not None
        kill(old)
        until(lambda: not self._answers(), "the dashboard is gone")
        start(command, log=self.folder / "dashboard.log", record=self.folder / "dashboard.json",
              environment=environment)  # fmt: skip
        until(self._answers, "the dashboard is back")

    def kill_a_client_server(self) -> int:
        """Kill the process that Ray starts for its next client, before it listens.

        Later than that, Ray would wait for it as long as it waits for a slow one.

        Returns:
            Its number.
        """

        def started() -> list[int]:
            living = self._started[-1].living()
            return [pid for pid in living if any("specific-server" in a for a in _command(pid))]

        before = started()
        assert appears(lambda: set(started()) - set(before), timeout_s=240, interval_s=0.01)
        (pid,) = set(started()) - set(before)
        kill(pid)
        return pid

    def _answers(self) -> bool:
        try:
            self.client().jobs()
        except MlflowExecError:
            return False
        return True


@contextmanager
def ray_head() -> Iterator[RayHead]:
    """Run a Ray; nothing of it is left afterwards."""
    with tempfile.TemporaryDirectory(prefix="mlx-head-", dir="/tmp") as name:
        folder = Path(name)
        (folder / "token").write_text(secrets.token_hex(32))
        environment = {
            **os.environ, **_TIMES,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        }  # fmt: skip
        head = RayHead(folder, free_port(), environment)
        try:
            head.start()
            yield head
        finally:
            head.kill()


def _killed(family: Family) -> bool:
    """Kill what lives of a family; what was just being started is there the next time."""
    living = family.living()
    for pid in living:
        kill(pid)
    return not living


def kill(pid: int) -> None:
    """End a process by SIGKILL; one that has ended is fine."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> list[str]:
    try:
        return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).split("\0")[:-1]
    except OSError:
        return []

"""A Ray on this machine, started when a job needs one and none is configured.

One for each ``MLFLOW_EXEC_HOME``, kept until it is stopped. It listens on the network as every Ray
does, so it is started with token authentication and a token of its own that only its owner can
read. Its jobs inherit the environment of the process that started it, credentials included.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from mlflow_exec.clients import ray_processes
from mlflow_exec.clients.ports import free_port, free_range
from mlflow_exec.clients.ray import RayClient, read_token
from mlflow_exec.clients.ray_processes import Family
from mlflow_exec.errors import ClusterError, MissingExtraError, MlflowExecError, UnreachableError

_LOG = logging.getLogger(__name__)

START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 60.0
OBJECT_STORE_BYTES = 256 * 1024**2
"""Enough for passing data between tasks of a small job; more is spilled to disk by Ray."""
MARK = "MLFLOW_EXEC_RAY"
"""The variable in the environment of every process of an embedded Ray; its value tells which."""

_STATE_FILE = "ray.json"
_SESSIONS_FILE = "ray-sessions"
_POLL_S = 0.25
_LOG_TAIL_LINES = 20
_RANGE = 500  # ports: of a machine's replicas, and of those that have ended lately
# What belongs to the submitting process, and would lead jobs to another Ray or another run.
_NOT_INHERITED = (
    "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "RAY_JOB_CONFIG_JSON_ENV_VAR",
    "MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME",
)  # fmt: skip

# Of Serve on it, unless the environment says otherwise; read where its controller starts, by
# python/ray/serve/_private/constants.py of Ray 2.60.
_SERVE = {
    # Proxies are HAProxy then, which passes on ten times as many requests.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # How long a replica that goes is kept for load balancers to notice; 30 s if not set. The only
    # one here is on this machine, is told at once, and asks another where one refuses.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "3",
}


# HAProxy asks the fallback where no replica seems well; another Ray's would know none of them.
_HAPROXY_PORTS = ("HAPROXY_METRICS", "HAPROXY_STATS", "FALLBACK_PROXY_HTTP", "FALLBACK_PROXY_GRPC")
_HAPROXY_FILES = {
    "CONFIG_FILE_LOC": "haproxy.cfg", "SOCKET_PATH": "admin.sock", "SERVER_STATE_BASE": "",
    "SERVER_STATE_FILE": "server-state", "METRICS_SOCKET_PATH": "metrics.sock",
}  # fmt: skip
_TOP = Path("/tmp")


@dataclass(frozen=True)
class EmbeddedRay:
    """A Ray that was started on this machine.

    Attributes:
        address: The dashboard's address.
        session_name: Which start of Ray it is.
        pid: The process that the others are children of.
        started: When that process started, as the operating system counts; with ``pid`` unique.
        mark: The value of ``MARK`` in the environment of all its processes.
        folder: Its temporary files and those of its jobs, removed when it stops.
        token_file: The file with its token.
    """

    address: str
    session_name: str
    pid: int
    started: str
    mark: str
    folder: str
    token_file: str

    def token(self) -> str:
        """Return its token."""
        return read_token(Path(self.token_file), f"ray: {self.address}")

    def client(self) -> RayClient:
        """Return a client with its token."""
        return RayClient(self.address, token=self.token())

    def processes(self) -> Family:
        """Return its processes and those of its jobs."""
        return Family(self.pid, self.started, f"{MARK}={self.mark}")

    def is_alive(self) -> bool:
        """Whether it answers, and is the one that was started and no later one on its port."""
        try:
            return bool(self.client().version().get("session_name") == self.session_name)
        except MlflowExecError:
            return False


def home() -> Path:
    """Return the folder of what is kept on this machine: $MLFLOW_EXEC_HOME or ~/.mlflow-exec."""
    given = os.environ.get("MLFLOW_EXEC_HOME")
    return Path(given).absolute() if given else Path.home() / ".mlflow-exec"


def status() -> EmbeddedRay | None:
    """Return the Ray of this machine if there is one and it answers; starts nothing."""
    found = _read()
    return found if found is not None and found.is_alive() else None


def recorded() -> EmbeddedRay | None:
    """Return the Ray that was started last and not stopped, without asking whether it lives."""
    return _read()


def was_here(session_name: str) -> bool:
    """Whether a Ray of that session was started on this machine, be it over or not."""
    try:
        return session_name in (home() / _SESSIONS_FILE).read_text(encoding="utf-8").split()
    except OSError:
        return False


def environment_of(ray: EmbeddedRay) -> dict[str, str] | None:
    """Return the environment that its jobs inherit, None where the system does not tell."""
    return ray_processes.environment(ray.pid)


def start_or_reuse(progress: Callable[[str], None] = _LOG.info) -> EmbeddedRay:
    """Return the Ray of this machine, started if there is none; concurrent callers start one.

    Args:
        progress: Called with lines for the user when one is started.

    Raises:
        MissingExtraError: Ray is not installed in this Python environment.
        UnreachableError: It did not start; the message ends with its last lines.
    """
    found = status()
    if found is not None:
        return found
    with _locked():
        found = status()
        if found is not None:
            return found
        stale = _read()
        if stale is not None:
            _end(stale)
        return _start(progress)


def stop() -> bool:
    """End the Ray of this machine and every process of its jobs; no other Ray is touched.

    Returns:
        Whether there was one.

    Raises:
        ClusterError: A process of it is still there; the message names it.
    """
    if not (home() / _STATE_FILE).exists():
        return False
    with _locked():
        found = _read()
        if found is None:
            return False
        was_there = bool(found.processes().living())
        _end(found)
        return was_there


# -- the files ------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    folder = home()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "ray.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read() -> EmbeddedRay | None:
    try:
        data = json.loads((home() / _STATE_FILE).read_text(encoding="utf-8"))
        return EmbeddedRay(**data)
    except (OSError, ValueError, TypeError):
        return None


def _write_private(path: Path, text: str) -> None:
    """Replace a file by one that only its owner can read; readers see the old or the new."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    part.replace(path)


# -- starting -------------------------------------------------------------------------------


def _start(progress: Callable[[str], None]) -> EmbeddedRay:
    program = _program()
    begun_s = time.monotonic()
    progress("ray: no address is configured; starting a Ray on this machine …")
    mark = secrets.token_hex(8)
    folder = _short_folder()
    token_file = folder / "token"
    _write_private(token_file, secrets.token_hex(32))
    (folder / "tmp").mkdir(mode=0o700)
    port = free_port()
    log = home() / "ray.log"
    pid = _spawn([program, *_arguments(port, folder)], _environment(mark, folder, token_file), log)
    address = f"http://127.0.0.1:{port}"
    draft = EmbeddedRay(
        address, "", pid, ray_processes.started(pid) or "", mark, str(folder), str(token_file)
    )
    try:
        session = _wait_until_it_answers(draft, log)
        ray = EmbeddedRay(**{**asdict(draft), "session_name": session})
        _write_private(home() / _STATE_FILE, json.dumps(asdict(ray), indent=1) + "\n")
        _remember(session)
    except BaseException:
        _end(draft)
        raise
    took_s = time.monotonic() - begun_s
    progress(
        f"ray: started {address} in {took_s:.0f} s; it stays for the next jobs; "
        f"stop it with: mlflow-exec ray stop"
    )
    return ray


def _program() -> str:
    folder = Path(sys.executable).parent
    program = shutil.which("ray", path=f"{folder}{os.pathsep}{os.environ.get('PATH', '')}")
    if program is None:
        raise MissingExtraError(
            "ray: no address is configured, and the Python package 'ray' is not installed to start "
            "one here; install it with: pip install 'mlflow-exec[ray]', or set 'address' to the "
            "dashboard of a running Ray"
        )
    return program


def _arguments(port: int, folder: Path) -> list[str]:
    return [
        "start", "--head", "--block", "--disable-usage-stats", "--log-color=false",
        "--include-dashboard=true", "--dashboard-host=127.0.0.1", f"--dashboard-port={port}",
        # Free ports throughout, so that another Ray on this machine is not in the way.
        "--port=0", f"--ray-client-server-port={free_port()}", "--dashboard-agent-listen-port=0",
        "--min-worker-port=0", "--max-worker-port=0",
        f"--object-store-memory={OBJECT_STORE_BYTES}", f"--temp-dir={folder}",
    ]  # fmt: skip


def _environment(mark: str, folder: Path, token_file: Path) -> dict[str, str]:
    environment = {k: v for k, v in os.environ.items() if k not in _NOT_INHERITED}
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', os.defpath)}"
    # Ray is ended too suddenly to remove what its dashboard makes there.
    temporary = environment.get("TMPDIR") or str(folder / "tmp")
    return _SERVE | _of_haproxy(folder) | environment | {
        "PATH": path,
        "TMPDIR": temporary,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token_file),
        MARK: mark,
    }


def _of_haproxy(folder: Path) -> dict[str, str]:
    """Return what keeps Serve's proxy out of the way of another Ray's on this machine."""
    # Serve takes them with its first application, when others may have got what was free now: so
    # none that the system gives away. HAProxy asks at the port of a replica that has ended for some
    # seconds more: the replica of another Ray must not be what answers there.
    first = free_range(_RANGE)
    own = {f"RAY_SERVE_{use}_PORT": str(first + n) for n, use in enumerate(_HAPROXY_PORTS)}
    own["RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT"] = str(first + len(_HAPROXY_PORTS))
    own["RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT"] = str(first + _RANGE)
    if folder.parent == _TOP:  # else the names of the sockets might get too long
        for use, name in _HAPROXY_FILES.items():
            own[f"RAY_SERVE_HAPROXY_{use}"] = str(folder / name)
    return own


def _spawn(command: list[str], environment: dict[str, str], log: Path) -> int:
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, nothing, 0)]
    actions += [(os.POSIX_SPAWN_DUP2, output, number) for number in (1, 2)]
    try:
        # Not subprocess: its objects warn when a process is left running, and that is wanted here.
        return os.posix_spawn(
            command[0], command, environment, file_actions=actions, setsid=True
        )
    finally:
        os.close(output)
        os.close(nothing)


def _wait_until_it_answers(ray: EmbeddedRay, log: Path) -> str:
    client = ray.client()
    end_s = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            session = str(client.version()["session_name"])
            client.jobs()  # the part of the dashboard that takes jobs is up, too
            return session
        except (ClusterError, KeyError) as error:
            ended = ray_processes.started(ray.pid) is None
            if ended or time.monotonic() > end_s:
                what = "ended" if ended else f"did not answer within {START_TIMEOUT_S:g} s"
                raise UnreachableError(
                    f"ray: the Ray started on this machine {what}; its last lines ({log}):\n"
                    f"{_tail(log)}"
                ) from error
        time.sleep(_POLL_S)


def _tail(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"  {line}" for line in lines[-_LOG_TAIL_LINES:])


def _remember(session: str) -> None:
    path = home() / _SESSIONS_FILE
    known = path.read_text(encoding="utf-8").split() if path.exists() else []
    _write_private(path, "\n".join([*known[-999:], session]) + "\n")


def _short_folder() -> Path:
    # The names of Ray's sockets in it take 66 characters, and 107 is all that a socket may have.
    top = _TOP if os.access(_TOP, os.W_OK) else None
    return Path(tempfile.mkdtemp(prefix="mlx-ray-", dir=top))


# -- ending ---------------------------------------------------------------------------------


def _end(ray: EmbeddedRay) -> None:
    """End every process with the mark, then forget the Ray."""
    left = ray.processes().end(timeout_s=STOP_TIMEOUT_S)
    if left:
        raise ClusterError(
            f"ray: processes of the Ray at {ray.address} are still there after "
            f"{STOP_TIMEOUT_S:g} s: {', '.join(map(str, left))}; end them with kill -9"
        )
    recorded_now = _read()
    if recorded_now is not None and recorded_now.mark == ray.mark:
        (home() / _STATE_FILE).unlink(missing_ok=True)
    shutil.rmtree(ray.folder, ignore_errors=True)


"""Child processes of the job: run, logged, and ended together with everything they started."""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass
from types import FrameType
from typing import IO, Dict, Iterator, List, Mapping, Optional, Sequence

from .job_log import JobLog

_CHUNK_BYTES = 64 * 1024
_DRAIN_S = 2.0
# So long nothing has to come until a held back end of the output is let go.
_SETTLE_S = 0.2
_TAIL_BYTES = 8 * 1024
# Reads one process group from its input and, when the input ends because its writer died, kills
# the group. So nothing outlives a first step that was itself killed (Ray kills only that).
_GUARD = 'read -r group && { read -r _; kill -9 -"$group"; } 2>/dev/null'


class Stopped(BaseException):
    """SIGTERM or SIGINT came: end what runs, write no end."""


class StopSignal:
    """Turns SIGTERM and SIGINT into :class:`Stopped`, outside of shielded blocks.

    Attributes:
        received: Whether one of them came.
    """

    def __init__(self) -> None:
        self.received = False
        self._shields = 0
        self._wake_read, self._wake_write = os.pipe()
        for fd in (self._wake_read, self._wake_write):
            os.set_blocking(fd, False)

    def install(self) -> None:
        """Handle the signals from now on; SIGCHLD only wakes :func:`run_logged`."""
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def close(self) -> None:
        """Give its file descriptors back; only where it was never installed."""
        for fd in (self._wake_read, self._wake_write):
            os.close(fd)

    def _handle(self, _number: int, _frame: Optional[FrameType]) -> None:
        self.received = True
        if not self._shields:
            raise Stopped

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Within the block a signal is only noted, for what must not break off half-way."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1

    def shield_for_good(self) -> None:
        """From now on signals are only noted: the outcome is known and is being kept."""
        self._shields += 1

    @property
    def wake_fd(self) -> int:
        """Readable whenever a signal came, that of an ended child included."""
        return self._wake_read

    def drain_wake_fd(self) -> None:
        """Forget the wake-ups so far."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 512):
                pass


class DeadlineOver(Exception):
    """The job's time is over; the command that ran was ended."""


@dataclass(frozen=True)
class Outcome:
    """How a child process ended by itself.

    Attributes:
        returncode: Its exit code; -n where signal n killed it.
        tail: The last lines of its output.
    """

    returncode: int
    tail: str


@dataclass
class Runner:
    """Runs commands so that their whole output goes to the job's log.

    Attributes:
        log: The job's log.
        stop: The signals that end the job.
        deadline: The ``time.monotonic()`` at which the job has to end; None for never.
        term_grace_s: Seconds between SIGTERM and SIGKILL.
    """

    log: JobLog
    stop: StopSignal
    deadline: Optional[float]
    term_grace_s: float

    def run(self, argv: Sequence[str], cwd: str, env: Mapping[str, str]) -> Outcome:
        """Run the command to its end, in a process group of its own.

        Ends with whatever is left of the group killed: a process that the command left behind
        neither holds the job up nor outlives it.

        Raises:
            Stopped: A stop signal came; the group is ended.
            DeadlineOver: The time is over; the group is ended.
            OSError: The command could not be started.
        """
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise DeadlineOver
        with self.stop.shielded():
            pump = self._run_shielded(argv, cwd, env)
        if pump.by_signal:
            raise Stopped
        if pump.by_deadline:
            raise DeadlineOver
        return Outcome(pump.returncode, pump.tail())

    def pause(self, seconds: float) -> None:
        """Wait that long, or until a signal came.

        Raises:
            Stopped: A stop signal came.
            DeadlineOver: The time is over.
        """
        if self.deadline is not None:
            seconds = min(seconds, max(self.deadline - time.monotonic(), 0))
        select.select([self.stop.wake_fd], [], [], seconds)
        self.stop.drain_wake_fd()
        if self.stop.received:
            raise Stopped
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise DeadlineOver

    def _run_shielded(self, argv: Sequence[str], cwd: str, env: Mapping[str, str]) -> _Pump:
        child = subprocess.Popen(
            list(argv),
            cwd=cwd,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        guard = _start_guard(child.pid)
        try:
            pump = _Pump(child, self)
            pump.until_exit()
            pump.drain()
            return pump
        finally:
            _kill_group(child.pid, signal.SIGKILL)
            child.wait()
            if child.stdout is not None:
                child.stdout.close()
            _end_guard(guard)


class _Pump:
    """Moves a child's output to the log until it exits, and stops it when it has to."""

    def __init__(self, child: "subprocess.Popen[bytes]", runner: Runner) -> None:
        self.by_deadline = False
        self.by_signal = False
        self._child = child
        self._runner = runner
        self._out: IO[bytes] = child.stdout or open(os.devnull, "rb")  # noqa: SIM115
        self._tail = b""
        self._kill_at: Optional[float] = None
        self._open = True
        os.set_blocking(self._out.fileno(), False)

    @property
    def returncode(self) -> int:
        """The exit code; -n where signal n killed the child."""
        return int(self._child.returncode)

    def until_exit(self) -> None:
        """Pump until the child has exited; stop it on a signal or at the deadline."""
        stop = self._runner.stop
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            selector.register(stop.wake_fd, selectors.EVENT_READ)
            while self._child.poll() is None:
                waiting = self._runner.log.waiting
                ready = [key.fd for key, _ in selector.select(self._patience_s(waiting))]
                if stop.wake_fd in ready:
                    stop.drain_wake_fd()
                if self._out.fileno() in ready and self._open and not self._read():
                    selector.unregister(self._out)
                if waiting and not ready:
                    self._keep_tail(self._runner.log.settle())
                self._stop_if_due()

    def drain(self) -> None:
        """Read what the exited child wrote; wait a little for what its own children still write."""
        until = time.monotonic() + _DRAIN_S
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            while self._open and selector.select(max(until - time.monotonic(), 0)):
                self._read()
                # One read takes all that fits into a pipe: the child's own output is complete.
                if time.monotonic() > until:
                    break
        self._keep_tail(self._runner.log.finish())

    def tail(self) -> str:
        """Return the last lines of the output."""
        lines = self._tail.decode("utf-8", "replace").splitlines()
        return "\n".join(line for line in lines[-15:] if line.strip())

    def _read(self) -> bool:
        try:
            data = os.read(self._out.fileno(), _CHUNK_BYTES)
        except BlockingIOError:
            return True
        self._open = bool(data)
        self._keep_tail(self._runner.log.write(data))
        return self._open

    def _keep_tail(self, written: bytes) -> None:
        self._tail = (self._tail + written)[-_TAIL_BYTES:]

    def _patience_s(self, waiting: bool) -> float:
        marks = [mark for mark in (self._runner.deadline, self._kill_at) if mark is not None]
        longest_s = _SETTLE_S if waiting else 1.0
        return min([longest_s] + [max(mark - time.monotonic(), 0.01) for mark in marks])

    def _stop_if_due(self) -> None:
        now = time.monotonic()
        deadline = self._runner.deadline
        if self._kill_at is None:
            over = deadline is not None and now >= deadline
            if not (over or self._runner.stop.received):
                return
            self.by_signal = self._runner.stop.received
            self.by_deadline = not self.by_signal
            self._kill_at = now + self._runner.term_grace_s
            _kill_group(self._child.pid, signal.SIGTERM)
        elif now >= self._kill_at:
            _kill_group(self._child.pid, signal.SIGKILL)


def _kill_group(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _start_guard(group: int) -> Optional["subprocess.Popen[bytes]"]:
    try:
        guard = subprocess.Popen(
            ["sh", "-c", _GUARD],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        if guard.stdin is not None:
            guard.stdin.write(f"{group}\n".encode())
            guard.stdin.flush()
    except OSError:
        return None
    return guard


def _end_guard(guard: Optional["subprocess.Popen[bytes]"]) -> None:
    if guard is not None:
        guard.kill()
        guard.wait()
        if guard.stdin is not None:
            guard.stdin.close()


def oom_kills() -> Optional[int]:
    """Return how many processes of our cgroup the kernel killed for memory; None if not told.

    Sources: https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.events),
    https://docs.kernel.org/admin-guide/cgroup-v1/memory.html (memory.oom_control).
    """
    for path in _counter_files():
        with contextlib.suppress(OSError, ValueError), open(path, encoding="ascii") as file:
            for line in file:
                name, _, value = line.partition(" ")
                if name == "oom_kill":
                    return int(value)
    return None


def _counter_files() -> List[str]:
    """Return where our counter can be, the nearest first.

    In a container the path of /proc/self/cgroup may be the host's, while the mounted tree begins
    at our own cgroup: so its root is looked at as well.
    """
    own: Dict[str, str] = {}
    with contextlib.suppress(OSError), open("/proc/self/cgroup", encoding="utf-8") as file:
        for line in file:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            for controller in controllers.split(","):
                own[controller] = path
    found = []
    if "memory" in own:
        root = "/sys/fs/cgroup/memory"
        found += [f"{root}{own['memory']}/memory.oom_control", f"{root}/memory.oom_control"]
    if "" in own:
        root = "/sys/fs/cgroup"
        found += [f"{root}{own['']}/memory.events", f"{root}/memory.events"]
    return found

"""Submitting to YARN through skein's driver: a Java process that speaks YARN's own protocol.

skein's own client starts that process and waits for its answers without any limit of time, and
leaves a key in the user's home. So it is started by `skein_process` and asked here, through
skein's own stubs.
"""

from __future__ import annotations

import atexit
import os
import re
import threading
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlflow_exec.clients.hadoop_config import HadoopConfig
from mlflow_exec.clients.hadoop_errors import first_line
from mlflow_exec.clients.hadoop_login import SIGN_IN, Login
from mlflow_exec.clients.skein_process import DriverProcess
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.registry import missing_extra

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # skein imports distutils
        import grpc
        import skein
        from skein import proto
        from skein.core import secure_channel
except ModuleNotFoundError as error:
    raise missing_extra("yarn", error) from error

SUBMIT_TIMEOUT_S = 180.0
_JAR = Path(skein.__file__).absolute().parent / "java" / "skein.jar"
# What is refused for good, as RMAppManager.java, RMServerUtils.java, the schedulers and HDFS word
# it: only the message comes through, seldom with its class. A stopped queue comes as a matter of
# access, so this is looked for first.
_REJECTED = re.compile(
    r"[Ii]nvalid (Label)?ResourceRequest|[Ii]nvalid resource request|ResourceNotFound"
    r"|unknown queue|(non-leaf|parent) queue|is (STOPPED|DRAINING)|Cannot accept submission"
    r"|already has \d+ applications|does not exist|FileNotFoundException"
    r"|quota .*exceeded|QuotaExceeded|[Nn]ode ?label|[Tt]ags? .*(too long|ASCII|[Ii]nvalid)"
)
_DENIED = re.compile(
    r"AccessControlException|AuthorizationException|[Pp]ermission denied"
    r"|not have permission|not allowed to impersonate"
)
# Nothing is known there yet, so nothing was accepted.
_NOT_SIGNED_IN = re.compile(
    r"Kerberos ticket not found|Failed to find any Kerberos tgt|GSSException"
)
_NOBODY = re.compile(r"[Ff]ailed to connect|Connection refused")


class SkeinDriver:
    """skein's driver for one login; started on first use, ended with this process. Thread-safe."""

    def __init__(self, config: HadoopConfig, login: Login) -> None:
        """Use `driver`, which keeps one for each login. Nothing is started yet."""
        self._config = config
        self._login = login
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def submit(
        self,
        specification: Mapping[str, Any],
        on_wait: Callable[[str], None] | None = None,
        *,
        timeout_s: float = SUBMIT_TIMEOUT_S,
    ) -> str:
        """Submit an application and return its id.

        Args:
            specification: skein's ``ApplicationSpec`` as a dictionary. In a secure cluster skein
                adds tokens for the default file system and those of ``file_systems``.
            on_wait: Told, in words, what is waited for, where it takes seconds.
            timeout_s: How long YARN may take to accept it.

        Raises:
            RejectedError: YARN refuses it, or it is no specification; sending it again is no use.
            AccessDeniedError: The user may not.
            UnreachableError: Anything else. YARN may have accepted it: look for its tag. Where no
                answer came in time the driver is ended, so that nothing is submitted later on.
            ConfigError: The driver cannot be started here; nothing was submitted.
        """
        request = self._request(specification)
        running, is_new = self._start(on_wait)
        try:
            return running.submit(request, timeout_s)
        except grpc.RpcError as error:
            # One that ended since it was last asked: nothing of the request can have arrived.
            if is_new or not _found_nobody(error):
                raise self._failure(running, error) from error
        except BaseException:  # Ctrl-C; the driver would go on with it
            self._end(running)
            raise
        self._end(running)
        running, _ = self._start(on_wait)
        try:
            return running.submit(request, timeout_s)
        except grpc.RpcError as error:
            raise self._failure(running, error) from error

    def close(self) -> None:
        """End the driver, if there is one; a later request starts another."""
        with self._lock:
            running, self._running = self._running, None
        if running is not None:
            running.end(at_once=False)

    def _request(self, specification: Mapping[str, Any]) -> Any:
        wanted = dict(specification)
        if wanted.get("user") == self._login.user:
            del wanted["user"]  # to act as oneself is a right that one may not have
        if self._login.proxy_user:
            wanted["user"] = self._login.proxy_user
        try:
            return skein.ApplicationSpec.from_dict(wanted).to_protobuf()
        except (TypeError, ValueError, KeyError) as error:
            raise RejectedError(f"YARN: skein does not take the specification: {error}") from error

    def _failure(self, running: _Running, error: grpc.RpcError) -> ClusterError:
        """Return what a failed request means."""
        code, details = error.code(), error.details() or ""
        said = first_line(details.partition("exception:\n")[2] or details)
        where = f"YARN {','.join(self._config.resource_managers())}"
        if code is grpc.StatusCode.UNAUTHENTICATED or _NOT_SIGNED_IN.search(details):
            self._end(running)  # it never looks for a ticket again
            return AccessDeniedError(f"{where}: {said}; {SIGN_IN}", status=401)
        if code is grpc.StatusCode.INVALID_ARGUMENT or _REJECTED.search(details):
            return RejectedError(f"{where}: {said}")
        if _DENIED.search(details):
            return AccessDeniedError(
                f"{where}: {said}; submitted as {self._login.effective_user!r}: ask the cluster's "
                f"administrator for the right",
                status=403,
            )
        if code is grpc.StatusCode.DEADLINE_EXCEEDED:
            said = f"no answer in time{running.process.last_words()}"
        elif code is grpc.StatusCode.UNAVAILABLE:
            said = f"skein's driver has ended{running.process.last_words()}"
        if code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE):
            self._end(running)
        return UnreachableError(f"{where}: the application may have been accepted: {said}")

    def _start(self, on_wait: Callable[[str], None] | None) -> tuple[_Running, bool]:
        """Return a driver that lives, and whether it was started now."""
        with self._lock:
            if self._running is not None and self._running.process.lives():
                return self._running, False
            if self._running is not None:
                self._running.end(at_once=True)
                self._running = None
            if on_wait is not None:
                on_wait("starting skein's driver (Java)")
            self._running = _Running(self._config, self._login)
            return self._running, True

    def _end(self, running: _Running) -> None:
        """End a driver; another that was started meanwhile stays."""
        with self._lock:
            if self._running is running:
                self._running = None
        running.end(at_once=True)


class _Running:
    """A driver that was started, and the way to ask it."""

    def __init__(self, config: HadoopConfig, login: Login) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it takes a naive time
            # Of its own, and in memory only: skein's default is a file in the user's home.
            security = skein.Security.new_credentials()
        self.process = DriverProcess(
            config, login, _JAR, certificate=security.cert_bytes, key=security.key_bytes
        )
        self._channel = secure_channel(f"127.0.0.1:{self.process.port}", security)
        self._stub = proto.DriverStub(self._channel)
        try:
            self._stub.ping(proto.Empty(), timeout=self.process.left_s())
        except BaseException as error:
            said = self.process.last_words()
            self.end(at_once=True)
            if isinstance(error, grpc.RpcError):
                raise UnreachableError(
                    f"skein: its driver does not answer: {error.details()}{said}"
                ) from error
            raise

    def submit(self, request: Any, timeout_s: float) -> str:
        return str(self._stub.submit(request, timeout=timeout_s).id)

    def end(self, *, at_once: bool) -> None:
        self._channel.close()
        self.process.end(at_once=at_once)


def _found_nobody(error: grpc.RpcError) -> bool:
    """Whether nobody listened, so that nothing of the request can have arrived."""
    is_away = error.code() is grpc.StatusCode.UNAVAILABLE
    return is_away and bool(_NOBODY.search(error.details() or ""))


# -- one for each login ---------------------------------------------------------------------

_drivers: dict[tuple[int, str, Login], SkeinDriver] = {}
_drivers_lock = threading.Lock()


def driver(config: HadoopConfig, login: Login) -> SkeinDriver:
    """Return this process's driver for a cluster and a login; it is started on first use."""
    key = (os.getpid(), str(config.folder), login)  # a forked process needs one of its own
    with _drivers_lock:
        if key not in _drivers:
            _drivers[key] = SkeinDriver(config, login)
        return _drivers[key]


@atexit.register
def _close_all() -> None:
    for (pid, _, _), each in list(_drivers.items()):
        if pid == os.getpid():
            each.close()

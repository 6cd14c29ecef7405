"""The Java process of skein's driver: started with a limit of time, ended with this process.

It is started as skein's own client does it (``skein/core.py`` of 0.8.2): the driver reports the
port that it listens on to one that is named in its environment, and ends when its input does.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from mlflow_exec.clients.hadoop_config import HadoopConfig
from mlflow_exec.clients.hadoop_login import Login
from mlflow_exec.clients.yarn_cli import end_group, hadoop_environment, last_lines, yarn_command
from mlflow_exec.errors import ConfigError, UnreachableError

# On a busy machine it was seen to take 40 s, on an idle one 3 s.
START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 5.0
_LOG_LINES = 5
# It starts with a user's command and then mostly waits: half the CPU time, and less memory.
_QUICK_TO_START = ("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")
_JAVA_VARIABLES = ("SKEIN_DRIVER_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS")
_COLLECTOR = re.compile(r"-XX:\+Use\w*GC\b")


class DriverProcess:
    """One driver, from its start to its end. Its log is kept as long as it lives."""

    def __init__(
        self,
        config: HadoopConfig,
        login: Login,
        jar: Path,
        *,
        certificate: bytes,
        key: bytes,
        timeout_s: float | None = None,
    ) -> None:
        """Start it, and return when it listens.

        Args:
            config: The cluster's configuration.
            login: Who asks.
            jar: skein's own.
            certificate: What it shows and demands, in PEM.
            key: The key of it.
            timeout_s: How long all of it may take; `START_TIMEOUT_S` if None.

        Raises:
            ConfigError: There is no Java or no Hadoop client, or the driver ended by itself.
            UnreachableError: It took too long.
        """
        self._timeout_s = START_TIMEOUT_S if timeout_s is None else timeout_s
        self._end_s = time.monotonic() + self._timeout_s
        self._folder = Path(tempfile.mkdtemp(prefix="mlflow-exec-skein-"))
        self._process: subprocess.Popen[bytes] | None = None
        environment = hadoop_environment(config, login)
        environment.pop("HADOOP_PROXY_USER", None)  # the specification says for whom
        environment |= {"SKEIN_CERTIFICATE": certificate.decode(), "SKEIN_KEY": key.decode()}
        arguments = ["com.anaconda.skein.Driver", "--jar", str(jar)]
        if login.keytab:
            arguments += ["--keytab", login.keytab, "--principal", str(login.principal)]
        try:
            jars = [str(jar), str(config.folder), self._hadoop_jars(environment)]
            environment["CLASSPATH"] = os.pathsep.join(jars)
            self.port = self._launch([*_java(environment), *arguments], environment)
            """Where it listens, on this machine's loopback."""
        except BaseException:
            self.end(at_once=True)
            raise

    def lives(self) -> bool:
        """Whether it runs still."""
        return self._process is not None and self._process.poll() is None

    def left_s(self) -> float:
        """Return what is left of the time for its start, in seconds; one at least."""
        return max(1.0, self._end_s - time.monotonic())

    def last_words(self) -> str:
        """Return the end of its log as the end of a message."""
        log = self._folder / "driver.log"
        lines = last_lines(log.read_text("utf-8", "replace"), _LOG_LINES) if log.exists() else []
        return f"; its log ends with: {' | '.join(lines)}" if lines else "; its log is empty"

    def end(self, *, at_once: bool = False) -> None:
        """End it and remove its log; safe to repeat.

        Args:
            at_once: Whether not to let it finish what it does.
        """
        if self._process is not None:
            if self._process.stdin is not None:
                with contextlib.suppress(OSError):
                    self._process.stdin.close()
            if not at_once:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_STOP_TIMEOUT_S)
            end_group(self._process)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _launch(self, command: list[str], environment: Mapping[str, str]) -> int:
        """Start the Java process and return the port that it reports."""
        with socket.create_server(("127.0.0.1", 0), backlog=1) as callback:
            port = str(callback.getsockname()[1])
            with (self._folder / "driver.log").open("wb") as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,  # it ends when this is closed, so with this process
                    stdout=log,
                    stderr=log,
                    env={**environment, "SKEIN_CALLBACK_PORT": port},
                    cwd=self._folder,
                    start_new_session=True,
                )
            return self._reported_port(callback, self._process)

    def _reported_port(self, callback: socket.socket, process: subprocess.Popen[bytes]) -> int:
        callback.settimeout(0.2)
        while time.monotonic() < self._end_s:
            try:
                connection, _ = callback.accept()
            except TimeoutError:
                if process.poll() is not None:
                    raise ConfigError(
                        f"skein: its driver ended with exit code {process.returncode} while it "
                        f"started; check Java and Hadoop's client{self.last_words()}"
                    ) from None
                continue
            with connection, contextlib.suppress(OSError, struct.error):
                connection.settimeout(self.left_s())
                return int(struct.unpack("!i", connection.makefile("rb").read(4))[0])
        raise UnreachableError(
            f"skein: its driver did not start within {self._timeout_s:g} s{self.last_words()}"
        )

    def _hadoop_jars(self, environment: Mapping[str, str]) -> str:
        """Return the jars of Hadoop's client."""
        command = [yarn_command(), "classpath", "--glob"]
        with tempfile.TemporaryFile() as said:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=said,
                env=dict(environment),
                start_new_session=True,
            )
            try:
                output, _ = process.communicate(timeout=self.left_s())
            except subprocess.TimeoutExpired as error:
                raise UnreachableError(
                    f"skein: {' '.join(command)} gave no answer within {self._timeout_s:g} s"
                ) from error
            finally:
                end_group(process)
                assert process.stdout is not None
                process.stdout.close()
            said.seek(0)
            tail = " | ".join(last_lines(said.read().decode("utf-8", "replace"), _LOG_LINES))
        if process.returncode != 0 or not output.strip():
            raise ConfigError(
                f"skein: {' '.join(command)} ended with exit code {process.returncode}: {tail}; "
                f"check Hadoop's client"
            )
        # A warning of Java may stand before it.
        return output.decode("utf-8", "replace").strip().splitlines()[-1].strip()


def require_programs() -> None:
    """Find what a driver needs on this machine; nothing is started.

    Raises:
        ConfigError: There is no Java, or no client of Hadoop's.
    """
    yarn_command()
    _java(os.environ)


def _java(environment: Mapping[str, str]) -> list[str]:
    home = environment.get("JAVA_HOME")
    command = str(Path(home) / "bin" / "java") if home else "java"
    if shutil.which(command) is None:
        raise ConfigError(
            f"skein: there is no {command!r}; install Java (Debian, Ubuntu: default-jre-headless), "
            f"or set JAVA_HOME"
        )
    given = [environment.get(name, "") for name in _JAVA_VARIABLES]
    # Two collectors are one too many for it.
    ours = _QUICK_TO_START[: 1 if any(map(_COLLECTOR.search, given)) else 2]
    options = [*ours, *given[0].split()]
    native = Path(environment.get("HADOOP_HOME", "/nonexistent")) / "lib" / "native"
    library = [f"-Djava.library.path={native}"] if native.is_dir() else []
    return [command, "-Dskein.log.level=WARN", *library, *options]

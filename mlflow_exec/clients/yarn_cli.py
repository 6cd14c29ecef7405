"""Hadoop's own commands, where its REST interfaces do not reach: ``yarn``."""

from __future__ import annotations

import contextlib
import os
import re
import selectors
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from mlflow_exec.clients.hadoop_config import HadoopConfig
from mlflow_exec.clients.hadoop_login import Login
from mlflow_exec.errors import (
    AccessDeniedError,
    ConfigError,
    NotFoundError,
    UnreachableError,
)

LOGS_TIMEOUT_S = 120.0
_PIECE_BYTES = 64 * 1024
_TAIL_LINES = 5
# LogsCLI.java and LogCLIHelpers.java have several words for that there is nothing (yet).
_NO_LOGS = re.compile(
    r"(?i)can ?not find (the|any) |logs? (are )?not available|no logs available"
    r"|aggregation has not completed|could not locate|does not exist|doesn't exist"
)
_DENIED = re.compile(r"(?i)permission denied|AccessControlException|not authorized")
# What goes before the first log is the command's own: banners, warnings of Java's loggers.
_FIRST = re.compile(rb"^Container: ", re.MULTILINE)
# What the command reads of the environment by its own rules; a choice made here must win.
_OF_LOGIN = ("HADOOP_USER_NAME", "HADOOP_PROXY_USER")


def yarn_command() -> str:
    """Return the ``yarn`` command: on the PATH, else of ``HADOOP_HOME``.

    Raises:
        ConfigError: There is none.
    """
    found = shutil.which("yarn")
    if found is None and os.environ.get("HADOOP_HOME"):
        found = shutil.which("yarn", path=str(Path(os.environ["HADOOP_HOME"]) / "bin"))
    if found is None:
        raise ConfigError(
            "yarn: Hadoop's command 'yarn' is neither on the PATH nor in $HADOOP_HOME/bin; install "
            "Hadoop's client, or set HADOOP_HOME to where it is"
        )
    return found


def hadoop_environment(config: HadoopConfig, login: Login | None) -> dict[str, str]:
    """Return the environment for Hadoop's programs, so that they ask the same cluster as the same.

    Args:
        config: The cluster's configuration.
        login: Who asks; None leaves it to the environment.
    """
    environment = {**os.environ, "HADOOP_CONF_DIR": str(config.folder)}
    environment["YARN_CONF_DIR"] = str(config.folder)
    if login is not None:
        for name in _OF_LOGIN:
            environment.pop(name, None)
        if not login.kerberos:
            environment["HADOOP_USER_NAME"] = login.user
        if login.proxy_user:
            environment["HADOOP_PROXY_USER"] = login.proxy_user
    return environment


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process that leads a session, and what it has started; returns when it is gone."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def yarn_logs(
    config: HadoopConfig,
    app_id: str,
    *,
    owner: str | None = None,
    file: str | None = None,
    timeout_s: float = LOGS_TIMEOUT_S,
    login: Login | None = None,
) -> Iterator[bytes]:
    """Return the pieces of what ``yarn logs -applicationId`` prints, as it comes.

    These are the logs that YARN has gathered from an application's nodes, or of one that runs
    still; the first line is the header of the first one.

    Args:
        config: The cluster's configuration.
        app_id: The application.
        owner: Its user, where that is another than who asks.
        file: Only the log files of this name.
        timeout_s: How long nothing may come before the command is ended.
        login: Who asks; None leaves it to the environment.

    Raises:
        ConfigError: There is no ``yarn`` command; raised at once, all others while reading.
        NotFoundError: There are no logs, or none yet.
        AccessDeniedError: They may not be read.
        UnreachableError: The command failed, or nothing came for so long.
    """
    command = [yarn_command(), "logs", "-applicationId", app_id]
    command += ["-appOwner", owner] if owner else []
    command += ["-log_files", file] if file else []
    return _output(command, hadoop_environment(config, login), timeout_s)


def _output(
    command: list[str], environment: Mapping[str, str], timeout_s: float
) -> Iterator[bytes]:
    where = " ".join(["yarn", *command[1:]])
    # A file takes all that a log4j may say; a pipe nobody reads would fill and stop the command.
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=said,
            env=dict(environment),
            start_new_session=True,
        )
        assert process.stdout is not None
        try:
            anything = False
            for piece in _logs(_pieces(process.stdout, timeout_s, where)):
                anything = True
                yield piece
            _check_end(where, process.wait(timeout_s), said, anything)
        except subprocess.TimeoutExpired as error:
            raise UnreachableError(f"{where}: it does not end after {timeout_s:g} s") from error
        finally:
            process.stdout.close()
            end_group(process)


def _logs(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield from the first log's header on."""
    before = b""
    for piece in pieces:
        before += piece
        if match := _FIRST.search(before):
            yield before[match.start() :]
            break
    yield from pieces


def _pieces(output: IO[bytes], timeout_s: float, where: str) -> Iterator[bytes]:
    with selectors.DefaultSelector() as selector:
        selector.register(output, selectors.EVENT_READ)
        while True:
            if not selector.select(timeout_s):
                raise UnreachableError(
                    f"{where}: nothing came for {timeout_s:g} s; the ResourceManager or the file "
                    f"system gives no answer"
                )
            piece = os.read(output.fileno(), _PIECE_BYTES)
            if not piece:
                return
            yield piece


def _check_end(where: str, exit_code: int, said: IO[bytes], anything: bool) -> None:
    """Raise what the command has to say for itself, unless it printed a log and ended well."""
    said.seek(0)
    text = said.read().decode("utf-8", "replace")
    tail = " | ".join(last_lines(text, _TAIL_LINES)) or f"exit code {exit_code}"
    if _DENIED.search(text) and not anything:
        raise AccessDeniedError(f"{where}: {tail}; name the application's user as owner")
    if _NO_LOGS.search(text) and not anything:
        raise NotFoundError(f"{where}: there are no logs: {tail}")
    if exit_code != 0:
        raise UnreachableError(f"{where}: exit code {exit_code}: {tail}")
    if not anything:
        raise NotFoundError(f"{where}: there are no logs: {tail}")


def last_lines(text: str, count: int) -> list[str]:
    """Return a program's last words without the lines of a Java stack."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    # Java tells of the options that it found in the environment.
    return [line for line in lines if not line.startswith(("at ", "... ", "Picked up "))][-count:]

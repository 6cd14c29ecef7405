"""Hadoop's own command: its output as it comes, and its end."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from mlflow_exec.clients.hadoop_config import HadoopConfig
from mlflow_exec.clients.hadoop_login import Login
from mlflow_exec.clients.yarn_cli import yarn_command, yarn_logs
from mlflow_exec.errors import AccessDeniedError, ConfigError, NotFoundError, UnreachableError
from tests.clusters.processes import appears

APP = "application_1_0001"
HEADER = "Container: container_1 on host_1"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HadoopConfig:
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name in ("HADOOP_USER_NAME", "HADOOP_PROXY_USER"):
        monkeypatch.delenv(name, raising=False)
    return HadoopConfig(tmp_path, "a test", {})


def yarn(config: HadoopConfig, script: str) -> HadoopConfig:
    """Make `yarn` this script."""
    command = config.folder / "yarn"
    command.write_text(f"#!/bin/sh\necho $$ > {config.folder}/pid\n{script}\n")
    command.chmod(0o755)
    return config


def session(config: HadoopConfig) -> list[str]:
    """The living processes of the command."""
    pid = (config.folder / "pid").read_text().strip()
    listed = subprocess.run(["ps", "-o", "pid=", "-s", pid], capture_output=True, text=True)
    return listed.stdout.split()


def read(config: HadoopConfig, timeout_s: float = 30) -> bytes:
    return b"".join(yarn_logs(config, APP, timeout_s=timeout_s))


def test_what_is_printed_before_the_first_log_is_left_out(config: HadoopConfig) -> None:
    yarn(config, f"echo a banner; echo 'a warning' >&2; echo '{HEADER}'; printf 'log\\0\\377'")
    assert read(config) == f"{HEADER}\nlog\0".encode() + b"\xff"


def test_the_command_is_told_the_cluster_the_owner_and_the_user(config: HadoopConfig) -> None:
    yarn(config, f"echo '{HEADER}'; echo $* $HADOOP_CONF_DIR $HADOOP_USER_NAME")
    found = yarn_logs(config, APP, owner="you", timeout_s=30, login=Login("me"))
    said = b"".join(found).decode().split("\n")[1]
    assert said == f"logs -applicationId {APP} -appOwner you {config.folder} me"


def test_pieces_come_as_they_are_printed(config: HadoopConfig) -> None:
    yarn(config, f"echo '{HEADER}'; sleep 1000; true")
    pieces = yarn_logs(config, APP, timeout_s=30)
    assert next(pieces) == f"{HEADER}\n".encode()
    assert session(config)
    pieces.close()  # type: ignore[attr-defined]
    assert appears(lambda: not session(config), timeout_s=60)


def test_much_that_goes_to_the_errors_stops_nothing(config: HadoopConfig) -> None:
    yarn(config, f"head -c 1000000 /dev/zero | tr '\\0' e >&2; echo '{HEADER}'")
    assert read(config) == f"{HEADER}\n".encode()


def test_a_command_that_is_silent_is_ended(config: HadoopConfig) -> None:
    yarn(config, "sleep 1000; true")
    with pytest.raises(UnreachableError, match=rf"{APP}: nothing came for 0.2 s"):
        read(config, timeout_s=0.2)
    assert appears(lambda: not session(config), timeout_s=60)


@pytest.mark.parametrize(
    ("said", "exit_code", "kind"),
    [
        ("Can not find any log file matching the pattern: [ALL]", 255, NotFoundError),
        ("Logs not available at /tmp/logs/x", 255, NotFoundError),
        ("Log aggregation has not completed or is not enabled.", 255, NotFoundError),
        ("", 0, NotFoundError),
        ("Permission denied: user=me | Can not find the logs", 255, AccessDeniedError),
        ("java.net.ConnectException: Call From a to b failed", 255, UnreachableError),
        ("something", 1, UnreachableError),
    ],
)
def test_its_words_say_why_there_is_no_log(
    config: HadoopConfig, said: str, exit_code: int, kind: type[Exception]
) -> None:
    yarn(config, f"echo '{said}' >&2; exit {exit_code}")
    with pytest.raises(kind) as failure:
        read(config)
    assert said in str(failure.value)


def test_a_log_that_breaks_off_is_not_whole(config: HadoopConfig) -> None:
    yarn(config, f"echo '{HEADER}'; echo it broke >&2; exit 1")
    with pytest.raises(UnreachableError, match="exit code 1: it broke"):
        read(config)


def test_without_the_command_the_error_says_where_it_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("HADOOP_HOME", raising=False)
    with pytest.raises(ConfigError, match="HADOOP_HOME"):
        yarn_logs(HadoopConfig(tmp_path, "a test", {}), APP, timeout_s=1)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "yarn").touch(0o755)
    monkeypatch.setenv("HADOOP_HOME", str(tmp_path))
    assert yarn_command() == str(tmp_path / "bin" / "yarn")

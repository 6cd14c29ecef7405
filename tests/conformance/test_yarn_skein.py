"""Submitting by skein's driver, on a real YARN."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_exec.clients import skein_process
from mlflow_exec.clients.hadoop_config import HadoopConfig, read_config
from mlflow_exec.clients.hadoop_http import Login
from mlflow_exec.clients.skein import SkeinDriver, driver
from mlflow_exec.clients.webhdfs import WebHdfs
from mlflow_exec.clients.yarn import ResourceManager
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConfigError,
    RejectedError,
    UnreachableError,
)
from tests.clusters.processes import appears
from tests.clusters.yarn import applications
from tests.clusters.yarn.cluster import YarnCluster

ME = Login("me")


@pytest.fixture(scope="module")
def config(yarn_cluster: YarnCluster) -> Iterator[HadoopConfig]:
    yarn_cluster.make_home("me")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in yarn_cluster.environment("somebody").items():
            patch.setenv(name, value)
        yield read_config(str(yarn_cluster.conf_dir))


@pytest.fixture(scope="module")
def shared(config: HadoopConfig) -> Iterator[SkeinDriver]:
    """The driver of this process for the user `me`."""
    found = driver(config, ME)
    assert driver(read_config(str(config.folder)), Login("me")) is found
    yield found
    found.close()


@pytest.fixture
def own(config: HadoopConfig) -> Iterator[SkeinDriver]:
    """A driver of one test's own."""
    found = SkeinDriver(config, ME)
    yield found
    found.close()


# The master's container holds skein's own Java process, too: 128 MiB are too few for both.
def specification(script: str, *, memory: str = "512 MiB", **further: Any) -> dict[str, Any]:
    master = {"script": script, "resources": {"memory": memory, "vcores": 1}}
    return {"name": "of a test", "queue": "default", "master": master, **further}


def drivers() -> dict[int, str]:
    """The processes of skein's drivers that this process has started, and what they are told."""
    listed = subprocess.run(
        ["ps", "-ww", "-o", "pid=", "-o", "args=", "--ppid", str(os.getpid())],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line.split(None, 1) for line in listed.stdout.splitlines()]
    return {int(pid): args for pid, args in lines if "com.anaconda.skein.Driver" in args}


# -- what is accepted -----------------------------------------------------------------------


def test_an_application_is_submitted_and_runs(
    shared: SkeinDriver, yarn_cluster: YarnCluster, config: HadoopConfig
) -> None:
    waited: list[str] = []
    wanted = specification("echo hello", tags=["Mine"])
    first, second = (shared.submit(wanted, waited.append) for _ in range(2))
    assert first != second
    assert waited in ([], ["starting skein's driver (Java)"])
    for name in (first, second):
        record = applications.ended(yarn_cluster, name)
        assert (record["user"], record["finalStatus"]) == ("me", "SUCCEEDED")
        assert record["applicationTags"] == "mine"
    assert [app["id"] for app in ResourceManager(config, ME).apps(tag="Mine", limit=1)]


def test_its_keys_are_nobody_elses(
    shared: SkeinDriver, yarn_cluster: YarnCluster, config: HadoopConfig
) -> None:
    name = shared.submit(specification("sleep 1000"))
    folder = f"/user/me/.skein/{name}"
    status = WebHdfs(config, ME).status(folder)
    assert status is not None
    assert status["permission"] == "700"
    with pytest.raises(AccessDeniedError):
        WebHdfs(config, Login("another")).status(f"{folder}/.skein.pem")
    ResourceManager(config, ME).kill(name)
    applications.ended(yarn_cluster, name)
    assert drivers()
    for pid, arguments in drivers().items():
        assert "PRIVATE KEY" not in arguments
        assert stat.S_IMODE(os.stat(f"/proc/{pid}/environ").st_mode) == 0o400
        assert stat.S_IMODE(os.stat(f"/proc/{pid}/cwd/").st_mode) == 0o700


def test_a_process_leaves_no_driver_and_no_key_behind(
    config: HadoopConfig, yarn_cluster: YarnCluster, tmp_path: Path
) -> None:
    program = f"""if True:
        from mlflow_exec.clients.hadoop_config import read_config
        from mlflow_exec.clients.hadoop_http import find_login
        from mlflow_exec.clients.skein import driver
        config = read_config(None)
        print(driver(config, find_login(config, user="me")).submit({specification("true")!r}))
        print(driver(config, find_login(config, user="me"))._running.process._process.pid)
    """
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    variables = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    name, pid = done.stdout.split()
    assert not Path(f"/proc/{pid}").exists()
    assert applications.ended(yarn_cluster, name)["finalStatus"] == "SUCCEEDED"
    assert [path.name for path in tmp_path.iterdir()] == ["tmp"]
    assert not list(temporary.iterdir())


# -- what is refused ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "kind", "said"),
    [
        ({"queue": "nosuch"}, RejectedError, "unknown queue: nosuch"),
        ({"queue": "stopped"}, RejectedError, "root.stopped is STOPPED"),
        ({"queue": "closed"}, AccessDeniedError, "User me does not have permission"),
        ({"memory": "600 GiB"}, RejectedError, "greater than maximum allowed allocation"),
        ({"node_label": "nosuch"}, RejectedError, "node label not enabled"),
        ({"tags": ["x" * 101]}, RejectedError, "is too long"),
        ({"tags": ["ü"]}, RejectedError, "ASCII"),
        ({"user": "another"}, AccessDeniedError, "me is not allowed to impersonate another"),
        ({"nosuch": 1}, RejectedError, "skein does not take the specification: .*\n.*nosuch"),
    ],
)
def test_what_yarn_refuses_for_good(
    shared: SkeinDriver, wanted: dict[str, Any], kind: type[ClusterError], said: str
) -> None:
    with pytest.raises(kind, match=said) as failure:
        shared.submit(specification("true", **wanted))
    assert "org.apache" not in str(failure.value)


def test_a_file_that_is_not_there_is_refused(shared: SkeinDriver) -> None:
    wanted = specification("true")
    wanted["master"]["files"] = {"x": "hdfs:///user/me/nosuch"}
    with pytest.raises(RejectedError, match=r"File does not exist: .*nosuch"):
        shared.submit(wanted)


def test_a_user_without_a_home_is_refused(config: HadoopConfig) -> None:
    homeless = SkeinDriver(config, Login("homeless"))
    try:
        with pytest.raises(AccessDeniedError, match="submitted as 'homeless'"):
            homeless.submit(specification("true"))
    finally:
        homeless.close()


# -- what goes wrong with the driver --------------------------------------------------------


@pytest.mark.parametrize("variable", ["SKEIN_DRIVER_JAVA_OPTIONS", "JAVA_TOOL_OPTIONS"])
def test_a_collector_that_the_user_has_chosen_is_the_only_one(
    own: SkeinDriver, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "-XX:+UseParallelGC")
    assert own.submit(specification("true")).startswith("application_")
    chosen = [command for command in drivers().values() if "UseSerialGC" not in command]
    assert len(chosen) == 1


def test_a_driver_that_died_is_mended(own: SkeinDriver, yarn_cluster: YarnCluster) -> None:
    before = set(drivers())
    own.submit(specification("true"))
    (pid,) = set(drivers()) - before
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)  # all its threads are gone
    waited: list[str] = []
    name = own.submit(specification("true"), waited.append)
    assert applications.ended(yarn_cluster, name)["finalStatus"] == "SUCCEEDED"
    assert waited == ["starting skein's driver (Java)"]


def test_a_driver_that_hangs_is_ended(own: SkeinDriver, config: HadoopConfig) -> None:
    before = set(drivers())
    own.submit(specification("true"))
    (pid,) = set(drivers()) - before
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(UnreachableError, match="may have been accepted: no answer in time"):
        own.submit(specification("true", tags=["hung"]), timeout_s=1)
    assert pid not in drivers()
    assert ResourceManager(config, ME).apps(tag="hung") == []
    own.submit(specification("true"))


def test_nothing_is_submitted_after_it_was_given_up(
    own: SkeinDriver, config: HadoopConfig, yarn_cluster: YarnCluster
) -> None:
    yarn_cluster.require_processes()
    own.submit(specification("true"))
    yarn_cluster.kill_daemon("resourcemanager")
    try:
        with pytest.raises(UnreachableError, match="may have been accepted"):
            own.submit(specification("true", tags=["late"]), timeout_s=3)
    finally:
        yarn_cluster.start_daemon("resourcemanager")
    name = own.submit(specification("true"))  # by then the first one would be there
    applications.ended(yarn_cluster, name)
    assert ResourceManager(config, ME).apps(tag="late") == []


def test_several_threads_share_one_driver(own: SkeinDriver) -> None:
    before = set(drivers())
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(own.submit(specification("true"))))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 3
    assert len(set(drivers()) - before) == 1


# -- what goes wrong with its start ---------------------------------------------------------


def command(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder whose commands come first."""
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr(skein_process, "START_TIMEOUT_S", 1.0)
    return tmp_path / "bin"


def test_a_classpath_that_hangs_is_ended(path: Path, own: SkeinDriver) -> None:
    command(path, "yarn", f"echo $$ > {path}/pid; sleep 1000; true")
    with pytest.raises(UnreachableError, match=r"yarn classpath --glob gave no answer"):
        own.submit(specification("true"))
    assert appears(lambda: not _group(int((path / "pid").read_text())), timeout_s=60)


def test_a_driver_that_does_not_start_is_ended(
    path: Path, own: SkeinDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(path, "yarn", "echo x.jar")
    command(path, "java", f"echo $$ > {path}/pid; echo so far so good; sleep 1000; true")
    monkeypatch.delenv("JAVA_HOME")
    with pytest.raises(UnreachableError, match=r"did not start within 1 s.*so far so good"):
        own.submit(specification("true"))
    assert appears(lambda: not _group(int((path / "pid").read_text())), timeout_s=60)


def test_a_driver_that_fails_is_told_of_with_its_last_words(
    path: Path, own: SkeinDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    command(path, "yarn", "echo x.jar")
    command(path, "java", "echo no such class; exit 3")
    monkeypatch.delenv("JAVA_HOME")
    with pytest.raises(ConfigError, match=r"exit code 3 .*no such class"):
        own.submit(specification("true"))
    command(path, "yarn", "echo it is broken >&2; exit 4")
    with pytest.raises(ConfigError, match="yarn classpath --glob ended with exit code 4: it is"):
        own.submit(specification("true"))


def test_without_hadoop_or_java_the_error_says_so(
    own: SkeinDriver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"there is no .*/bin/java"):
        own.submit(specification("true"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("HADOOP_HOME", raising=False)
    with pytest.raises(ConfigError, match="neither on the PATH nor in"):
        own.submit(specification("true"))


def _group(pid: int) -> list[str]:
    listed = subprocess.run(["ps", "-o", "pid=", "-s", str(pid)], capture_output=True, text=True)
    return listed.stdout.split()

"""YARN and HDFS by their REST interfaces, on the real thing."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

import pytest

from mlflow_exec.clients.hadoop_config import HadoopConfig, read_config
from mlflow_exec.clients.hadoop_http import Login
from mlflow_exec.clients.webhdfs import WebHdfs
from mlflow_exec.clients.yarn import ResourceManager
from mlflow_exec.clients.yarn_cli import yarn_logs
from mlflow_exec.errors import (
    AccessDeniedError,
    ConflictError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from tests.clusters.processes import appears
from tests.clusters.yarn import applications
from tests.clusters.yarn.cluster import YarnCluster

ME, ANOTHER = Login("me"), Login("another")


@dataclass(frozen=True)
class Clients:
    """A cluster, and the ways to it of one user."""

    cluster: YarnCluster
    config: HadoopConfig
    manager: ResourceManager
    hdfs: WebHdfs
    home: str


@pytest.fixture(scope="module")
def clients(yarn_cluster: YarnCluster) -> Iterator[Clients]:
    config = read_config(str(yarn_cluster.conf_dir))
    home = yarn_cluster.make_home("me")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in yarn_cluster.environment("me").items():
            patch.setenv(name, value)
        yield Clients(yarn_cluster, config, ResourceManager(config, ME), WebHdfs(config, ME), home)


@pytest.fixture
def folder(clients: Clients) -> Iterator[str]:
    """An empty folder in HDFS, of a name that a URL has to quote."""
    path = f"{clients.home}/of a test + ü%25&?#"
    clients.hdfs.make_folder(path)
    yield path
    clients.hdfs.delete(path)


@pytest.fixture
def speaking(clients: Clients) -> Iterator[str]:
    """An application that has begun to speak and goes on."""
    name = applications.submit(
        clients.cluster, "seq 1 2000; sleep 1; while sleep 0.1; do echo more; done", tags=["Mine"]
    )
    try:
        assert appears(lambda: len(stdout(clients, name)) > 8000, timeout_s=60)
        yield name
    finally:
        clients.manager.kill(name)


def container(clients: Clients, application: str) -> tuple[str, str]:
    """The node and the name of an application's only container; empty before it has one."""
    for attempt in clients.manager.attempts(application):
        return str(attempt["nodeHttpAddress"]), str(attempt["containerId"])
    return "", ""


def stdout(clients: Clients, application: str, *, start_byte: int = 0) -> bytes:
    node, name = container(clients, application)
    with suppress(NotFoundError):  # it has not begun
        if name:
            log = clients.manager.container_log(node, name, "stdout", start_byte=start_byte)
            return b"".join(log)
    return b""


# -- the cluster ----------------------------------------------------------------------------


def test_the_cluster_says_who_it_is_and_what_time_it_is(clients: Clients) -> None:
    info = clients.manager.info()
    assert info["id"] == info["startedOn"]
    now = clients.manager.clock.now()
    assert now is not None
    assert abs((now - datetime.now(timezone.utc)).total_seconds()) < 60
    assert clients.manager.url == clients.cluster.resource_manager_url


def test_its_nodes_queues_and_labels_are_listed(clients: Clients) -> None:
    assert "RUNNING" in [node["state"] for node in clients.manager.nodes()]
    queues = clients.manager.queues()
    assert queues["queueName"] == "root"
    assert "default" in [queue["queueName"] for queue in queues["queues"]["queue"]]
    assert isinstance(clients.manager.labels(), list)


# -- applications ---------------------------------------------------------------------------


def test_applications_are_found_by_tag_user_and_state(clients: Clients, speaking: str) -> None:
    manager = clients.manager

    def found(**by: object) -> list[str]:
        return [app["id"] for app in manager.apps(**by)]  # type: ignore[arg-type]

    assert found(tag="Mine", user="me", states=["ACCEPTED", "RUNNING"]) == [speaking]
    assert speaking in found()
    assert len(found(limit=1)) == 1
    assert found(tag="another") == found(tag="Mine", user="another") == []
    assert speaking not in found(tag="Mine", states=["FINISHED", "KILLED"])
    assert manager.app(speaking)["applicationTags"] == "mine"


def test_an_unknown_application_is_not_found(clients: Clients) -> None:
    manager = clients.manager
    for ask in (manager.app, manager.attempts, manager.kill):
        with pytest.raises(NotFoundError, match="application_1_0001 not found"):
            ask("application_1_0001")
    with pytest.raises(RejectedError, match="Invalid ApplicationId"):
        manager.app("nonsense")


def test_an_application_is_killed_once(clients: Clients) -> None:
    name = applications.submit(clients.cluster, "sleep 1000")
    with pytest.raises(AccessDeniedError, match="asked as 'another'"):
        ResourceManager(clients.config, ANOTHER).kill(name)
    clients.manager.kill(name)
    clients.manager.kill(name)
    assert applications.ended(clients.cluster, name)["state"] == "KILLED"
    clients.manager.kill(name)


def test_one_that_has_finished_keeps_its_result(clients: Clients) -> None:
    name = applications.submit(clients.cluster, "exit 7")
    assert applications.ended(clients.cluster, name)["state"] == "FAILED"
    clients.manager.kill(name)
    assert clients.manager.app(name)["state"] == "FAILED"


def test_a_priority_is_changed(clients: Clients, speaking: str) -> None:
    clients.manager.set_priority(speaking, 0)
    assert clients.manager.app(speaking)["priority"] == 0


def test_a_resource_manager_that_was_away_is_asked_again(clients: Clients) -> None:
    clients.cluster.require_processes()
    before = clients.manager.info()["startedOn"]
    clients.cluster.kill_daemon("resourcemanager")
    try:
        with pytest.raises(UnreachableError, match="Connection refused"):
            clients.manager.apps()
    finally:
        clients.cluster.start_daemon("resourcemanager")
    assert clients.manager.info()["startedOn"] > before


# -- logs -----------------------------------------------------------------------------------


def test_a_log_is_read_while_it_grows(clients: Clients, speaking: str) -> None:
    node, name = container(clients, speaking)
    whole = stdout(clients, speaking)
    lines = "".join(f"{number}\n" for number in range(1, 2001)).encode()
    assert whole.startswith(lines)
    assert set(whole[len(lines) :].split()) <= {b"more"}
    for start_byte in (1, 5000, len(lines)):
        rest = stdout(clients, speaking, start_byte=start_byte)
        assert rest.startswith(whole[start_byte:])
        assert len(rest) >= len(whole) - start_byte
    assert stdout(clients, speaking, start_byte=10**9) == b""

    files = dict(clients.manager.container_files(node, name, "me"))
    assert files["stderr"] == 0
    assert b"".join(clients.manager.container_log(node, name, "stderr")) == b""
    assert files["stdout"] >= len(whole)


def test_what_is_no_log_is_not_found(clients: Clients, speaking: str) -> None:
    node, name = container(clients, speaking)
    with pytest.raises(NotFoundError):
        clients.manager.container_log(node, name, "nosuch")
    assert clients.manager.container_files(node, name[:-1] + "9", "me") == []


def test_the_log_of_another_is_not_read(clients: Clients, speaking: str) -> None:
    node, name = container(clients, speaking)
    with pytest.raises(AccessDeniedError, match="not authorized to view the logs"):
        ResourceManager(clients.config, ANOTHER).container_log(node, name, "stdout")
    with pytest.raises(AccessDeniedError, match="not authorized to view the logs"):
        ResourceManager(clients.config, ANOTHER).container_files(node, name, "me")


def test_the_logs_of_one_that_ended_are_gathered(clients: Clients) -> None:
    name = applications.submit(clients.cluster, "seq 1 20000; echo the last line")
    applications.ended(clients.cluster, name)

    def logs(login: Login, owner: str | None = None) -> bytes:
        found = yarn_logs(clients.config, name, owner=owner, timeout_s=60, login=login)
        return b"".join(found)

    def gathered() -> bool:
        return str(clients.manager.app(name)["logAggregationStatus"]) == "SUCCEEDED"

    assert appears(gathered, timeout_s=60)
    text = logs(ME)
    assert text.startswith(b"Container: container_")
    assert b"\n19999\n20000\nthe last line\n" in text
    with pytest.raises(AccessDeniedError, match="Permission denied"):
        logs(ANOTHER, "me")
    with pytest.raises(NotFoundError, match="there are no logs"):
        b"".join(yarn_logs(clients.config, "application_1_0001", timeout_s=60, login=ME))


# -- files ----------------------------------------------------------------------------------


@contextmanager
def piped(content: bytes) -> Iterator[BinaryIO]:
    """What cannot tell how long it is."""
    out, into = os.pipe()

    def write() -> None:
        with open(into, "wb") as file:
            file.write(content)

    writer = threading.Thread(target=write)
    writer.start()
    with open(out, "rb") as file:
        yield file
    writer.join()


def test_what_is_written_is_read(clients: Clients, folder: str, tmp_path: Path) -> None:
    big = os.urandom(3_000_000)
    (tmp_path / "file").write_bytes(big)
    opened = io.BytesIO(b"skipped" + big)
    opened.seek(7)
    contents: list[tuple[bytes | Path | BinaryIO, bytes]] = [
        (b"", b""),
        (b"short", b"short"),
        (tmp_path / "file", big),
        (opened, big),
    ]
    for given, expected in contents:
        clients.hdfs.write(f"{folder}/x y", given)
        assert b"".join(clients.hdfs.read(f"{folder}/x y")) == expected
    with piped(big) as pipe:
        clients.hdfs.write(f"{folder}/x y", pipe)
    assert b"".join(clients.hdfs.read(f"{folder}/x y")) == big
    status = clients.hdfs.status(f"{folder}/x y")
    assert status is not None
    assert (status["permission"], status["owner"]) == ("600", "me")


def test_a_file_is_replaced_only_where_it_may_be(clients: Clients, folder: str) -> None:
    clients.hdfs.write(f"{folder}/x", b"first")
    with pytest.raises(ConflictError, match="already exists"):
        clients.hdfs.write(f"{folder}/x", b"second", overwrite=False)
    assert b"".join(clients.hdfs.read(f"{folder}/x")) == b"first"


def test_a_rename_replaces_nothing_and_moves_into_nothing(clients: Clients, folder: str) -> None:
    hdfs = clients.hdfs
    for name in ("a", "b"):
        hdfs.write(f"{folder}/{name}", name.encode())
        hdfs.make_folder(f"{folder}/folder-{name}/below")
    assert not hdfs.rename(f"{folder}/a", f"{folder}/b")
    assert not hdfs.rename(f"{folder}/folder-a", f"{folder}/folder-b")
    assert hdfs.rename(f"{folder}/folder-a", f"{folder}/folder-c")
    assert hdfs.rename(f"{folder}/a", f"{folder}/c")
    with pytest.raises(NotFoundError):
        hdfs.rename(f"{folder}/a", f"{folder}/d")
    names = [entry["pathSuffix"] for entry in hdfs.list(folder)]
    assert names == ["b", "c", "folder-b", "folder-c"]
    assert b"".join(hdfs.read(f"{folder}/b")) == b"b"


def test_folders_are_made_once_and_deleted_once(clients: Clients, folder: str) -> None:
    hdfs = clients.hdfs
    hdfs.make_folder(f"{folder}/a/b")
    hdfs.make_folder(f"{folder}/a/b")
    status = hdfs.status(f"{folder}/a")
    assert status is not None
    assert status["permission"] == "700"
    with pytest.raises(RejectedError, match="not empty"):
        hdfs.delete(f"{folder}/a", recursive=False)
    assert hdfs.delete(f"{folder}/a")
    assert not hdfs.delete(f"{folder}/a")
    assert hdfs.status(f"{folder}/a") is None
    hdfs.write(f"{folder}/file", b"")
    with pytest.raises(ConflictError):
        hdfs.make_folder(f"{folder}/file")


def test_permission_and_time_are_set(clients: Clients, folder: str) -> None:
    hdfs = clients.hdfs
    hdfs.write(f"{folder}/x", b"")
    hdfs.set_permission(f"{folder}/x", "640")
    hdfs.set_times(f"{folder}/x", 1000)
    status = hdfs.status(f"{folder}/x")
    assert status is not None
    assert (status["permission"], status["modificationTime"]) == ("640", 1000)
    hdfs.touch(f"{folder}/x")
    status = hdfs.status(f"{folder}/x")
    assert status is not None
    assert abs(status["modificationTime"] / 1000 - datetime.now().timestamp()) < 60
    with pytest.raises(NotFoundError):
        hdfs.touch(f"{folder}/nosuch")


def test_what_is_not_there_is_not_found(clients: Clients, folder: str) -> None:
    assert clients.hdfs.home() == clients.home
    with pytest.raises(NotFoundError):
        clients.hdfs.list(f"{folder}/nosuch")
    for path in (f"{folder}/nosuch", folder):
        with pytest.raises(NotFoundError):
            clients.hdfs.read(path)


def test_the_files_of_another_are_not_touched(clients: Clients, folder: str) -> None:
    other = WebHdfs(clients.config, ANOTHER)
    clients.hdfs.write(f"{folder}/x", b"mine")
    for act in (
        lambda: other.status(f"{folder}/x"),
        lambda: other.write(f"{folder}/x", b"theirs"),
        lambda: other.delete(folder),
    ):
        with pytest.raises(AccessDeniedError, match="Permission denied: user=another"):
            act()
    with pytest.raises(AccessDeniedError, match="not allowed to impersonate me"):
        WebHdfs(clients.config, Login("another", proxy_user="me")).home()
    assert b"".join(clients.hdfs.read(f"{folder}/x")) == b"mine"


def test_a_data_node_that_is_away_is_named(clients: Clients, folder: str) -> None:
    clients.cluster.require_processes()
    clients.hdfs.write(f"{folder}/x", b"mine")
    clients.cluster.kill_daemon("datanode")
    try:
        with pytest.raises(
            UnreachableError, match=r"HDFS http://.*no answer: .*refused.* way to its DataNodes"
        ):
            clients.hdfs.write(f"{folder}/y", b"more")
        with pytest.raises(
            UnreachableError, match=r"HDFS http://.*no answer: .*refused.* way to its DataNodes"
        ):
            clients.hdfs.read(f"{folder}/x")
    finally:
        clients.cluster.start_daemon("datanode")

    def read() -> bytes:
        with suppress(UnreachableError):  # the NameNode has not heard of the new one yet
            return b"".join(clients.hdfs.read(f"{folder}/x"))
        return b""

    assert appears(lambda: read() == b"mine", timeout_s=60, interval_s=0.5)

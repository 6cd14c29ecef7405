"""The second step of reading and writing in HDFS: at a DataNode that a NameNode names."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from mlflow_exec.clients.hadoop_http import Login
from mlflow_exec.clients.webhdfs import WebHdfs
from mlflow_exec.errors import ClusterError, RejectedError, UnreachableError
from tests.unit.hadoop_daemon import Answer, Asked, Daemon, daemon, remote_exception
from tests.unit.test_hadoop_config import of

TOKEN = "KAAKSm9i_secret"
CONTENT = "content"


@dataclass
class Hdfs:
    """A NameNode that names a DataNode that is away, and another where that one is left out."""

    name_node: Daemon
    data_node: Daemon
    client: WebHdfs
    length_bytes: int = len(CONTENT)


@pytest.fixture
def hdfs() -> Iterator[Hdfs]:
    with socket.socket() as probe, ExitStack() as stack:
        probe.bind(("127.0.0.1", 0))
        away = f"http://127.0.0.1:{probe.getsockname()[1]}"
        data_node = stack.enter_context(
            daemon(lambda a: Answer(201 if a.method == "PUT" else 200, CONTENT))
        )

        def answer(asked: Asked) -> Answer:
            if asked.query["op"] == "GETFILESTATUS":
                status = {"type": "FILE", "length": found.length_bytes}
                return Answer(200, {"FileStatus": status})
            base = data_node.url if asked.query.get("excludedatanodes") == "127.0.0.1" else away
            return Answer(307, "", {"Location": f"{base}/x?delegation={TOKEN}"})

        name_node = stack.enter_context(daemon(answer))
        address = name_node.url.replace("http", "webhdfs")
        found = Hdfs(name_node, data_node, WebHdfs(of(), Login("me"), address))
        yield found


def test_another_data_node_takes_the_place_of_one_that_is_away(hdfs: Hdfs) -> None:
    assert b"".join(hdfs.client.read("/x")) == CONTENT.encode()
    hdfs.client.write("/x", CONTENT.encode())
    body = io.BytesIO(b"not this" + CONTENT.encode())
    body.seek(8)
    hdfs.client.write("/x", body)
    assert [asked.headers.get("Content-Length") for asked in hdfs.data_node.asked] == [
        None,
        str(len(CONTENT)),
        str(len(CONTENT)),
    ]


def test_without_another_the_one_that_is_away_is_named(hdfs: Hdfs) -> None:
    answer = hdfs.name_node.answer

    def no_other(asked: Asked) -> Answer:
        none_left = remote_exception(403, "IOException", "Failed to find datanode")
        return none_left if "excludedatanodes" in asked.query else answer(asked)

    hdfs.name_node.answer = no_other
    for act in (lambda: hdfs.client.write("/x", b"1"), lambda: hdfs.client.read("/x")):
        with pytest.raises(UnreachableError, match=r"refused; HDFS needs a way") as failure:
            act()
        assert TOKEN not in str(failure.value)


def test_what_is_not_there_as_it_was_sent_is_an_error(hdfs: Hdfs) -> None:
    hdfs.length_bytes = 3
    with pytest.raises(UnreachableError, match="3 bytes are there after 7 were written"):
        hdfs.client.write("/x", CONTENT.encode())
    hdfs.length_bytes = 100
    with pytest.raises(UnreachableError, match="it ended after 7 of 100 bytes"):
        b"".join(hdfs.client.read("/x"))


@pytest.mark.parametrize("second", [Answer(200, ""), remote_exception(403, "IOException", TOKEN)])
def test_a_data_node_that_does_not_take_it_is_named(hdfs: Hdfs, second: Answer) -> None:
    hdfs.data_node.answer = lambda _: second
    with pytest.raises(RejectedError, match=f"HDFS {hdfs.data_node.url}"):
        hdfs.client.write("/x", CONTENT.encode())


def test_what_names_no_data_node_is_no_namenode(hdfs: Hdfs) -> None:
    hdfs.name_node.answer = lambda _: Answer(200, "<html>")
    with pytest.raises(ClusterError, match="no WebHDFS"):
        hdfs.client.write("/x", b"")

"""Artifacts in a real HDFS."""

from __future__ import annotations

import io
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import NOTHING
from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage.webhdfs import HdfsStore
from mlflow_exec.testing.collecting import until
from mlflow_exec.testing.stores import StoreConformance, Stored, put
from mlflow_exec.uris import Location
from tests.cloud_server import serving
from tests.clusters.pytest_yarn import running
from tests.clusters.yarn.cluster import YarnCluster
from tests.clusters.yarn.hdfs import HdfsCluster
from tests.conformance.cutting import assert_survives_cuts
from tests.conformance.small_disks import assert_says_that_it_is_full, small_disk
from tests.forwarding_server import ForwardingServer
from tests.unit.tcp_link import TcpLink

_BLOCK_BYTES = 256 * 1024

def store_at(cluster: YarnCluster, name: str, user: str = "", url: str = "") -> HdfsStore:
    host = urlsplit(url or cluster.webhdfs_url).netloc
    return HdfsStore(
        Location.parse(f"webhdfs://{user or cluster.superuser}@{host}/artifacts/{name}"), NOTHING
    )


class TestHdfs(StoreConformance):
    @pytest.fixture
    def stored(self, yarn_cluster: YarnCluster) -> Stored:
        return Stored(lambda name: store_at(yarn_cluster, name))


def test_a_connection_that_breaks_in_the_middle_loses_nothing(yarn_cluster: YarnCluster) -> None:
    node = urlsplit(yarn_cluster.data_node_url)
    link = TcpLink(str(node.hostname), int(node.port or 0))
    before = ForwardingServer(yarn_cluster.webhdfs_url, (node.netloc, f"127.0.0.1:{link.port}"))
    with serving(before):
        store = store_at(yarn_cluster, "cut", url=before.url)
        assert_survives_cuts(store, link)
        assert link.connections > 2
        store.delete("")
        store.close()
    link.close()


def test_a_disk_that_is_full_is_told_of_and_nothing_is_lost(tmp_path: Path) -> None:
    """Of the only DataNode; its NameNode hears of its room by the heartbeat, and of files later."""
    properties = {
        "dfs.datanode.data.dir": f"file://{tmp_path}/full",
        "dfs.blocksize": str(_BLOCK_BYTES),
        # By default a DataNode keeps a GiB free.
        "dfs.datanode.round-robin-volume-choosing-policy.additional-available-space": "0",
        "dfs.heartbeat.interval": "1",
        "dfs.namenode.redundancy.interval.seconds": "1s",
    }
    full = HdfsCluster(properties={"hdfs-site": properties})
    with small_disk(tmp_path / "full"), running(full) as cluster:
        store = store_at(cluster, "x")

        def takes_a_file() -> bool:
            with suppress(ArtifactError):
                put(store, "probe", b"1")
                store.delete("probe")
                return True
            return False

        assert_says_that_it_is_full(
            store,
            "; no DataNode keeps it: they have no room left, or are away$",
            lambda: until(takes_a_file, "the NameNode knows of room"),
        )


def test_who_may_not_write_is_told_so(yarn_cluster: YarnCluster) -> None:
    store = store_at(yarn_cluster, "x", user="nobody-here")
    with pytest.raises(ArtifactError, match="Permission denied: user=nobody-here"):
        store.put("a", io.BytesIO(b"1"))


def test_a_namenode_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.5)
    store = HdfsStore(Location.parse("webhdfs://127.0.0.1:9/artifacts"), NOTHING)
    with pytest.raises(ArtifactError, match="refused"):
        store.entries("")

"""An HDFS alone, without the YARN."""

from __future__ import annotations

from collections.abc import Iterator

from tests.clusters.yarn.cluster import YarnCluster
from tests.clusters.yarn.daemons import Daemon


class HdfsCluster(YarnCluster):
    """A NameNode and a DataNode; what is said of YARN is not there."""

    _first_nodes = ()

    @property
    def ports(self) -> dict[str, int]:
        """The ports of its daemons on the loopback, by the names of `layout.HDFS_PORTS`."""
        return dict(self._layout.ports)

    def _yarn(self) -> Iterator[Daemon]:
        return iter(())

"""Fixtures that give tests a real YARN and HDFS: the user's own, or one started here.

The user's own is that of $HADOOP_CONF_DIR where MLFLOW_EXEC_TEST_YARN=1 says that tests may use it.
Where none is to be had the tests are skipped with the reason, or fail with it when
MLFLOW_EXEC_FORBID_SKIP=1.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import pytest

from tests.clusters.pytest_kubernetes import unavailable
from tests.clusters.yarn import configuration, kdc, options
from tests.clusters.yarn.cluster import YarnCluster
from tests.clusters.yarn.given import GivenYarnCluster
from tests.clusters.yarn.high_availability import HighlyAvailableYarnCluster
from tests.clusters.yarn.jars import missing
from tests.clusters.yarn.kerberos import KerberosYarnCluster

_Cluster = TypeVar("_Cluster", bound=YarnCluster)


@pytest.fixture(scope="session")
def yarn_cluster() -> Iterator[YarnCluster]:
    """A real YARN and HDFS for the whole session."""
    given = os.environ.get("HADOOP_CONF_DIR")
    if given and os.environ.get("MLFLOW_EXEC_TEST_YARN") == "1":
        yield GivenYarnCluster(Path(given))
        return
    with running(YarnCluster()) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def rich_yarn_cluster() -> Iterator[YarnCluster]:
    """Another YARN, with what most do not have.

    Two GPUs on its node, a label `special` that nodes can have, preemption, priorities up to 10,
    and a user `gateway` who may act as any other.
    """
    properties = configuration.merged(
        options.gpus(2),
        options.node_labels("special"),
        options.preemption(),
        options.priorities(10),
        options.proxy_user("gateway"),
    )
    with running(YarnCluster(properties=properties)) as cluster:
        cluster.add_label("special")
        yield cluster


@pytest.fixture(scope="module")
def highly_available_yarn_cluster() -> Iterator[HighlyAvailableYarnCluster]:
    """Another YARN, with two ResourceManagers."""
    with running(HighlyAvailableYarnCluster()) as cluster:
        yield cluster


@pytest.fixture(scope="session")
def kerberos_yarn_cluster() -> Iterator[KerberosYarnCluster]:
    """Another YARN, where everybody needs a ticket; `gateway` may act as any other user."""
    if lacking := kdc.missing():
        unavailable("no YARN with Kerberos: " + " ".join(lacking))
    with running(KerberosYarnCluster(properties=options.proxy_user("gateway"))) as cluster:
        yield cluster


@contextmanager
def running(cluster: _Cluster) -> Iterator[_Cluster]:
    """A cluster from its start to its end, where one can start here."""
    require_yarn()
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()


def require_yarn() -> None:
    """Skip the running test, or fail it where skips are forbidden, when no YARN can start here."""
    if lacking := missing():
        unavailable(
            "no YARN (MLFLOW_EXEC_TEST_YARN is not set, none can start): " + " ".join(lacking)
        )

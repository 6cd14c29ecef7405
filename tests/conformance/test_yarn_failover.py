"""The clients of YARN with two ResourceManagers, of which one stands by."""

from __future__ import annotations

import pytest

from mlflow_exec.clients.hadoop_config import HadoopConfig, read_config
from mlflow_exec.clients.hadoop_http import HadoopHttp, Login
from mlflow_exec.clients.yarn import ResourceManager
from mlflow_exec.errors import NotFoundError, UnreachableError
from tests.clusters.yarn import applications
from tests.clusters.yarn.high_availability import HighlyAvailableYarnCluster

ME = Login("me")


@pytest.fixture(scope="module")
def config(highly_available_yarn_cluster: HighlyAvailableYarnCluster) -> HadoopConfig:
    return read_config(str(highly_available_yarn_cluster.conf_dir))


def test_the_active_one_is_found_and_the_next_one_after_it(
    config: HadoopConfig, highly_available_yarn_cluster: HighlyAvailableYarnCluster
) -> None:
    cluster = highly_available_yarn_cluster
    assert sorted(config.resource_managers()) == sorted(cluster.resource_manager_urls)
    manager = ResourceManager(config, ME)
    first = manager.info()
    assert (first["haState"], manager.url) == ("ACTIVE", cluster.resource_manager_url)
    name = applications.submit(cluster, "sleep 1000", tags=["of-two"])
    assert [app["id"] for app in manager.apps(tag="of-two")] == [name]

    standby = next(url for url in cluster.resource_manager_urls if url != manager.url)
    with pytest.raises(UnreachableError, match="not the active one") as failure:
        HadoopHttp("YARN", [standby], ME).ask("GET", "/ws/v1/cluster/apps")
    assert failure.value.reason == "StandbyException"

    killed = cluster.kill_active()
    assert [app["id"] for app in manager.apps(tag="of-two")] == [name]
    assert manager.url == standby
    assert manager.info()["startedOn"] != first["startedOn"]
    with pytest.raises(NotFoundError):
        manager.app("application_1_0001")
    cluster.start_daemon(killed)
    manager.kill(name)
    assert applications.ended(cluster, name)["state"] == "KILLED"

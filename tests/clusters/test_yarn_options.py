"""What a YARN of the tests has besides where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters.processes import appears
from tests.clusters.yarn import applications
from tests.clusters.yarn.cluster import YarnCluster
from tests.clusters.yarn.high_availability import HighlyAvailableYarnCluster
from tests.clusters.yarn.skein_application import skein_application


def test_the_other_resource_manager_takes_over(
    highly_available_yarn_cluster: HighlyAvailableYarnCluster,
) -> None:
    cluster = highly_available_yarn_cluster
    name = applications.submit(cluster, "sleep 1000")
    assert appears(lambda: applications.running(cluster, name), timeout_s=60)
    before = set(cluster.containers())
    killed = cluster.kill_active()
    assert cluster.active() not in (None, killed)
    assert applications.report(cluster, name)["state"] == "ACCEPTED"
    assert set(cluster.containers()) == before
    cluster.start_daemon(killed)
    assert cluster.active() != killed
    applications.kill(cluster, name)
    assert applications.ended(cluster, name)["state"] == "KILLED"


@pytest.fixture
def rich(rich_yarn_cluster: YarnCluster) -> Iterator[YarnCluster]:
    """A YARN with options, empty again after the test."""
    rich_yarn_cluster.make_home("me")
    yield rich_yarn_cluster
    applications.kill_all(rich_yarn_cluster)


def test_gpus_are_given_out_until_none_is_left(rich: YarnCluster, tmp_path: Path) -> None:
    resources = {"memory": "256 MiB", "vcores": 1, "gpus": 1}
    service = {"instances": 3, "resources": resources, "script": "sleep 1000"}
    name = skein_application(rich, "me", tmp_path, services={"worker": service})
    assert appears(lambda: len(rich.containers()) == 3, timeout_s=60), "two, and the master"
    usage = applications.report(rich, name)["resourceInfo"]["resourceUsagesByPartition"][0]["used"]
    used = usage["resourceInformations"]["resourceInformation"]
    assert [entry["value"] for entry in used if entry["name"] == "yarn.io/gpu"] == [2]


def test_an_application_for_a_label_waits_for_a_node_with_it(rich: YarnCluster) -> None:
    wanting = {"app-node-label-expression": "special"}
    name = applications.submit(rich, "sleep 1000", further=wanting)
    plain = applications.submit(rich, "sleep 1000")
    assert appears(lambda: applications.running(rich, plain), timeout_s=60)
    assert not applications.running(rich, name)
    rich.start_node("n2")
    rich.label_node("n2", "special")
    assert appears(lambda: applications.running(rich, name), timeout_s=60)
    assert applications.report(rich, name)["amNodeLabelExpression"] == "special"
    rich.stop_node("n2")


def test_a_proxy_user_acts_as_another(rich: YarnCluster, tmp_path: Path) -> None:
    name = skein_application(rich, "gateway", tmp_path, script="true", user="me")
    record = applications.ended(rich, name)
    assert record["user"] == "me"
    assert record["finalStatus"] == "SUCCEEDED"


def test_nobody_else_acts_as_another(rich: YarnCluster, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="not allowed to impersonate me"):
        skein_application(rich, "another", tmp_path, script="true", user="me")


def test_a_queue_takes_its_share_back(rich: YarnCluster) -> None:
    filling = [applications.submit(rich, "sleep 1000", memory_mb=2048) for _ in range(3)]
    assert appears(lambda: _running(rich, filling) == 3, timeout_s=60)
    needy = applications.submit(rich, "sleep 1000", queue="ml", memory_mb=2304)
    assert appears(lambda: applications.running(rich, needy), timeout_s=60)
    assert _running(rich, filling) == 2


def _running(cluster: YarnCluster, names: list[str]) -> int:
    return sum(applications.running(cluster, name) for name in names)

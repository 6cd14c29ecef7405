"""The YARN that other tests rely on: what an application, and a crash, look like on it."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clusters.processes import Process, appears
from tests.clusters.pytest_yarn import require_yarn
from tests.clusters.yarn import applications, remains
from tests.clusters.yarn.cluster import YarnCluster
from tests.clusters.yarn.skein_application import skein_application

# A session with a running application that ends without a word.
_KILLED_SESSION = """if True:
    import os, signal
    from tests.clusters.processes import appears
    from tests.clusters.yarn import applications
    from tests.clusters.yarn.cluster import YarnCluster

    cluster = YarnCluster().start()
    print(cluster.folder, flush=True)
    name = applications.submit(cluster, "sleep 1000 & setsid sleep 1000")
    assert appears(lambda: applications.running(cluster, name), timeout_s=60)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_application_runs_and_its_log_is_kept(yarn_cluster: YarnCluster) -> None:
    name = applications.submit(yarn_cluster, "echo hello from $CONTAINER_ID; exit 7", tags=["a"])
    record = applications.ended(yarn_cluster, name)
    assert record["finalStatus"] == "FAILED"
    assert record["applicationTags"] == "a"
    assert "exitCode: 7" in record["diagnostics"]

    assert appears(lambda: "hello from container_" in log(yarn_cluster, name), timeout_s=60)


def test_skein_runs_on_it(yarn_cluster: YarnCluster, tmp_path: Path) -> None:
    yarn_cluster.make_home("me")
    name = skein_application(yarn_cluster, "me", tmp_path, script="echo of the driver")
    record = applications.ended(yarn_cluster, name)
    assert record["finalStatus"] == "SUCCEEDED", record["diagnostics"]
    assert record["user"] == "me"


def test_a_container_over_its_memory_is_killed(yarn_cluster: YarnCluster) -> None:
    eater = "exec python3 -c 'import time; eaten = bytes([7]) * (300 << 20); time.sleep(1000)'"
    record = applications.ended(yarn_cluster, applications.submit(yarn_cluster, eater))
    assert "beyond the 'PHYSICAL' memory limit" in record["diagnostics"]


def test_a_closed_queue_refuses(yarn_cluster: YarnCluster) -> None:
    yarn_cluster.require_processes()
    with pytest.raises(urllib.error.HTTPError) as refusal:
        applications.submit(yarn_cluster, "true", queue="closed")
    assert "does not have permission" in refusal.value.read().decode()


def test_a_stopped_queue_fails_what_it_is_given(yarn_cluster: YarnCluster) -> None:
    yarn_cluster.require_processes()
    name = applications.submit(yarn_cluster, "true", queue="stopped")
    record = applications.ended(yarn_cluster, name)
    assert "root.stopped is STOPPED" in record["diagnostics"]


def test_only_its_owner_and_the_administrator_end_an_application(
    yarn_cluster: YarnCluster,
) -> None:
    yarn_cluster.require_processes()
    name = applications.submit(yarn_cluster, "sleep 1000")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        applications.kill(yarn_cluster, name, user="another")
    applications.kill(yarn_cluster, name, user="admin")
    assert applications.ended(yarn_cluster, name)["state"] == "KILLED"


def test_a_full_queue_lets_wait(yarn_cluster: YarnCluster) -> None:
    yarn_cluster.require_processes()
    first, second = (
        applications.submit(yarn_cluster, "sleep 1000", queue="small", memory_mb=1024)
        for _ in range(2)
    )
    try:
        assert appears(lambda: applications.running(yarn_cluster, first), timeout_s=60)
        assert not applications.running(yarn_cluster, second)
        assert applications.report(yarn_cluster, second)["state"] == "ACCEPTED"
        applications.kill(yarn_cluster, first)
        assert appears(lambda: applications.running(yarn_cluster, second), timeout_s=60)
    finally:
        for name in (first, second):
            applications.kill(yarn_cluster, name)


def test_a_home_in_hdfs_is_its_users_own(yarn_cluster: YarnCluster) -> None:
    home = yarn_cluster.make_home("me")
    url = f"{yarn_cluster.webhdfs_url}/webhdfs/v1{home}/made?op=MKDIRS"
    assert yarn_cluster.call(url, user="me", method="PUT") == {"boolean": True}
    with pytest.raises(urllib.error.HTTPError, match="403"):
        yarn_cluster.call(url, user="another", method="PUT")


def test_an_application_outlives_the_resource_manager(yarn_cluster: YarnCluster) -> None:
    name = applications.submit(yarn_cluster, "sleep 1000")
    assert appears(lambda: applications.running(yarn_cluster, name), timeout_s=60)
    before = set(yarn_cluster.containers())
    yarn_cluster.restart("resourcemanager")
    assert appears(lambda: _known(yarn_cluster, name), timeout_s=60)
    assert set(yarn_cluster.containers()) == before
    applications.kill(yarn_cluster, name)
    assert applications.ended(yarn_cluster, name)["state"] == "KILLED"


def test_a_second_node_comes_and_goes(yarn_cluster: YarnCluster) -> None:
    yarn_cluster.start_node("n2", properties={"yarn.nodemanager.resource.memory-mb": "1024"})
    assert yarn_cluster.node_id("n2") != yarn_cluster.node_id("n1")
    yarn_cluster.stop_node("n2")
    assert yarn_cluster.process("nodemanager-n2") is None


@pytest.fixture
def killed_session() -> Iterator[Path]:
    """The folder of a cluster whose session was killed while an application ran."""
    require_yarn()
    done = subprocess.run(
        [sys.executable, "-c", _KILLED_SESSION], capture_output=True, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    folder = Path(done.stdout.strip())
    yield folder
    remains.remove(folder)


def test_what_a_killed_session_leaves_is_removed_by_the_next(killed_session: Path) -> None:
    pids = {pid for pids in remains.containers(killed_session).values() for pid in pids}
    left = [Process.of(pid) for pid in pids]
    left += [Process.read(record) for record in killed_session.glob("processes/*.json")]
    assert len([process for process in left if process]) >= 6
    remains.clean_dead()
    assert not [process for process in left if process and process.alive()]
    assert not killed_session.exists()


def log(cluster: YarnCluster, application: str) -> str:
    """Return what `yarn logs` has for an application; empty before it is there."""
    done = subprocess.run(
        ["yarn", "logs", "-applicationId", application],
        env=cluster.environment("me"),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stdout


def _known(cluster: YarnCluster, application: str) -> bool:
    try:
        return bool(applications.report(cluster, application)["state"] == "ACCEPTED")
    except urllib.error.HTTPError:
        return False

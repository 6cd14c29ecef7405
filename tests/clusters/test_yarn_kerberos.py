"""A YARN of the tests on which everybody needs a ticket."""

from __future__ import annotations

import subprocess
import urllib.error
from pathlib import Path

import pytest

from tests.clusters.processes import appears
from tests.clusters.yarn import applications, client
from tests.clusters.yarn.kerberos import KerberosYarnCluster
from tests.clusters.yarn.skein_application import skein_application


def test_a_user_with_a_ticket_runs_applications(
    kerberos_yarn_cluster: KerberosYarnCluster, tmp_path: Path
) -> None:
    cluster = kerberos_yarn_cluster
    cluster.make_home("me")
    name = skein_application(cluster, "me", tmp_path, script="echo of the driver")
    record = applications.ended(cluster, name)
    assert record["user"] == "me"
    assert record["finalStatus"] == "SUCCEEDED", record["diagnostics"]

    def log_is_kept() -> bool:
        return "of the driver" in _yarn(cluster, "logs", "-applicationId", name).stdout

    assert appears(log_is_kept, timeout_s=60), _yarn(cluster, "logs", "-applicationId", name)


def test_a_client_without_a_ticket_is_refused(
    kerberos_yarn_cluster: KerberosYarnCluster, tmp_path: Path
) -> None:
    done = _yarn(
        kerberos_yarn_cluster,
        "fs",
        "-ls",
        "/",
        KRB5CCNAME=f"FILE:{tmp_path}/none",
        HADOOP_USER_NAME="admin",
    )
    assert done.returncode != 0
    assert "Client cannot authenticate via:[TOKEN, KERBEROS]" in done.stderr + done.stdout
    for url in (
        f"{kerberos_yarn_cluster.resource_manager_url}/ws/v1/cluster/apps",
        f"{kerberos_yarn_cluster.webhdfs_url}/webhdfs/v1/?op=LISTSTATUS",
    ):
        with pytest.raises(urllib.error.HTTPError, match="401"):
            client.call(url + ("&" if "?" in url else "?") + "user.name=admin")


def test_a_ticket_is_its_users_own(kerberos_yarn_cluster: KerberosYarnCluster) -> None:
    cluster = kerberos_yarn_cluster
    name = applications.submit(cluster, "sleep 1000", user="me")
    with pytest.raises(urllib.error.HTTPError, match="403"):
        applications.kill(cluster, name, user="another")
    applications.kill(cluster, name, user="admin")
    assert applications.ended(cluster, name)["state"] == "KILLED"


def test_a_ticket_ends(kerberos_yarn_cluster: KerberosYarnCluster) -> None:
    kdc = kerberos_yarn_cluster.kdc
    url = f"{kerberos_yarn_cluster.resource_manager_url}/ws/v1/cluster/apps"
    kdc.sign_in("guest", lifetime_s=2)

    def refused() -> bool:
        try:
            kerberos_yarn_cluster.call(url, user="guest")
        except urllib.error.HTTPError as error:
            return error.code == 401
        return False

    assert not refused()
    assert appears(refused, timeout_s=60)


def _yarn(
    cluster: KerberosYarnCluster, *arguments: str, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["yarn", *arguments],
        env={**cluster.environment("me"), **variables},
        capture_output=True,
        text=True,
        check=False,
    )

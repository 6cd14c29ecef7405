"""The clients of YARN and HDFS where everybody needs a Kerberos ticket."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from mlflow_exec.clients.hadoop_config import HadoopConfig, read_config
from mlflow_exec.clients.hadoop_http import Login, find_login
from mlflow_exec.clients.skein import SkeinDriver
from mlflow_exec.clients.webhdfs import WebHdfs
from mlflow_exec.clients.yarn import ResourceManager
from mlflow_exec.clients.yarn_cli import yarn_logs
from mlflow_exec.errors import AccessDeniedError, ConfigError, MissingExtraError
from tests.clusters.processes import appears
from tests.clusters.pytest_kubernetes import unavailable
from tests.clusters.yarn import applications
from tests.clusters.yarn.kerberos import KerberosYarnCluster

MASTER = {"script": "echo of the driver", "resources": {"memory": "512 MiB", "vcores": 1}}


@pytest.fixture
def config(
    kerberos_yarn_cluster: KerberosYarnCluster, monkeypatch: pytest.MonkeyPatch
) -> HadoopConfig:
    """The cluster, for one who has signed in as `me`."""
    if find_spec("requests_gssapi") is None:
        unavailable("the extra yarn-kerberos is not installed")
    kerberos_yarn_cluster.make_home("me")
    monkeypatch.delenv("HADOOP_USER_NAME", raising=False)
    for name, value in kerberos_yarn_cluster.environment("me").items():
        monkeypatch.setenv(name, value)
    return read_config(str(kerberos_yarn_cluster.conf_dir))


@pytest.fixture
def keytab(kerberos_yarn_cluster: KerberosYarnCluster, config: HadoopConfig) -> str:
    return str(kerberos_yarn_cluster.kdc.keytab("me"))


@pytest.fixture
def no_ticket(config: HadoopConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """There is no ticket; the file that would hold it."""
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path}/tickets")
    return tmp_path / "tickets"


def works_with_files(config: HadoopConfig, login: Login) -> None:
    hdfs = WebHdfs(config, login)
    assert hdfs.home() == "/user/me"
    content = b"content" * 100_000
    hdfs.write("/user/me/of a test", content)
    assert b"".join(hdfs.read("/user/me/of a test")) == content
    assert hdfs.delete("/user/me/of a test")


def runs_an_application(cluster: KerberosYarnCluster, config: HadoopConfig, login: Login) -> None:
    manager, driver = ResourceManager(config, login), SkeinDriver(config, login)
    try:
        name = driver.submit({"name": "x", "queue": "default", "master": MASTER})
    finally:
        driver.close()
    record = applications.ended(cluster, name, timeout_s=180)
    assert (record["user"], record["finalStatus"]) == ("me", "SUCCEEDED"), record["diagnostics"]

    def gathered() -> bool:
        return str(manager.app(name)["logAggregationStatus"]) == "SUCCEEDED"

    assert appears(gathered, timeout_s=60)
    log = b"".join(yarn_logs(config, name, owner="me", timeout_s=120, login=login))
    assert b"\nof the driver\n" in log


def test_a_ticket_is_used(kerberos_yarn_cluster: KerberosYarnCluster, config: HadoopConfig) -> None:
    login = find_login(config)
    assert login == Login("me", kerberos=True)
    assert ResourceManager(config, login).info()["state"] == "STARTED"
    works_with_files(config, login)
    runs_an_application(kerberos_yarn_cluster, config, login)


def test_a_keytab_is_used_and_leaves_no_ticket(
    kerberos_yarn_cluster: KerberosYarnCluster, config: HadoopConfig, keytab: str, no_ticket: Path
) -> None:
    login = find_login(config, principal="me", keytab=keytab)
    assert (login.user, login.kerberos) == ("me", True)
    works_with_files(config, login)
    name = applications.submit(kerberos_yarn_cluster, "sleep 1000", user="me")
    ResourceManager(config, login).kill(name)
    assert applications.ended(kerberos_yarn_cluster, name)["state"] == "KILLED"
    assert not no_ticket.exists()


def test_without_a_ticket_nobody_is_asked(config: HadoopConfig, no_ticket: Path) -> None:
    assert not no_ticket.exists()
    with pytest.raises(ConfigError, match=r"no valid ticket: .*; run kinit, or give 'principal'"):
        find_login(config)
    with pytest.raises(AccessDeniedError, match="run kinit"):
        ResourceManager(config, Login("me", kerberos=True)).apps()
    driver = SkeinDriver(config, Login("me", kerberos=True))
    try:
        with pytest.raises(AccessDeniedError, match=r"Kerberos ticket not found.*; run kinit"):
            driver.submit({"name": "x", "master": MASTER})
    finally:
        driver.close()


def test_the_ticket_of_another_is_not_taken(config: HadoopConfig) -> None:
    with pytest.raises(ConfigError, match="another"):
        find_login(config, principal="another")


def test_a_name_alone_is_not_believed(config: HadoopConfig) -> None:
    for ask in (ResourceManager(config, Login("me")).apps, WebHdfs(config, Login("me")).home):
        with pytest.raises(AccessDeniedError, match=r"not believed.*hadoop\.security"):
            ask()


def test_a_key_that_is_not_of_this_realm_is_refused(
    config: HadoopConfig, keytab: str, no_ticket: Path, tmp_path: Path
) -> None:
    content = Path(keytab).read_bytes().replace(b"\0\2me", b"\0\2mx")
    (tmp_path / "other.keytab").write_bytes(content)
    login = find_login(config, principal="mx", keytab=str(tmp_path / "other.keytab"))
    with pytest.raises(AccessDeniedError, match=r"signing in as 'mx@.*' .*not found"):
        ResourceManager(config, login).apps()


def test_without_the_python_packages_the_error_names_the_extra(
    config: HadoopConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "requests_gssapi", None)
    with pytest.raises(MissingExtraError, match=r"mlflow-exec\[yarn-kerberos\]"):
        ResourceManager(config, find_login(config)).apps()

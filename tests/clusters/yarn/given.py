"""A YARN that the tests did not start: what they may do with it."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import NoReturn

from tests.clusters.pytest_kubernetes import unavailable
from tests.clusters.yarn import configuration
from tests.clusters.yarn.cluster import YarnCluster


class GivenYarnCluster(YarnCluster):
    """The user's own YARN, by its folder of configuration; `yarn` has to be on PATH.

    A test that wants its daemons killed or its settings changed is skipped.
    """

    def __init__(self, conf_dir: Path) -> None:
        super().__init__()
        self._conf_dir = conf_dir.absolute()

    @property
    def conf_dir(self) -> Path:
        return self._conf_dir

    @property
    def superuser(self) -> str:
        return os.environ.get("HADOOP_USER_NAME") or getpass.getuser()

    @property
    def resource_manager_url(self) -> str:
        site = configuration.read(self.conf_dir / "yarn-site.xml")
        host = site.get("yarn.resourcemanager.hostname", "localhost")
        address = site.get("yarn.resourcemanager.webapp.address", f"{host}:8088")
        return "http://" + address.replace("${yarn.resourcemanager.hostname}", host)

    @property
    def webhdfs_url(self) -> str:
        core = configuration.read(self.conf_dir / "core-site.xml")
        host = core.get("fs.defaultFS", "").removeprefix("hdfs://").partition(":")[0]
        site = configuration.read(self.conf_dir / "hdfs-site.xml")
        return "http://" + site.get("dfs.namenode.http-address", f"{host or 'localhost'}:9870")

    def environment(self, user: str | None = None) -> dict[str, str]:
        names = ("JAVA_HOME", "PATH", "HADOOP_HOME")
        return {
            **{name: os.environ[name] for name in names if name in os.environ},
            "HADOOP_CONF_DIR": str(self.conf_dir),
            "HADOOP_USER_NAME": user or self.superuser,
        }

    def require_processes(self) -> NoReturn:
        unavailable("a test of daemons and settings needs a YARN that the tests started")

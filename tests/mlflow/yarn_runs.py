"""Submissions of MLflow projects to a real YARN."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from mlflow_exec.clients.hadoop_config import read_config
from mlflow_exec.clients.hadoop_http import find_login
from mlflow_exec.clients.webhdfs import WebHdfs
from mlflow_exec.clients.yarn import ResourceManager
from mlflow_exec.errors import NotFoundError
from tests.clusters.yarn.cluster import YarnCluster
from tests.mlflow.submitted_runs import SubmittedRuns
from tests.yarn_client import small


@dataclass
class YarnRuns(SubmittedRuns):
    """Submits projects to a YARN, and looks at what they leave there."""

    backend: ClassVar[str] = "yarn"

    cluster: YarnCluster

    def config(self, **changes: Any) -> dict[str, Any]:
        """See `SubmittedRuns.config`."""
        return small(self.cluster, **changes)

    def manager(self, user: str | None = None) -> ResourceManager:
        """Return what asks YARN, as one of its users."""
        config = read_config(str(self.cluster.conf_dir))
        return ResourceManager(config, find_login(config, user=user))

    def hdfs(self, user: str | None = None) -> WebHdfs:
        """Return what asks HDFS, as one of its users."""
        config = read_config(str(self.cluster.conf_dir))
        return WebHdfs(config, find_login(config, user=user))

    def applications(self, run_id: str) -> list[dict[str, Any]]:
        """Return the applications of a run, the first one first."""
        found = self.manager().apps(tag=f"mlflow-{run_id}")
        return sorted(found, key=lambda app: str(app["id"]))

    def staged(self) -> list[str]:
        """Return the files and folders of ours and of skein's in the user's home."""
        hdfs = self.hdfs()
        found: list[str] = []
        for folder in (".mlflow-exec", ".skein"):
            place = f"{hdfs.home()}/{folder}"
            try:
                found += [f"{folder}/{item['pathSuffix']}" for item in hdfs.list(place)]
            except NotFoundError:
                continue
        return [path for path in found if not path.endswith("/environments")]

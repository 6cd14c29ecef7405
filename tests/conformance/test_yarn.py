"""The YARN scheduler keeps the contract of schedulers, against a real YARN and HDFS."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pytest

from mlflow_exec.clients.hadoop_config import read_config
from mlflow_exec.clients.hadoop_http import find_login
from mlflow_exec.clients.skein import SkeinDriver
from mlflow_exec.clients.webhdfs import WebHdfs
from mlflow_exec.jobs import JobHandle, JobState
from mlflow_exec.schedulers.yarn import YarnScheduler
from mlflow_exec.settings import YarnSettings
from mlflow_exec.testing.jobs import WAIT, JobMaker, Submitted
from mlflow_exec.testing.schedulers import SchedulerConformance
from tests.clusters.processes import appears
from tests.clusters.yarn import applications
from tests.clusters.yarn.cluster import YarnCluster
from tests.yarn_client import small, use


class TestYarnScheduler(SchedulerConformance):
    scheduler_class = YarnScheduler
    settings_class = YarnSettings
    # More than the queue may ever have; YARN takes it, and lets it wait.
    queued: ClassVar[Mapping[str, Any] | None] = {
        "queue": "small", "resources": {"memory": "3Gi"},
    }
    memory_limit: ClassVar[Mapping[str, Any] | None] = {"resources": {"memory": "512Mi"}}

    @pytest.fixture(autouse=True)
    def _client(self, yarn_cluster: YarnCluster, monkeypatch: pytest.MonkeyPatch) -> None:
        use(yarn_cluster, monkeypatch)

    @pytest.fixture
    def settings(self, yarn_cluster: YarnCluster) -> Mapping[str, Any]:
        return small(yarn_cluster)

    @pytest.fixture
    def other_settings(self, yarn_cluster: YarnCluster, tmp_path: Path) -> Mapping[str, Any]:
        # The same cluster by another name of its host.
        folder = tmp_path / "hadoop-conf"
        shutil.copytree(yarn_cluster.conf_dir, folder)
        for file in folder.glob("*-site.xml"):
            file.write_text(file.read_text().replace("127.0.0.1", "localhost"))
        return {**small(yarn_cluster), "hadoop_conf_dir": str(folder)}

    @pytest.fixture
    def occupy(self, yarn_cluster: YarnCluster) -> Callable[[str], None]:
        def submit(name: str) -> None:
            there = applications.tagged(yarn_cluster, name)
            assert not there, f"there is an application of that name: {there}"
            applications.submit(yarn_cluster, "sleep 600", tags=[name])

        return submit

    @pytest.fixture
    def still_running(self, yarn_cluster: YarnCluster) -> Callable[[JobHandle], list[str]]:
        def processes(handle: JobHandle) -> list[str]:
            application = handle.uid.removeprefix("application_")
            return [
                f"{container}: {numbers}"
                for container, numbers in yarn_cluster.containers().items()
                if application in container and numbers
            ]

        def left(handle: JobHandle) -> list[str]:
            # YARN knows a container's own processes; the guard of the others needs a moment more.
            appears(lambda: not processes(handle), timeout_s=60)
            return processes(handle)

        return left

    def test_two_that_submit_at_the_same_moment_leave_one_job(
        self, jobs: JobMaker, yarn_cluster: YarnCluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        together, submit = threading.Barrier(2), SkeinDriver.submit

        def after_both_have_looked(*arguments: Any, **options: Any) -> str:
            together.wait(60)
            return submit(*arguments, **options)

        monkeypatch.setattr(SkeinDriver, "submit", after_both_have_looked)
        scheduler, plan = jobs.plan(jobs.spec(WAIT))
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda _: scheduler.submit(plan), range(2)))
        assert found[0].uid == found[1].uid
        job = Submitted(scheduler, plan.spec, plan, found[0])
        job.reaches(JobState.RUNNING)
        user = yarn_cluster.superuser
        first, second = sorted(
            (applications.report(yarn_cluster, name, user=user)
             for name in applications.tagged(yarn_cluster, plan.spec.name, user=user)),
            key=lambda report: int(report["startedTime"]),
        )  # fmt: skip
        assert (first["id"], second["state"]) == (job.handle.uid, "KILLED")
        config = read_config(str(yarn_cluster.conf_dir))
        hdfs = WebHdfs(config, find_login(config))
        skeins = {folder["pathSuffix"] for folder in hdfs.list(f"{hdfs.home()}/.skein")}
        assert (first["id"] in skeins, second["id"] in skeins) == (True, False)
        scheduler.cancel(job.handle)

"""A job on a real YARN whose other ResourceManager takes over while it runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlflow_exec.errors import JobNotFoundError
from mlflow_exec.schedulers.yarn import YarnScheduler
from mlflow_exec.settings import YarnSettings, parse_settings
from mlflow_exec.testing.collecting import Collected, until
from mlflow_exec.testing.jobs import stranger_to
from tests.clusters.yarn.high_availability import HighlyAvailableYarnCluster
from tests.mlflow.conftest import yarn_submissions
from tests.mlflow.yarn_runs import YarnRuns
from tests.servers import MlflowServer

PROGRAM = """
import os, time
print("it waits", flush=True)
while not os.path.exists(os.environ["GO_ON"]):
    time.sleep(0.2)
print("it goes on")
"""


@pytest.fixture
def yarn(
    highly_available_yarn_cluster: HighlyAvailableYarnCluster,
    yarn_tracking: MlflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[YarnRuns]:
    """Submissions to a YARN with two ResourceManagers."""
    cluster = highly_available_yarn_cluster
    with yarn_submissions(cluster, yarn_tracking, tmp_path, monkeypatch) as runs:
        yield runs


def test_a_job_goes_on_under_the_other_resource_manager(
    yarn: YarnRuns, highly_available_yarn_cluster: HighlyAvailableYarnCluster
) -> None:
    go_on = yarn.folder / "go-on"
    # Shorter than the job runs: it has started once, whatever the new one says of it.
    submitted = yarn.run(yarn.project(PROGRAM), env={"GO_ON": str(go_on)}, start_timeout_s=20)
    followed = Collected(submitted.wait() for _ in range(1))
    yarn.says(submitted, "it waits")
    killed = highly_available_yarn_cluster.kill_active()
    until(lambda: submitted.status().state.value == "RUNNING", "it is known to run")
    # The daemon that is named first may be the standby one, and it says that it knows no job.
    scheduler = YarnScheduler(parse_settings(YarnSettings, yarn.config(), "test"))
    unknown = f"application_{yarn.manager().info()['startedOn']}_9999"
    with pytest.raises(JobNotFoundError):
        scheduler.status(replace(stranger_to(submitted.handle), uid=unknown))
    go_on.touch()
    assert followed.all(180) == [True]
    run = yarn.ends(submitted, "SUCCEEDED")
    assert "it goes on" in yarn.log(run.info.run_id)
    assert run.data.tags["mlflow_exec.log.complete"] == "true"
    assert len(yarn.applications(submitted.run_id)) == 1
    highly_available_yarn_cluster.start_daemon(killed)

"""Where an application runs on a real YARN, before whom, and who else may see and end it."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import ExecutionException

from tests.clusters.yarn import applications
from tests.clusters.yarn.cluster import YarnCluster
from tests.mlflow.conftest import yarn_submissions
from tests.mlflow.submitted_runs import WAIT
from tests.mlflow.yarn_runs import YarnRuns
from tests.servers import MlflowServer


@pytest.fixture
def yarn(
    rich_yarn_cluster: YarnCluster,
    yarn_tracking: MlflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[YarnRuns]:
    """Submissions to a YARN with labels, GPUs and priorities."""
    with yarn_submissions(rich_yarn_cluster, yarn_tracking, tmp_path, monkeypatch) as runs:
        yield runs
    applications.kill_all(rich_yarn_cluster)


def test_a_job_with_a_label_waits_for_a_node_of_it(yarn: YarnRuns) -> None:
    submitted = yarn.run(yarn.project("print('there')"), node_label="special")
    assert submitted.status().state.value == "QUEUED"
    yarn.cluster.start_node("n2")
    try:
        yarn.cluster.label_node("n2", "special")
        run = yarn.ends(submitted, "SUCCEEDED")
        assert "there" in yarn.log(run.info.run_id)
        (application,) = yarn.applications(submitted.run_id)
        assert application["amNodeLabelExpression"] == "special"
    finally:
        yarn.cluster.stop_node("n2")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"node_label": "nosuch"}, r"node_label: there is no label 'nosuch'\. Known: special"),
        ({"resources": {"gpu": 3, "memory": "512Mi"}}, r"resources\.gpu: 3 GPUs.*2 GPUs at most"),
    ],
)
def test_what_the_cluster_does_not_have_is_refused(
    yarn: YarnRuns, settings: dict[str, Any], message: str
) -> None:
    before = yarn.run_ids()
    with pytest.raises(ExecutionException, match=message):
        yarn.run(yarn.project(WAIT), **settings)
    assert yarn.run_ids() == before


def test_a_job_has_the_gpus_that_it_asks_for(yarn: YarnRuns) -> None:
    submitted = yarn.run(yarn.project(WAIT), resources={"gpu": 2, "memory": "512Mi"})
    yarn.says(submitted, "it waits")
    (application,) = yarn.applications(submitted.run_id)
    usage = yarn.manager().app(application["id"])["resourceInfo"]["resourceUsagesByPartition"]
    used = usage[0]["used"]["resourceInformations"]["resourceInformation"]
    assert [item["value"] for item in used if item["name"] == "yarn.io/gpu"] == [2]


def test_a_job_has_its_priority(yarn: YarnRuns) -> None:
    submitted = yarn.run(yarn.project(WAIT), priority=3)
    (application,) = yarn.applications(submitted.run_id)
    assert application["priority"] == 3


def test_who_is_named_may_end_the_job_and_nobody_else(yarn: YarnRuns) -> None:
    acls = {"view_users": ["eve", "mallory"], "modify_users": ["eve"]}
    submitted = yarn.run(yarn.project(WAIT), acls=acls)
    yarn.says(submitted, "it waits")
    (application,) = yarn.applications(submitted.run_id)
    with pytest.raises(urllib.error.HTTPError, match="403"):
        applications.kill(yarn.cluster, application["id"], user="mallory")
    applications.kill(yarn.cluster, application["id"], user="eve")
    yarn.ends(submitted, "CANCELLED")
    diagnosis = json.loads(yarn.artifact(submitted.run_id, "diagnosis.json"))
    assert "killed by eve" in diagnosis["message"]


def test_a_job_that_another_queue_needs_the_place_of(yarn: YarnRuns) -> None:
    first = yarn.run(yarn.project(WAIT), resources={"memory": "3Gi"}, infra_retries=0)
    second = yarn.run(yarn.project(WAIT), resources={"memory": "3Gi"}, infra_retries=0)
    for submitted in (first, second):
        yarn.says(submitted, "it waits")
    # The queue takes its share back, from the job that came last.
    needy = applications.submit(yarn.cluster, "sleep 1000", queue="ml", memory_mb=2304)
    run = yarn.ends(second, "FAILED", "preempted")
    assert "for another queue" in run.data.tags["mlflow_exec.failure.message"]
    applications.kill(yarn.cluster, needy)
    assert first.status().state.value == "RUNNING"

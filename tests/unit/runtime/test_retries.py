"""Retries: exactly one layer owns them, and only the last failure is the end."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mlflow_exec.clients.ports import free_port
from mlflow_exec.runtime.end import EXIT_DISRUPTED
from tests.unit.runtime.job_in_cluster import Cluster, archive

STATE = "mlflow_exec.state"
BY_KUBERNETES = {
    "owner": "kubernetes",
    "retries": 1,
    "infra_retries": 2,
    "failure_count_env": "FAILURES",
    "ignored_count_env": "IGNORED",
}
# Fails until it has been started often enough; leaves a file in its folder each time.
FLAKY = """
import os, sys
with open(os.environ["COUNTER"], "a") as file: file.write("x")
print("files", sorted(os.listdir(".")))
open("left-behind", "w").close()
sys.exit(0 if os.path.getsize(os.environ["COUNTER"]) >= int(os.environ["ENOUGH"]) else 7)
"""


def flaky_order(cluster: Cluster, enough: int, retry: dict[str, Any]) -> dict[str, Any]:
    env = {"COUNTER": str(cluster.folder / "counter"), "ENOUGH": str(enough)}
    source = archive(cluster.folder / "source.zip", {"main.py": FLAKY})
    return cluster.order(source=source, env=env, retry=retry)


def test_the_step_itself_starts_again_in_a_fresh_folder(cluster: Cluster) -> None:
    order = flaky_order(cluster, 3, {"owner": "entry", "retries": 2})
    finished = cluster.run(order)
    assert finished.code == 0
    assert finished.text.count("\nfiles ['main.py']\n") == 3
    assert finished.text.count("\nmlflow-exec-retry: ") == 2
    tags = cluster.server.tags(order["run_id"])
    assert (tags["mlflow_exec.attempt"], tags[STATE]) == ("3", "SUCCEEDED")
    assert cluster.server.status(order["run_id"]) == "FINISHED"
    assert cluster.log_artifact(order["run_id"]) == finished.output


def test_the_last_failure_is_the_end(cluster: Cluster) -> None:
    order = flaky_order(cluster, 9, {"owner": "entry", "retries": 1})
    finished = cluster.run(order)
    assert finished.code == 7
    assert (cluster.folder / "counter").read_text() == "xx"
    assert cluster.server.tags(order["run_id"])[STATE] == "FAILED"


def test_nobody_retries_unasked(cluster: Cluster) -> None:
    finished = cluster.run(flaky_order(cluster, 2, {"owner": "none", "retries": 3}))
    assert finished.code == 7
    assert (cluster.folder / "counter").read_text() == "x"


@pytest.mark.parametrize("failures", ["", "0"])
def test_a_failure_that_kubernetes_retries_is_no_end(cluster: Cluster, failures: str) -> None:
    order = flaky_order(cluster, 2, BY_KUBERNETES)
    first = cluster.run(order, env={"FAILURES": failures, "IGNORED": ""})
    assert first.code == 7
    prefix, _, end = first.last_line.partition(": ")
    assert prefix == "mlflow-exec-retry"
    assert json.loads(end)["exit_code"] == 7
    assert cluster.server.tags(order["run_id"])[STATE] == "RUNNING"

    second = cluster.run(order, env={"FAILURES": "1", "IGNORED": ""})
    assert second.end.state == "SUCCEEDED"
    tags = cluster.server.tags(order["run_id"])
    assert (tags["mlflow_exec.attempt"], tags[STATE]) == ("2", "SUCCEEDED")
    assert cluster.log_artifact(order["run_id"]) == first.output + second.output


@pytest.mark.large  # two minutes: it waits as long for the server as a job does
def test_a_retry_that_cannot_ask_for_the_run_leaves_the_earlier_log_alone(
    cluster: Cluster,
) -> None:
    order = flaky_order(cluster, 2, BY_KUBERNETES)
    first = cluster.run(order, env={"FAILURES": "0"})
    away = {**order, "tracking_uri": f"http://127.0.0.1:{free_port()}"}
    second = cluster.start(away, env={"FAILURES": "1"}).wait(300)
    assert second.end.state == "SUCCEEDED", "the job itself goes on"
    assert "this one is not uploaded" in second.text
    assert cluster.log_artifact(order["run_id"]) == first.output


def test_the_last_failure_under_kubernetes_is_the_end(cluster: Cluster) -> None:
    order = flaky_order(cluster, 9, BY_KUBERNETES)
    finished = cluster.run(order, env={"FAILURES": "1"})
    assert finished.code == 7
    assert finished.end.category == "user_error"
    assert cluster.server.tags(order["run_id"])[STATE] == "FAILED"


def test_too_many_disruptions_end_the_job_before_it_runs(cluster: Cluster) -> None:
    order = flaky_order(cluster, 1, BY_KUBERNETES)
    finished = cluster.run(order, env={"IGNORED": "3"})
    assert (finished.code, finished.end.category) == (EXIT_DISRUPTED, "infrastructure")
    assert not (cluster.folder / "counter").exists()
    allowed = flaky_order(cluster, 1, BY_KUBERNETES)
    assert cluster.run(allowed, env={"IGNORED": "2"}).code == 0


def test_what_another_try_cannot_mend_is_not_retried(cluster: Cluster) -> None:
    order = flaky_order(cluster, 1, {"owner": "entry", "retries": 3})
    order["source"]["sha256"] = "0" * 64
    finished = cluster.run(order)
    assert finished.code == 81
    assert "mlflow-exec-retry" not in finished.text

"""A job that was submitted again goes on from the earlier one, and only the last one writes."""

from __future__ import annotations

import signal

from mlflow_exec.testing.collecting import until
from tests.unit.runtime.job_in_cluster import Cluster

STATE = "mlflow_exec.state"
WAIT = "import time\nprint('it waits', flush=True)\nwhile True: time.sleep(0.1)"
AGAIN = {"MLFLOW_EXEC_INFRA_RETRIES": "1"}
OURS = {"owner": "entry", "retries": 1}


def goes_on_in_a_later_job(cluster: Cluster, run_id: str) -> None:
    """Do what whoever submits a job again does to its run."""
    tag = {"run_id": run_id, "key": "mlflow_exec.infra_retries", "value": "1"}
    cluster.server.api("POST", "runs/set-tag", tag)


def test_retries_and_log_go_on(cluster: Cluster) -> None:
    order = cluster.order("raise SystemExit(7)", retry=OURS)
    first = cluster.run(order)
    assert first.text.count("\nmlflow-exec-retry: ") == 1
    run_id = order["run_id"]
    cluster.server.api("POST", "runs/set-tag", {"run_id": run_id, "key": STATE, "value": "QUEUED"})
    second = cluster.run(order, env=AGAIN)
    assert second.code == 7
    assert "mlflow-exec-retry: " not in second.text, "the retry was used up by the first job"
    tags = cluster.server.tags(run_id)
    assert (tags["mlflow_exec.attempt"], tags["mlflow_exec.retries"]) == ("3", "1")
    assert cluster.log_artifact(run_id) == first.output + second.output


def test_the_deadline_counts_from_the_first_start(cluster: Cluster) -> None:
    order = cluster.order(WAIT, retry=OURS, deadline_s=3600)
    started = {"run_id": order["run_id"], "key": "mlflow_exec.first_start", "value": "1000"}
    cluster.server.api("POST", "runs/set-tag", started)
    finished = cluster.run(order, env=AGAIN)
    assert finished.end.category == "deadline"
    assert "it waits" not in finished.text


def test_a_job_that_was_given_up_does_not_begin(cluster: Cluster) -> None:
    order = cluster.order(WAIT, retry=OURS)
    goes_on_in_a_later_job(cluster, order["run_id"])
    finished = cluster.run(order)
    assert finished.code == 87
    assert "it waits" not in finished.text
    assert STATE not in cluster.server.tags(order["run_id"])


def test_a_job_that_lives_on_writes_neither_end_nor_log_beside_the_later_one(
    cluster: Cluster
) -> None:
    sign = cluster.folder / "sign"
    code = f"import os, time\nprint('here', flush=True)\nwhile not os.path.exists({str(sign)!r}):"
    order = cluster.order(code + "\n    time.sleep(0.05)", retry=OURS)
    run_id = order["run_id"]
    container = cluster.start(order)
    container.says("here")
    until(lambda: cluster.log_parts(run_id), "a part of its log is uploaded")
    goes_on_in_a_later_job(cluster, run_id)
    sign.touch()
    assert container.wait().code == 87
    assert cluster.server.tags(run_id)[STATE] == "RUNNING"
    assert "mlflow-exec/log.txt" not in cluster.server.artifacts(run_id, "mlflow-exec")


def test_one_that_is_stopped_meanwhile_leaves_the_log_alone(cluster: Cluster) -> None:
    order = cluster.order(WAIT, retry=OURS)
    container = cluster.start(order)
    container.says("it waits")
    goes_on_in_a_later_job(cluster, order["run_id"])
    container.signal(signal.SIGTERM)
    assert container.wait().code == 143
    assert "mlflow-exec/log.txt" not in cluster.server.artifacts(order["run_id"], "mlflow-exec")

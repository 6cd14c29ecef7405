"""What is left of jobs whose runs have ended: it is kept, and the cluster may forget the job."""

from __future__ import annotations

import json
from typing import Any

import pytest
from kubernetes import client
from mlflow.exceptions import MlflowException

from mlflow_exec.runs.reconcile import Outcome, Reconciler
from mlflow_exec.runs.store import MlflowRunStore
from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.runtime.end import End, write_end
from mlflow_exec.testing.collecting import until
from tests.mlflow.k8s_runs import WAIT, K8sRuns
from tests.mlflow.test_k8s_reconcile import delete_job, job_is_gone, reconciled

TTL_S = 3600


def kept(k8s: K8sRuns, submitted: ExecSubmittedRun) -> str:
    return str(k8s.mlflow.get_run(submitted.run_id).data.tags["mlflow_exec.kept"])


def ttl_s(k8s: K8sRuns, submitted: ExecSubmittedRun) -> int | None:
    namespace, name = submitted.handle.path[0], submitted.handle.name
    with k8s.cluster.api_client() as api:
        job = client.BatchV1Api(api).read_namespaced_job(name, namespace)
    found: int | None = job.spec.ttl_seconds_after_finished
    return found


def ends_unseen(k8s: K8sRuns, submitted: ExecSubmittedRun, state: str) -> None:
    """Wait until the job has written its own end, and is over; nobody follows it."""

    def is_over() -> bool:
        with k8s.cluster.api_client() as api:
            namespace, name = submitted.handle.path[0], submitted.handle.name
            job = client.BatchV1Api(api).read_namespaced_job(name, namespace)
        return any(c.type in ("Complete", "Failed") for c in job.status.conditions or [])

    until(is_over, "the job is over")
    tags = k8s.mlflow.get_run(submitted.run_id).data.tags
    assert (tags["mlflow_exec.state"], tags["mlflow_exec.state.by"]) == (state, "entry")
    with pytest.raises(MlflowException):
        k8s.artifact(submitted.run_id, "diagnosis.json")


def looked(k8s: K8sRuns, *, dry_run: bool = False) -> dict[str, Outcome]:
    """Return what one look at all runs did."""
    reconciler = Reconciler(k8s.mlflow, {"k8s": {}}, dry_run=dry_run, lost_grace_s=2)
    return {outcome.run_id: outcome for outcome in reconciler.once()}


def test_jobs_that_wrote_their_own_end_are_kept_once(k8s: K8sRuns) -> None:
    ended = k8s.run(k8s.project("raise SystemExit(7)"), ttl_s=TTL_S)
    deleted = k8s.run(k8s.project("print('done')"), ttl_s=TTL_S)
    left_over = k8s.run(k8s.project(WAIT), ttl_s=TTL_S)
    ends_unseen(k8s, ended, "FAILED")
    ends_unseen(k8s, deleted, "SUCCEEDED")
    delete_job(k8s, deleted)
    k8s.says(left_over, "it waits")
    lost = End("FAILED", "lost", "Somebody took it for lost.")
    write_end(MlflowRunStore(k8s.mlflow), left_over.run_id, lost, "client")

    jobs = {job.run_id for job in (ended, deleted, left_over)}
    tried = looked(k8s, dry_run=True)
    assert {tried[run_id].action for run_id in jobs} == {"kept"}
    assert all(tried[run_id].detail.startswith("not written: ") for run_id in jobs)
    assert {kept(k8s, ended), kept(k8s, deleted), kept(k8s, left_over)} == {"false"}
    assert (ttl_s(k8s, ended), job_is_gone(k8s, left_over)) == (None, False)

    said = looked(k8s)
    assert {said[run_id].action for run_id in jobs} == {"kept"}, said
    assert said[deleted.run_id].detail == "its job is gone"
    assert ttl_s(k8s, ended) == TTL_S
    assert job_is_gone(k8s, left_over)
    diagnosis = json.loads(k8s.artifact(ended.run_id, "diagnosis.json"))
    assert (diagnosis["state"], diagnosis["exit_code"]) == ("FAILED", 7)
    ends = {ended: ("FAILED", "user_error"), deleted: ("SUCCEEDED", None),
            left_over: ("FAILED", "lost")}  # fmt: skip
    for job, end in ends.items():
        tags = k8s.mlflow.get_run(job.run_id).data.tags
        found = (tags["mlflow_exec.state"], tags.get("mlflow_exec.failure.category"))
        assert (found, kept(k8s, job)) == (end, "true")
    assert "it waits" in k8s.log(left_over.run_id)
    assert not jobs & looked(k8s).keys(), "nobody looks at them again"


def test_a_job_that_has_written_its_end_itself_is_left_to_end(k8s: K8sRuns) -> None:
    submitted = k8s.run(k8s.project(WAIT), ttl_s=TTL_S)
    k8s.says(submitted, "it waits")
    write_end(MlflowRunStore(k8s.mlflow), submitted.run_id, End("SUCCEEDED"), "entry")
    assert looked(k8s)[submitted.run_id].action == "unkept"
    assert (kept(k8s, submitted), job_is_gone(k8s, submitted)) == ("false", False)


def test_a_run_that_somebody_waited_for_is_not_looked_at_again(k8s: K8sRuns) -> None:
    submitted = k8s.run(k8s.project(""), ttl_s=TTL_S)
    k8s.ends(submitted, "SUCCEEDED")
    assert (kept(k8s, submitted), ttl_s(k8s, submitted)) == ("true", TTL_S)


def test_what_cannot_be_reached_after_its_end_is_no_error(k8s: K8sRuns) -> None:
    run_id = k8s.mlflow.create_run(k8s.experiment_id).info.run_id
    tags: dict[str, Any] = {
        "backend": "k8s", "handle": f"k8s://another/{k8s.namespace}/mlflow-{run_id}-1",
        "handle.uid": "u", "kept": "false", "state": "SUCCEEDED",
    }  # fmt: skip
    for key, value in tags.items():
        k8s.mlflow.set_tag(run_id, f"mlflow_exec.{key}", value)
    k8s.mlflow.set_terminated(run_id)
    assert reconciled(k8s)[run_id]["action"] == "unkept", "and the command exits with 0"
    year_ago_ms = k8s.mlflow.get_run(run_id).info.end_time - 365 * 86400 * 1000
    k8s.mlflow.set_terminated(run_id, end_time=year_ago_ms)
    assert run_id not in looked(k8s), "not for ever"


def test_a_submission_that_failed_after_all_leaves_nothing_to_look_at(k8s: K8sRuns) -> None:
    run_id = k8s.mlflow.create_run(k8s.experiment_id).info.run_id
    tags = {"backend": "k8s", "kept": "false", "state": "FAILED"}
    for key, value in tags.items():
        k8s.mlflow.set_tag(run_id, f"mlflow_exec.{key}", value)
    k8s.mlflow.set_terminated(run_id, "FAILED")
    assert looked(k8s)[run_id].action == "kept"
    assert run_id not in looked(k8s)

"""Runs whose jobs ended while nobody looked get their end from any machine."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from typing import Any

import pytest
from kubernetes import client

from mlflow_exec.jobs import job_name
from mlflow_exec.runs.attach import attach
from mlflow_exec.runs.reconcile import Outcome, Reconciler
from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.schedulers.kubernetes import KubernetesScheduler
from mlflow_exec.schedulers.kubernetes.plan import SUBMITTING
from mlflow_exec.testing.collecting import Collected, until, within
from tests.mlflow.k8s_runs import WAIT, K8sRuns


def job_is_gone(k8s: K8sRuns, submitted: ExecSubmittedRun) -> bool:
    with k8s.cluster.api_client() as api:
        jobs = client.BatchV1Api(api).list_namespaced_job(k8s.namespace).items
    return submitted.handle.name not in [job.metadata.name for job in jobs]


def delete_job(k8s: K8sRuns, submitted: ExecSubmittedRun) -> None:
    """Delete a job as an operator does."""
    with k8s.cluster.api_client() as api:
        client.BatchV1Api(api).delete_namespaced_job(
            submitted.handle.name, k8s.namespace, propagation_policy="Foreground"
        )
    until(lambda: job_is_gone(k8s, submitted), "the job is gone")


def reconciled(k8s: K8sRuns, *options: str) -> dict[str, dict[str, str]]:
    """Run the command and return what it says of each run."""
    command = k8s.command_line(
        "mlflow-exec", "reconcile", "--backend", "k8s", "--output", "json", *options
    )
    out, err = command.communicate(timeout=180)
    assert command.returncode == 0, err + out
    rows = [json.loads(line) for line in out.splitlines()]
    return {row["run_id"]: row for row in rows}


def test_the_runs_of_jobs_that_ended_unseen_are_ended(k8s: K8sRuns) -> None:
    late = k8s.run(k8s.project(WAIT), deadline_s=20)
    deleted, waiting = k8s.run(k8s.project(WAIT)), k8s.run(k8s.project(WAIT))
    finished = k8s.run(k8s.project("print('done')"))
    k8s.says(deleted, "it waits")
    k8s.says(waiting, "it waits")
    k8s.says(finished, "done")
    k8s.says(late, "it waits")
    delete_job(k8s, deleted)
    k8s.state_becomes(late, "FAILED")
    assert k8s.mlflow.get_run(late.run_id).data.tags["mlflow_exec.state"] == "RUNNING"

    tried = reconciled(k8s, "--dry-run")
    assert tried[late.run_id]["action"] == "ended"
    assert k8s.mlflow.get_run(late.run_id).info.status == "RUNNING", "nothing is written"

    said = reconciled(k8s)
    assert said[late.run_id]["action"] == said[deleted.run_id]["action"] == "ended"
    assert (said[waiting.run_id]["action"], said[waiting.run_id]["state"]) == ("open", "RUNNING")
    assert said[finished.run_id]["action"] == "kept", "it wrote its own end"
    assert "it waits" in k8s.log(late.run_id)
    k8s.ends(late, "FAILED", "deadline")
    k8s.ends(deleted, "FAILED", "lost")
    ours = {job.run_id for job in (late, deleted, waiting, finished)}
    assert ours & reconciled(k8s).keys() == {waiting.run_id}
    waiting.cancel()
    assert not ours & reconciled(k8s).keys()


def test_a_job_is_not_lost_before_the_stated_grace_is_over(k8s: K8sRuns) -> None:
    deleted = k8s.run(k8s.project(WAIT))
    k8s.says(deleted, "it waits")
    delete_job(k8s, deleted)
    stop = threading.Event()
    seen = Collected(Reconciler(k8s.mlflow, {"k8s": {}}, lost_grace_s=3600).forever(0.5, stop))
    ours = seen.until(lambda said: any(o.run_id == deleted.run_id for o in said), "it is looked at")
    stop.set()
    assert [o.action for o in ours if o.run_id == deleted.run_id] == ["missing"]
    assert k8s.mlflow.get_run(deleted.run_id).info.status == "RUNNING"


def test_an_earlier_cancellation_says_nothing_of_a_later_job(k8s: K8sRuns) -> None:
    first = k8s.run(k8s.project(WAIT))
    k8s.says(first, "it waits")
    first.cancel()
    command = k8s.mlflow_run(k8s.project(WAIT), "--run-id", first.run_id, wait=False)
    assert command.wait(120) == 0
    again = attach(first.run_id)
    k8s.submitted.append(again)
    k8s.says(again, "it waits")
    delete_job(k8s, again)
    list(Reconciler(k8s.mlflow, {"k8s": {}}, lost_grace_s=1).once())
    k8s.ends(again, "FAILED", "lost")


def test_a_namesake_that_came_later_is_not_taken_for_the_job(k8s: K8sRuns) -> None:
    submitted = k8s.run(k8s.project(WAIT))
    k8s.says(submitted, "it waits")
    k8s.mlflow.set_tag(submitted.run_id, "mlflow_exec.handle.uid", "of an earlier one")
    outcomes = Reconciler(k8s.mlflow, {"k8s": {}}, lost_grace_s=1).once()
    assert {o.run_id: o.action for o in outcomes}[submitted.run_id] == "ended"
    tags = k8s.mlflow.get_run(submitted.run_id).data.tags
    assert tags["mlflow_exec.failure.category"] == "lost"
    assert not job_is_gone(k8s, submitted)


def test_a_clock_ends_a_job_that_nobody_else_watches(k8s: K8sRuns) -> None:
    submitted = k8s.run(k8s.project(""), image="no-such-registry.test/x:1", image_pull_grace_s=3)
    stop = threading.Event()
    seen = Collected(Reconciler(k8s.mlflow, {"k8s": {}}).forever(1, stop))
    seen.until(
        lambda said: any(o.run_id == submitted.run_id and o.action == "ended" for o in said),
        "the reconciler gives it up",
    )
    stop.set()
    k8s.ends(submitted, "FAILED", "image_pull")
    until(lambda: job_is_gone(k8s, submitted), "the job is gone")


def waits_for(submitted: ExecSubmittedRun, seconds: float, *, pull: bool = False) -> None:
    """Wait until the cluster itself says that a job has waited, or its pull failed, so long."""
    scheduler = KubernetesScheduler(submitted.settings)

    def waited_s() -> float:
        status = scheduler.status(submitted.handle)
        return (status.fails_s if pull else status.waits_s) or 0

    until(lambda: waited_s() >= seconds, f"it has waited for {seconds:g} s")


def test_one_look_ends_the_jobs_whose_clocks_ran_out(k8s: K8sRuns) -> None:
    nowhere: dict[str, Any] = {"image": "no-such-registry.test/x:1"}
    unplaced: dict[str, Any] = {"node_selector": {"none": "such"}}
    project, s = k8s.project("print('done')"), 5
    unpulled = k8s.run(project, **nowhere, image_pull_grace_s=s)
    unstarted = k8s.run(project, **nowhere, start_timeout_s=s, image_pull_grace_s=3600)
    unqueued = k8s.run(project, **unplaced, queue_timeout_s=s)
    patient = k8s.run(project, **unplaced, queue_timeout_s=3600)
    suspended = k8s.run(project, **unplaced, queue_timeout_s=s)
    with k8s.cluster.api_client() as api:
        client.BatchV1Api(api).patch_namespaced_job(
            suspended.handle.name, k8s.namespace, {"spec": {"suspend": True}}
        )
    waits_for(unpulled, s, pull=True)
    waits_for(unstarted, s)
    for job in (unqueued, patient):
        waits_for(job, s)

    late = {unpulled, unstarted, unqueued}
    tries = Reconciler(k8s.mlflow, {"k8s": {}}, dry_run=True, lost_grace_s=1).once()
    tried = {outcome.run_id: outcome.action for outcome in tries}
    assert {tried[job.run_id] for job in late} == {"ended"}
    assert {job.status().state.value for job in late} == {"QUEUED", "STARTING"}, "all are there"

    said = reconciled(k8s)
    assert {said[job.run_id]["action"] for job in late} == {"ended"}
    assert {said[job.run_id]["action"] for job in (patient, suspended)} == {"open"}
    k8s.ends(unpulled, "FAILED", "image_pull")
    run = k8s.ends(unstarted, "FAILED", "image_pull")
    assert "start_timeout_s" in run.data.tags["mlflow_exec.failure.message"]
    run = k8s.ends(unqueued, "FAILED", "unschedulable")
    assert "queue_timeout_s" in run.data.tags["mlflow_exec.failure.message"]
    assert all(job_is_gone(k8s, job) for job in late)
    assert {patient.status().state.value, suspended.status().state.value} == {"QUEUED"}


def test_a_client_that_comes_late_does_not_start_the_clock_anew(k8s: K8sRuns) -> None:
    timeout_s = 30
    unplaced = {"none": "such"}
    submitted = k8s.run(k8s.project(""), node_selector=unplaced, queue_timeout_s=timeout_s)
    waits_for(submitted, timeout_s)
    assert within(timeout_s / 2, attach(submitted.run_id).wait) is False
    k8s.ends(submitted, "FAILED", "unschedulable")


def test_a_submission_that_may_still_be_going_on_is_left_alone(k8s: K8sRuns) -> None:
    marks = {"backend": "k8s", "kept": "false", "state": "QUEUED"}
    tags = {f"mlflow_exec.{key}": value for key, value in marks.items()}
    unnamed, named = (
        k8s.mlflow.create_run(k8s.experiment_id, tags=tags).info.run_id for _ in range(2)
    )
    handle = k8s.run(k8s.project("")).handle
    own = replace(handle, path=(handle.path[0], job_name(named, 1)))
    k8s.mlflow.set_tag(named, "mlflow_exec.handle", str(own))

    def actions(unconfirmed_s: float) -> list[str]:
        looks = Reconciler(k8s.mlflow, {"k8s": {}}, lost_grace_s=1, unconfirmed_s=unconfirmed_s)
        said = {outcome.run_id: outcome.action for outcome in looks.once()}
        return [said[unnamed], said[named]]

    assert actions(3600) == ["open", "open"]
    assert actions(0) == ["ended", "ended"]
    for run_id in (unnamed, named):
        assert k8s.mlflow.get_run(run_id).info.status == "FAILED"


def test_a_submission_that_is_complete_is_not_taken_for_an_interrupted_one(k8s: K8sRuns) -> None:
    submitted = k8s.run(k8s.project(WAIT))
    with k8s.cluster.api_client() as api:
        name = submitted.handle.name
        job = client.BatchV1Api(api).read_namespaced_job(name, k8s.namespace)
    assert (job.spec.suspend, SUBMITTING in (job.metadata.annotations or {})) == (False, False)


@pytest.fixture
def interrupted(k8s: K8sRuns, monkeypatch: pytest.MonkeyPatch) -> ExecSubmittedRun:
    """A submission whose client died after it had created the Job, and before all the rest."""
    def dies(*_: object) -> None:
        raise SystemExit

    before = k8s.run_ids()
    with monkeypatch.context() as patch:
        patch.setattr(KubernetesScheduler, "_start", dies)
        patch.setattr("mlflow_exec.schedulers.kubernetes.delete_job", lambda *_: None)
        patch.setattr("mlflow_exec.runs.submit._end_failed", lambda *_: None)
        with pytest.raises(SystemExit):
            k8s.run(k8s.project(""))
    (run_id,) = k8s.run_ids() - before
    submitted = attach(run_id)
    k8s.submitted.append(submitted)
    return submitted


def test_a_submission_that_was_interrupted_is_cleared_away(
    k8s: K8sRuns, interrupted: ExecSubmittedRun
) -> None:
    assert reconciled(k8s)[interrupted.run_id]["action"] == "open", "its client may still live"
    assert not job_is_gone(k8s, interrupted)
    stop = threading.Event()
    seen = Collected(Reconciler(k8s.mlflow, {"k8s": {}}).forever(2, stop))

    def ended(said: list[Outcome]) -> bool:
        return any(o.run_id == interrupted.run_id and o.action == "ended" for o in said)

    seen.until(ended, "the job that never starts is given up")
    stop.set()
    run = k8s.ends(interrupted, "FAILED", "infrastructure")
    assert "submission was interrupted" in run.data.tags["mlflow_exec.failure.message"]
    assert job_is_gone(k8s, interrupted)
    assert not [name for name in k8s.objects() if interrupted.run_id in name]

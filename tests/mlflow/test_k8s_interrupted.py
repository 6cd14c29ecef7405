"""What stands in the way of a submission or of an end, and what is left of it."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator

import pytest
from kubernetes import client
from mlflow.exceptions import ExecutionException
from rich.console import Console

from mlflow_exec.jobs import JobState, JobStatus
from mlflow_exec.runs.progress import Progress
from mlflow_exec.runs.store import MlflowRunStore
from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.runtime.end import End, write_end
from mlflow_exec.testing.collecting import Collected, until
from tests.mlflow.artifact_servers import S3Server, s3_server
from tests.mlflow.interventions import start_deleting
from tests.mlflow.k8s_runs import WAIT, K8sRuns


@pytest.fixture
def store(k8s: K8sRuns) -> Iterator[S3Server]:
    """The artifacts of this test's experiment."""
    with s3_server(str(k8s.cluster.node_ip)) as server:
        k8s.experiment_id = k8s.mlflow.create_experiment(
            f"in S3 {server.process.pid}", artifact_location=server.bucket
        )
        yield server


def test_ctrl_c_while_the_job_is_submitted_leaves_nothing(k8s: K8sRuns, store: S3Server) -> None:
    before = k8s.objects()
    store.process.send_signal(signal.SIGSTOP)  # the upload of the project hangs
    project = k8s.project("")
    (project / "large.bin").write_bytes(os.urandom(1_500_000))
    process = k8s.mlflow_run(project, "--experiment-id", k8s.experiment_id)
    until(k8s.run_ids, "the run is there, and the upload comes next")
    process.send_signal(signal.SIGINT)
    assert process.wait(240) != 0  # an upload that has begun ends with botocore's wait of a minute
    (run_id,) = k8s.run_ids()
    run = k8s.mlflow.get_run(run_id)
    assert run.info.status == "KILLED", process.communicate()[1]
    assert run.data.tags["mlflow_exec.state"] == "CANCELLED"
    assert k8s.objects() == before


def test_a_submission_that_fails_ends_the_run_with_its_reason(
    k8s: K8sRuns, store: S3Server
) -> None:
    store.process.kill()
    store.process.wait()
    before = k8s.objects()
    with pytest.raises(ExecutionException, match="Could not connect"):
        k8s.run(k8s.project(""))
    (run_id,) = k8s.run_ids()
    run = k8s.mlflow.get_run(run_id)
    assert run.info.status == "FAILED"
    assert "Could not connect" in run.data.tags["mlflow_exec.failure.message"]
    assert k8s.objects() == before


@pytest.fixture
def nothing_starts(k8s: K8sRuns) -> Iterator[None]:
    """A cluster that lets Jobs be made, and lets none of them start."""
    name = f"nothing-starts-{k8s.namespace}"
    jobs = {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["UPDATE"],
            "resources": ["jobs"]}  # fmt: skip
    here = {"matchLabels": {"kubernetes.io/metadata.name": k8s.namespace}}
    policy = {
        "metadata": {"name": name},
        "spec": {"matchConstraints": {"resourceRules": [jobs], "namespaceSelector": here},
                 "validations": [{"expression": "object.spec.suspend == true",
                                  "message": "nothing starts today"}]},
    }  # fmt: skip
    binding = {"metadata": {"name": name},
               "spec": {"policyName": name, "validationActions": ["Deny"]}}  # fmt: skip
    with k8s.cluster.api_client() as api:
        admission, batch = client.AdmissionregistrationV1Api(api), client.BatchV1Api(api)
        admission.create_validating_admission_policy(policy)
        admission.create_validating_admission_policy_binding(binding)
        pod = {"restartPolicy": "Never", "containers": [{"name": "c", "image": "none"}]}
        body = {"metadata": {"name": name}, "spec": {"suspend": True, "template": {"spec": pod}}}
        batch.create_namespaced_job(k8s.namespace, body)

        def counts() -> bool:
            try:
                start = {"spec": {"suspend": False}}
                batch.patch_namespaced_job(name, k8s.namespace, start, dry_run="All")
            except client.ApiException:
                return True
            return False

        until(counts, "the policy counts")
        yield
        admission.delete_validating_admission_policy_binding(name)
        admission.delete_validating_admission_policy(name)
        until(lambda: not counts(), "the policy counts no more")  # for the tests after this one
        batch.delete_namespaced_job(name, k8s.namespace)


def test_a_job_that_the_cluster_does_not_let_start_is_removed(
    k8s: K8sRuns, nothing_starts: None
) -> None:
    before = k8s.objects(), k8s.run_ids()
    with pytest.raises(ExecutionException, match="nothing starts today"):
        k8s.run(k8s.project(""))
    (run_id,) = k8s.run_ids() - before[1]
    assert "nothing starts today" in k8s.server.tags(run_id)["mlflow_exec.failure.message"]
    until(lambda: k8s.objects() == before[0], "nothing is left")


def test_a_run_with_a_living_job_takes_no_second_one(k8s: K8sRuns) -> None:
    submitted = k8s.run(k8s.project(WAIT))
    submitted_again = k8s.mlflow_run(k8s.project(""), "--run-id", submitted.run_id)
    _, err = submitted_again.communicate(timeout=120)
    assert submitted_again.returncode == 1
    assert f"mlflow-exec cancel {submitted.run_id}" in err
    jobs = [name for name in k8s.objects() if submitted.run_id in name and "Job" in name]
    assert len(jobs) == 1


def followed(
    submitted: ExecSubmittedRun, state: str
) -> tuple[Collected[JobStatus], io.StringIO]:
    """Follow a job; returns when it was seen in this state, with what is said of it."""
    said = io.StringIO()
    progress = Progress(Console(file=said))
    follower = Collected(submitted.follow(progress=progress) for _ in range(1))
    until(lambda: state in said.getvalue(), "the job is watched")
    return follower, said


def test_the_end_that_stands_on_the_run_is_the_one_that_is_told(k8s: K8sRuns) -> None:
    submitted = k8s.run(k8s.project(WAIT))
    k8s.says(submitted, "it waits")
    earlier = End("FAILED", "lost", "Another machine had given it up.")
    write_end(MlflowRunStore(k8s.mlflow), submitted.run_id, earlier, by="client")
    follower, _ = followed(submitted, "RUNNING")
    start_deleting(k8s, submitted)
    (told,) = follower.all()
    assert (told.state, told.failure) == (JobState.FAILED, submitted.failure)
    assert k8s.mlflow.get_run(submitted.run_id).info.status == "FAILED"


def test_an_end_stands_though_the_job_still_waits(k8s: K8sRuns) -> None:
    submitted = k8s.run(k8s.project(WAIT), node_selector={"none": "such"})
    earlier = End("FAILED", "lost", "Another machine had given it up.")
    write_end(MlflowRunStore(k8s.mlflow), submitted.run_id, earlier, by="client")
    follower, said = followed(submitted, "QUEUED")
    with k8s.cluster.api_client() as api:
        namespace, name = submitted.handle.path
        client.BatchV1Api(api).patch_namespaced_job(name, namespace, {"spec": {"suspend": True}})
    until(lambda: "is suspended" in said.getvalue(), "what was said before is over")
    submitted.cancel()
    (told,) = follower.all()
    assert (told.state, told.failure) == (JobState.FAILED, submitted.failure)
    assert k8s.server.tags(submitted.run_id)["mlflow_exec.state"] == "FAILED"


def test_a_job_whose_log_could_not_be_kept_stays_in_the_cluster(
    k8s: K8sRuns, store: S3Server
) -> None:
    program = "import sys; print('its only copy'); sys.stdin.read(); raise SystemExit(7)"
    submitted = k8s.run(k8s.project(program), ttl_s=60)
    store.process.kill()
    store.process.wait()
    assert submitted.wait() is False
    run = k8s.mlflow.get_run(submitted.run_id)
    assert run.info.status == "FAILED", "the end does not depend on the log"
    namespace, name = submitted.handle.path
    with k8s.cluster.api_client() as api:
        job = client.BatchV1Api(api).read_namespaced_job(name, namespace)
    assert job.spec.ttl_seconds_after_finished is None
    assert "its only copy" in "".join(submitted.logs())

"""The tracking server, or what it keeps artifacts in, is away while a job runs and when it ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mlflow
import pytest
from mlflow.exceptions import MlflowException

from mlflow_exec.jobs import JobHandle
from mlflow_exec.runs.reconcile import Reconciler
from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.schedulers.base import Plan
from mlflow_exec.schedulers.kubernetes import KubernetesScheduler
from mlflow_exec.testing.collecting import Collected, until
from tests.mlflow.interventions import SAYS_ITS_START, ended_in_cluster, left_behind
from tests.mlflow.k8s_runs import ENDS, K8sRuns
from tests.servers import Relay, relay_to

# It ends when the server is away, so that nothing of its end can be written from inside.
UNTIL_THE_SERVER_IS_AWAY = """
import os, sys, time, urllib.request
print("it waits", flush=True)
while True:
    try:
        urllib.request.urlopen(os.environ["MLFLOW_TRACKING_URI"] + "/health", timeout=5).close()
    except OSError:
        break
    time.sleep(0.2)
print("last words", flush=True)
sys.exit(CODE)
"""
UNTIL_IT_IS_TOLD = SAYS_ITS_START + """
import time
while tag("told") is None:
    time.sleep(0.2)
print("last words", flush=True)
"""


@pytest.fixture
def relay(k8s: K8sRuns) -> Iterator[Relay]:
    """Stands between the tracking server and everybody: clients of this process and jobs."""
    with relay_to(k8s.server.url, str(k8s.cluster.node_ip)) as between:
        yield between
        between.away = False


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let MLflow's own client give up soon, so that it is ours that waits."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def is_open(k8s: K8sRuns, job: ExecSubmittedRun) -> bool:
    return k8s.server.tags(job.run_id)["mlflow_exec.state"] not in ENDS


def test_the_end_is_written_when_the_tracking_server_is_back(
    k8s: K8sRuns, relay: Relay, impatient: None
) -> None:
    mlflow.set_tracking_uri(f"http://{k8s.cluster.node_ip}:{relay.port}")
    bad, good = (UNTIL_THE_SERVER_IS_AWAY.replace("CODE", code) for code in ("7", "0"))
    followed, alone = k8s.run(k8s.project(bad), ttl_s=0), k8s.run(k8s.project(good), ttl_s=0)
    follower = Collected(followed.wait() for _ in range(1))
    for job in (followed, alone):
        k8s.says(job, "it waits")
    relay.away = True
    for job in (followed, alone):
        until(lambda job=job: ended_in_cluster(k8s, job), "the job is over", 240)  # type: ignore[misc]
        assert is_open(k8s, job)
    relay.away = False

    assert follower.all() == [False]
    run = k8s.ends(followed, "FAILED", "user_error")
    assert "code 7" in run.data.tags["mlflow_exec.failure.message"]
    assert is_open(k8s, alone), "nobody has looked"
    outcomes = {o.run_id: o for o in Reconciler(k8s.mlflow, {"k8s": {}}).once()}
    assert outcomes[alone.run_id].action == "ended"
    k8s.ends(alone, "SUCCEEDED")
    for job in (followed, alone):
        assert "last words" in k8s.log(job.run_id)
        until(lambda job=job: not left_behind(k8s, job), "nothing is left in the cluster")  # type: ignore[misc]
    k8s.submitted.clear()  # their own way to the tracking server goes now


def test_a_job_whose_run_cannot_be_written_to_any_more_is_removed(
    k8s: K8sRuns, relay: Relay, impatient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.set_tracking_uri(f"http://{k8s.cluster.node_ip}:{relay.port}")
    submit, before = KubernetesScheduler.submit, k8s.objects()

    def last_thing_that_works(scheduler: KubernetesScheduler, plan: Plan) -> JobHandle:
        handle = submit(scheduler, plan)
        relay.away = True
        return handle

    monkeypatch.setattr(KubernetesScheduler, "submit", last_thing_that_works)
    with pytest.raises(MlflowException):
        k8s.run(k8s.project(UNTIL_IT_IS_TOLD))
    assert relay.away
    until(lambda: k8s.objects() == before, "nothing is left in the cluster")


@contextmanager
def broken_store(k8s: K8sRuns, job: ExecSubmittedRun) -> Iterator[None]:
    """Make the disk of a run's artifacts one that the tracking server cannot use."""
    run = k8s.mlflow.get_run(job.run_id)
    folder = k8s.server.dir / "artifacts" / run.info.experiment_id / job.run_id / "artifacts"
    aside = folder.with_name("aside")
    folder.rename(aside)
    folder.touch()
    try:
        yield
    finally:
        folder.unlink()
        aside.rename(folder)


def test_the_end_does_not_need_the_artifact_store(
    k8s: K8sRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long a client waits for a store that fails is MLflow's own setting: minutes by default.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    job = k8s.run(k8s.project(UNTIL_IT_IS_TOLD), ttl_s=0)
    k8s.says(job, "start 1")
    with broken_store(k8s, job):
        k8s.mlflow.set_tag(job.run_id, "told", "yes")
        assert job.wait() is True
        tags = k8s.mlflow.get_run(job.run_id).data.tags
        assert (tags["mlflow_exec.state"], job.get_status()) == ("SUCCEEDED", "FINISHED")
        assert tags.get("mlflow_exec.log.complete") != "true"
        assert "last words" in "".join(job.logs()), "the cluster still has it"
        assert left_behind(k8s, job), "what is kept nowhere else is not removed"
    k8s.ends(job, "SUCCEEDED")
    assert "last words" in k8s.log(job.run_id)
    assert k8s.mlflow.get_run(job.run_id).data.tags["mlflow_exec.log.complete"] == "true"
    until(lambda: not left_behind(k8s, job), "nothing is left in the cluster")

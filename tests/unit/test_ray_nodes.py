"""Jobs on a real Ray of two nodes: resources that only one of them has, and its loss."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_exec.clients import ray_embedded
from mlflow_exec.errors import NotFoundError
from mlflow_exec.jobs import FailureCategory, JobState
from mlflow_exec.testing.jobs import WAIT, JobMaker, Submitted
from tests.clusters.processes import appears
from tests.clusters.pytest_kubernetes import unavailable
from tests.clusters.pytest_ray import RayCluster
from tests.clusters.ray_node import RayNode, joined
from tests.unit.ray_jobs import driver_processes, is_in, ray_jobs

ACCELERATED = {"gpu": 1, "custom": {"tpu": 1}}
"""What the second node alone has, once."""


@pytest.fixture
def node(ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayNode]:
    """A second node of the Ray, with a GPU by name and a resource of the user's own."""
    if ray_cluster.home is None:
        unavailable("this Ray was not started by the tests, so none of its nodes may be killed")
    monkeypatch.setenv("MLFLOW_EXEC_HOME", str(ray_cluster.home))
    ray = ray_embedded.status()
    assert ray is not None
    environment = ray_embedded.environment_of(ray)
    assert environment is not None
    folder, client = Path(ray.folder), ray.client()
    with joined(folder, client, environment, cpus=1, gpus=1, custom={"tpu": 1}) as made:
        yield made


@pytest.fixture
def jobs(ray_cluster: RayCluster, node: RayNode, tmp_path: Path) -> Iterator[JobMaker]:
    """Makes jobs that only the second node can hold."""
    with ray_jobs(ray_cluster, tmp_path, resources=ACCELERATED) as maker:
        yield maker


def ran_on(node: RayNode, job: Submitted) -> bool:
    return (node.logs() / f"job-driver-{job.handle.name}.log").exists()


def test_a_job_runs_where_its_resources_are_and_its_log_and_end_come_from_there(
    jobs: JobMaker, node: RayNode, tmp_path: Path
) -> None:
    program = """
import os, sys, time
print("GPU", os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.1)
print("it goes on")
sys.exit(7)
"""
    job = jobs.submit(
        program, command="python3 main.py {sign}", parameters={"sign": str(tmp_path / "sign")}
    )
    followed = job.follow()
    followed.until(lambda pieces: "GPU 0\n" in "".join(pieces), "its log while it runs")
    assert job.scheduler.status(job.handle).state is JobState.RUNNING
    assert ran_on(node, job)
    (tmp_path / "sign").touch()
    text = "".join(followed.all())
    assert "it goes on" in text
    assert text == job.log()
    last = job.ends()
    assert last.failure is not None
    assert (last.failure.category, last.exit_code) == (FailureCategory.USER_ERROR, 7)


def test_a_second_job_waits_for_the_resources_of_the_first(jobs: JobMaker, node: RayNode) -> None:
    first = jobs.submit(WAIT)
    first.says("it waits")
    second = jobs.submit(WAIT)
    seen = second.statuses()
    seen.until(is_in(JobState.QUEUED), "queued")
    elsewhere = jobs.submit("", resources={"cpu": 0.25})
    assert elsewhere.ends().state is JobState.SUCCEEDED, "what asks for less passes it"
    waiting = second.scheduler.status(second.handle)
    assert waiting.state is JobState.QUEUED
    assert "waiting for resources" in waiting.message

    first.scheduler.cancel(first.handle)
    assert first.ends().state is JobState.CANCELLED
    assert driver_processes(first.handle, "main.py") == []
    seen.until(is_in(JobState.RUNNING), "the second runs")
    second.says("it waits")
    assert ran_on(node, second)
    second.scheduler.cancel(second.handle)
    assert is_in(JobState.CANCELLED)(seen.all())


def test_a_job_whose_node_is_lost(jobs: JobMaker, node: RayNode) -> None:
    ended = jobs.submit("print('the end was seen')")
    assert ended.ends().state is JobState.SUCCEEDED
    job = jobs.submit(WAIT)
    followed, seen = job.follow(), job.statuses()
    followed.until(lambda pieces: "it waits" in "".join(pieces), "its log")
    node.kill()

    last = seen.all()[-1]
    assert last is not None
    assert last.state is JobState.FAILED
    assert last.failure is not None
    assert last.failure.category is FailureCategory.NODE_LOST
    assert "its node has died" in last.message
    assert "missing too many heartbeats" in last.message
    assert "\n" not in last.message
    assert "Submit it again" in last.failure.hint
    assert appears(lambda: not driver_processes(job.handle, "main.py"), timeout_s=60)

    assert "it waits" in "".join(followed.all()), "what was seen of the log is kept"
    for lost in (job, ended):
        with pytest.raises(NotFoundError, match="the node that the job ran on is gone"):
            lost.log()
    assert ended.scheduler.status(ended.handle).state is JobState.SUCCEEDED

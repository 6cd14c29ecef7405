"""Containers that start before the job's and run on beside it, and others that the user adds."""

from __future__ import annotations

import pytest

from mlflow_exec.jobs import JobState, JobStatus
from mlflow_exec.schedulers.kubernetes.logs import has_log
from mlflow_exec.schedulers.kubernetes.objects import essential, preparing
from mlflow_exec.schedulers.kubernetes.status import job_status
from tests.unit.test_kubernetes_status import FAILED, RUNNING, Json, job, pod, terminated, waiting

MESH = {"name": "mesh", "restartPolicy": "Always", "image": "a-mesh"}
CREATING = ("job", waiting("PodInitializing"))


def beside(mesh: Json, *containers: tuple[str, Json]) -> Json:
    """Return a pod with a sidecar in this state, as Kubernetes 1.29 and later have them."""
    item = pod(*containers, init=("mesh", mesh))
    item["spec"]["initContainers"] = [MESH]
    return item


def told(status: JobStatus) -> tuple[str, str | None, str]:
    category = status.failure.category.value if status.failure else None
    return status.state.value, category, status.message


@pytest.mark.parametrize("seen", [dict, essential])
def test_a_sidecar_that_runs_on_is_not_waited_for(seen: type[Json]) -> None:
    item = seen(beside(RUNNING, ("job", waiting("ContainerCreating"))))
    assert told(job_status(job(), [item])) == ("STARTING", None, "is being started")
    item = seen(beside(RUNNING, ("job", waiting("ErrImagePull", "not found"))))
    assert told(job_status(job(), [item]))[:2] == ("STARTING", "image_pull")
    assert job_status(job(), [seen(beside(RUNNING, ("job", RUNNING)))]).state is JobState.RUNNING


def test_a_sidecar_that_cannot_start_is_told() -> None:
    item = beside(waiting("ErrImagePull", "no such mesh"), CREATING)
    state, category, message = told(job_status(job(), [item]))
    assert (state, category, "no such mesh" in message) == ("STARTING", "image_pull", True)


def test_a_job_failed_by_its_own_container_and_not_by_a_sidecar_that_was_stopped() -> None:
    item = beside(terminated(143), ("job", terminated(7)))
    status = job_status(FAILED, [item])
    assert (told(status)[:2], status.exit_code) == (("FAILED", "user_error"), 7)


def test_only_containers_that_prepare_are_read_before_the_jobs() -> None:
    item = beside(RUNNING, CREATING)
    assert not has_log(item), "that of a sidecar is not the job's"
    kept = job_status(job(), [item]).native["pods"][0]
    for seen in (item, essential(item), kept):
        assert preparing(seen) == []
    item["spec"]["initContainers"] = [{"name": "mesh"}]
    assert [container["name"] for container in preparing(item)] == ["mesh"]


def test_a_container_of_the_users_that_prepares_is_named() -> None:
    item = pod(CREATING, init=("data", RUNNING))
    assert told(job_status(job(), [item])) == ("STARTING", None, "waits for its container 'data'")

"""A handle of a loopback address is not taken for another machine's Ray, or another cluster's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import pytest

from mlflow_exec.clients.ray import RayClient, find_token
from mlflow_exec.errors import HandleError
from mlflow_exec.jobs import JobHandle, JobState
from mlflow_exec.runs.attach import attach
from mlflow_exec.runs.reconcile import Outcome, Reconciler
from mlflow_exec.schedulers.ray import RayScheduler
from mlflow_exec.schedulers.ray.place import address_of, handle_of, machine
from mlflow_exec.testing.collecting import until
from mlflow_exec.testing.jobs import WAIT, JobMaker, Submitted
from tests.clusters.pytest_kubernetes import unavailable
from tests.clusters.pytest_ray import RayCluster
from tests.servers import mlflow_server
from tests.unit.ray_jobs import ray_jobs

OTHER_MACHINE = "0123456789abcdef"


@pytest.fixture
def jobs(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[JobMaker]:
    if ray_cluster.home is None:
        unavailable("this Ray may run on another machine")
    client = RayClient(ray_cluster.address, token=find_token(ray_cluster.token_file))
    until(client.head_ip, "Ray tells where its head runs")
    with ray_jobs(ray_cluster, tmp_path) as maker:
        yield maker


@pytest.fixture
def waiting(jobs: JobMaker) -> Submitted:
    job = jobs.submit(WAIT)
    job.says("it waits")
    return job


def marked(job: Submitted, mark: str, session: str = "") -> JobHandle:
    """Return the job's handle as if it had been made elsewhere, or for another start of Ray."""
    cluster = job.handle.cluster.replace(machine(), mark)
    assert cluster != job.handle.cluster or mark == machine()
    return replace(job.handle, cluster=cluster, uid=session or job.handle.uid)


@pytest.mark.parametrize(
    ("address", "cluster"),
    [
        ("http://127.0.0.1:8265", f"127.0.0.1.{OTHER_MACHINE}.localhost:8265"),
        ("https://localhost", f"localhost.{OTHER_MACHINE}.localhost"),
        ("http://127.0.0.1:1/a/ray", f"127.0.0.1.{OTHER_MACHINE}.localhost:1"),
    ],
)
@pytest.mark.parametrize("suffix", ["", "-forwarded"])
def test_a_loopback_handle_names_its_machine_and_leads_to_the_address(
    address: str, cluster: str, suffix: str
) -> None:
    mark = OTHER_MACHINE + suffix
    made = handle_of(address, "mlflow-1", "a session", mark)
    assert made.cluster == cluster.replace(OTHER_MACHINE, mark)
    assert address_of(JobHandle.parse(str(made))) == address


def test_the_handle_of_a_ray_on_this_machine_names_it(waiting: Submitted) -> None:
    assert f".{machine()}.localhost:" in waiting.handle.cluster
    assert "forwarded" not in waiting.handle.cluster
    gone = replace(waiting.handle, uid="session_of_yesterday")
    assert waiting.scheduler.was_restarted(gone), "this Ray is the one of then, started anew"
    assert not waiting.scheduler.was_restarted(waiting.handle)


@pytest.mark.parametrize("session", ["", "session_of_another_ray"])
def test_a_job_of_another_machines_loopback_is_not_looked_for_here(
    jobs: JobMaker, waiting: Submitted, session: str
) -> None:
    handle = marked(waiting, OTHER_MACHINE, session)
    settings = waiting.spec.settings.model_copy(update={"address": None})
    for act in (
        lambda s: s.status(handle), lambda s: list(s.logs(handle)), lambda s: s.cancel(handle),
        lambda s: s.was_restarted(handle), lambda s: list(s.snapshot(near=[handle])),
    ):  # fmt: skip
        with pytest.raises(HandleError, match="leads to another Ray"):
            act(RayScheduler(settings))
    assert waiting.scheduler.status(waiting.handle).state is JobState.RUNNING


def test_it_is_found_where_its_own_ray_is_reached(waiting: Submitted) -> None:
    handle = marked(waiting, OTHER_MACHINE)  # the settings name an address of this very session
    assert RayScheduler(waiting.spec.settings).status(handle).state is JobState.RUNNING


@pytest.mark.parametrize("mark", ["forwarded", "none"])
def test_what_answers_at_the_end_of_a_tunnel_may_be_another_ray(
    waiting: Submitted, mark: str
) -> None:
    cluster = waiting.handle.cluster.replace(machine(), f"{machine()}-forwarded")
    if mark == "none":
        cluster = waiting.handle.cluster.replace(f".{machine()}.localhost", "")
    through = replace(waiting.handle, cluster=cluster)
    scheduler = RayScheduler(waiting.spec.settings)
    assert scheduler.status(through).state is JobState.RUNNING, "the same session: it is the one"
    later = replace(through, uid="session_of_then")

    def submit_again(handle: JobHandle) -> JobHandle:
        return scheduler.submit_again(handle, waiting.plan.objects, waiting.plan.data, 1)

    for act in (scheduler.status, scheduler.cancel, scheduler.was_restarted, submit_again):
        with pytest.raises(HandleError, match="cannot be told from it"):
            act(later)


@pytest.fixture
def client(tmp_path: Path) -> Iterator[mlflow.MlflowClient]:
    folder = tmp_path / "tracking"
    folder.mkdir()
    with mlflow_server(folder) as server:
        yield mlflow.MlflowClient(server.url)


def test_a_run_of_another_machines_ray_stays_as_it_is(
    waiting: Submitted,
    ray_cluster: RayCluster,
    client: mlflow.MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(ray_cluster.token_file))
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    made = {
        name: client.create_run("0", tags={
            "mlflow_exec.backend": "ray", "mlflow_exec.state": "RUNNING",
            "mlflow_exec.kept": "false",
            "mlflow_exec.handle": str(handle), "mlflow_exec.handle.uid": handle.uid,
        }).info.run_id
        for name, handle in {
            "of another machine": marked(waiting, OTHER_MACHINE, "session_there"),
            "not confirmed there": replace(marked(waiting, OTHER_MACHINE), uid=""),
            "through a tunnel": marked(waiting, f"{machine()}-forwarded", "session_then"),
        }.items()
    }  # fmt: skip
    reconciler = Reconciler(client, {"ray": {}}, lost_grace_s=0, unconfirmed_s=0)
    said: dict[str, Outcome] = {outcome.run_id: outcome for outcome in reconciler.once()}
    for name, run_id in made.items():
        assert said[run_id].action == "elsewhere", (name, said[run_id])
        tags = client.get_run(run_id).data.tags
        assert tags["mlflow_exec.state"] == "RUNNING", name
        submitted = attach(run_id, tracking_uri=client.tracking_uri)
        assert submitted.status().state is JobState.UNKNOWN
        with pytest.raises(HandleError):
            submitted.cancel()
    record = RayClient(ray_cluster.address, token=find_token(ray_cluster.token_file)).job(
        waiting.handle.name
    )
    assert (record or {})["status"] == "RUNNING"

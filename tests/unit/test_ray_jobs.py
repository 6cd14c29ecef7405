"""Jobs on a real Ray: what the schedulers' conformance suite does not ask."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from mlflow_exec.clients.ray import RayClient, find_token
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import (
    AccessDeniedError,
    CancelError,
    ConfigError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.jobs import FailureCategory, JobHandle, JobState, JobStatus
from mlflow_exec.schedulers.ray import RayScheduler
from mlflow_exec.testing.collecting import Collected
from mlflow_exec.testing.jobs import WAIT, JobMaker, stranger_to
from tests.clusters.processes import appears
from tests.clusters.pytest_kubernetes import unavailable
from tests.clusters.pytest_ray import RayCluster
from tests.unit.ray_jobs import driver_processes, is_in, parent_of, ray_jobs
from tests.unit.tcp_link import TcpLink


@pytest.fixture
def jobs(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[JobMaker]:
    with ray_jobs(ray_cluster, tmp_path) as maker:
        yield maker


@pytest.fixture
def client(ray_cluster: RayCluster) -> RayClient:
    return RayClient(ray_cluster.address, token=find_token(ray_cluster.token_file))


@pytest.fixture
def link(ray_cluster: RayCluster) -> Iterator[TcpLink]:
    """A connection to the dashboard that can be cut."""
    parts = urlsplit(ray_cluster.address)
    if parts.scheme != "http":
        unavailable("the connection to this Ray is encrypted, so a test cannot stand in between")
    made = TcpLink(parts.hostname or "", parts.port or 80)
    yield made
    made.close()


def by_link(jobs: JobMaker, link: TcpLink, handle: JobHandle) -> tuple[RayScheduler, JobHandle]:
    """Return a scheduler that reaches the job by the link alone, and the handle that it gives."""
    settings = jobs.settings({"address": f"http://127.0.0.1:{link.port}"})
    return RayScheduler(settings), replace(handle, cluster=f"127.0.0.1:{link.port}")


# -- the connection -------------------------------------------------------------------------


def test_a_watch_goes_on_after_the_dashboard_was_away(jobs: JobMaker, link: TcpLink) -> None:
    job = jobs.submit("import time\nprint('here', flush=True)\ntime.sleep(8)")
    scheduler, handle = by_link(jobs, link, job.handle)
    seen = Collected(status for _, status in scheduler.watch([handle]))
    seen.until(is_in(JobState.RUNNING), "running")
    link.cut()
    seen.until(is_in(JobState.UNKNOWN), "unknown while it is away")
    link.mend()
    seen.all()
    states = [status.state for status in seen.items if status is not None]
    assert states[-3:] == [JobState.UNKNOWN, JobState.RUNNING, JobState.SUCCEEDED]
    assert states.count(JobState.UNKNOWN) == 1, "said once, not at every try"
    assert any("cannot be asked" in status.message for status in seen.items if status)


def test_a_followed_log_goes_on_where_the_connection_broke(jobs: JobMaker, link: TcpLink) -> None:
    program = """
import sys, time
for number in range(200):
    print(f"line {number:03d} ä🦊", "x" * 2000, flush=True)
    time.sleep(0.05)
"""
    job = jobs.submit(program)
    scheduler, handle = by_link(jobs, link, job.handle)
    followed = Collected(scheduler.logs(handle, follow=True))
    for line in ("line 020", "line 060", "line 120"):
        followed.until(partial(_has, line), line)
        link.cut()
        link.mend()
    text = "".join(followed.all())
    assert link.connections > 4, "the log did not come by the link"
    numbers = [line[5:8] for line in text.splitlines() if line.startswith("line ")]
    assert numbers == [f"{number:03d}" for number in range(200)]
    assert text == job.log()


def _has(line: str, pieces: list[str]) -> bool:
    return line in "".join(pieces)


def test_a_cluster_that_is_away_is_said_to_be(jobs: JobMaker, link: TcpLink) -> None:
    job = jobs.submit("")
    scheduler, handle = by_link(jobs, link, job.handle)
    link.cut()
    with pytest.raises(UnreachableError, match=f"127.0.0.1:{link.port}"):
        list(scheduler.logs(handle))
    assert scheduler.status(handle).state is JobState.UNKNOWN
    with pytest.raises(CancelError, match="no answer"):
        scheduler.cancel(handle, timeout_s=1)


def test_a_handle_leads_to_the_job_by_the_address_of_the_settings(
    jobs: JobMaker, link: TcpLink
) -> None:
    # As from another machine, where the cluster is reached by a forwarded port.
    job = jobs.submit("print('found')")
    job.ends()
    elsewhere = replace(job.handle, cluster="192.0.2.1:8265")
    forwarded, _ = by_link(jobs, link, job.handle)
    assert forwarded.status(elsewhere).state is JobState.SUCCEEDED
    assert "found" in "".join(forwarded.logs(elsewhere))


def test_a_wrong_token_is_refused_with_the_way_on(ray_cluster: RayCluster) -> None:
    if ray_cluster.token_file is None:
        unavailable("this Ray asks for no token")
    with pytest.raises(AccessDeniedError, match="token_file"):
        RayClient(ray_cluster.address, token="wrong").version()


def test_a_token_is_not_replaced_by_a_netrc(
    ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    host = "127.0.0.2"  # not the loopback address, which is never looked up in a .netrc
    (tmp_path / "netrc").write_text(f"machine {host} login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    parts = urlsplit(ray_cluster.address)
    link = TcpLink(parts.hostname or "", parts.port or 80, at=host)
    token = find_token(ray_cluster.token_file)
    assert RayClient(f"http://{host}:{link.port}", token=token).version()["session_name"]
    link.close()


def test_errors_are_told_by_what_the_caller_can_do(client: RayClient) -> None:
    with pytest.raises(NotFoundError):
        client.stop("never-submitted")
    with pytest.raises(RejectedError, match="no_such_key"):
        client.submit({"entrypoint": "true", "no_such_key": 1})
    assert client.job("never-submitted") is None
    assert not client.has_package("_ray_pkg_never_stored.zip")


# -- what is sent ---------------------------------------------------------------------------


def test_a_package_is_sent_once(
    jobs: JobMaker, client: RayClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = jobs.spec("print('same')")
    scheduler, plan = jobs.plan(spec)
    (package,) = plan.data
    assert not client.has_package(package)
    scheduler.submit(plan)
    assert client.has_package(package)

    def refuse(*_: object) -> None:
        raise AssertionError("the package was sent again")

    monkeypatch.setattr(RayClient, "put_package", refuse)
    RayScheduler(spec.settings).submit(plan)


def test_the_preflight_names_the_secrets_that_are_not_sent(jobs: JobMaker) -> None:
    secrets = {"MLFLOW_TRACKING_PASSWORD": Secret.of("hidden", "a test")}
    scheduler, plan = jobs.plan(jobs.spec("", secrets=secrets))
    (warning,) = scheduler.check(plan).warnings
    assert "MLFLOW_TRACKING_PASSWORD" in warning
    assert "hidden" not in warning


def test_the_preflight_warns_of_what_no_node_can_hold(jobs: JobMaker) -> None:
    scheduler, plan = jobs.plan(jobs.spec("", resources={"cpu": 100_000}))
    (warning,) = scheduler.check(plan).warnings
    assert "no node can hold a job of 100000 CPU" in warning


def test_the_ray_of_this_machine_never_grows(
    jobs: JobMaker, ray_cluster: RayCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ray_cluster.home is None:
        unavailable("this Ray was not started by the tests")
    monkeypatch.setenv("MLFLOW_EXEC_HOME", str(ray_cluster.home))
    for name in ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    spec = jobs.spec("", resources={"custom": {"tpu": 1}})
    scheduler = RayScheduler(spec.settings.model_copy(update={"address": None, "token_file": None}))
    with pytest.raises(ConfigError, match="no node can hold a job of 1 tpu"):
        scheduler.check(scheduler.plan(spec))


def test_tasks_of_the_job_have_the_projects_code(jobs: JobMaker) -> None:
    program = """
import ray
ray.init(logging_level="error")

@ray.remote(num_cpus=0.25)
def task():
    import mine, os
    return mine.NAME + os.environ["FOR_TASKS"]

print("answer:", ray.get(task.remote()))
"""
    files = {"mine.py": "NAME = 'of the project'"}
    job = jobs.submit(program, files=files, env={"FOR_TASKS": " and env"}, command="python main.py")
    assert job.ends().state is JobState.SUCCEEDED, job.log()
    assert "answer: of the project and env" in job.log()


def test_a_large_order_arrives(jobs: JobMaker) -> None:
    long = "x" * 130_800  # with the rest of the order more than a variable can hold
    program = "import sys; print('got', len(sys.argv[1]))"
    job = jobs.submit(program, command="python3 main.py {long}", parameters={"long": long})
    job.ends()
    assert "got 130800" in job.log()


# -- how it ends ----------------------------------------------------------------------------


def test_a_runtime_environment_that_cannot_be_made(jobs: JobMaker) -> None:
    job = jobs.submit("", runtime_env={"conda": "no-such-environment-of-a-test"})
    last = job.ends()
    assert last.failure is not None
    assert last.failure.category is FailureCategory.ENVIRONMENT_SETUP
    assert "runtime_env setup failed" in last.failure.message
    assert "runtime_env setup failed" in job.log(), "what Ray has to say is the job's whole log"


def test_a_job_that_eats_all_memory(jobs: JobMaker, ray_cluster: RayCluster) -> None:
    if ray_cluster.memory_limit_bytes is None:
        unavailable("this Ray has no limit on memory that a test may run into")
    program = "print('last words', flush=True)\nkept = []\nwhile True: kept.append(b'x' * 2**26)"
    job = jobs.submit(program)
    last = job.ends()
    assert last.failure is not None
    assert last.failure.category is FailureCategory.OUT_OF_MEMORY, job.log()
    assert "last words" in job.log()
    assert jobs.submit("print('and Ray goes on')").ends().state is JobState.SUCCEEDED


def test_a_first_step_that_is_killed(jobs: JobMaker, ray_cluster: RayCluster) -> None:
    if ray_cluster.home is None:
        unavailable("this Ray may run on another machine")
    job = jobs.submit(WAIT)
    job.says("it waits")
    (pid,) = driver_processes(job.handle, "entry.py")
    os.kill(pid, signal.SIGKILL)
    last = job.ends()
    assert last.failure is not None
    assert last.failure.category is FailureCategory.INFRASTRUCTURE
    assert "signal 9" in last.message
    assert appears(lambda: not driver_processes(job.handle, "main.py"), timeout_s=60)


def test_a_supervisor_that_is_killed(jobs: JobMaker, ray_cluster: RayCluster) -> None:
    if ray_cluster.home is None:
        unavailable("this Ray may run on another machine")
    job = jobs.submit(WAIT)
    job.says("it waits")
    (entry,) = driver_processes(job.handle, "entry.py")
    supervisor = parent_of(entry)
    os.kill(supervisor, signal.SIGKILL)
    last = job.ends()
    assert last.state is JobState.FAILED
    assert last.failure is not None
    assert last.failure.category is FailureCategory.INFRASTRUCTURE
    assert appears(lambda: not driver_processes(job.handle, "main.py"), timeout_s=60)


def test_a_stop_by_rays_own_tools_is_a_cancellation(jobs: JobMaker, client: RayClient) -> None:
    job = jobs.submit(WAIT)
    job.says("it waits")
    client.stop(job.handle.name)
    assert job.ends().state is JobState.CANCELLED


def test_taking_a_job_out_of_the_queue_leaves_nothing_behind(
    jobs: JobMaker, client: RayClient
) -> None:
    job = jobs.submit(WAIT, resources={"cpu": 100_000})
    job.scheduler.cancel(job.handle)
    assert job.scheduler.status(job.handle).state is JobState.CANCELLED
    assert [r for r in client.jobs() if r["submission_id"].startswith(job.handle.name + "-")] == []


# -- many -----------------------------------------------------------------------------------


def test_many_jobs_are_watched_by_one_list(
    jobs: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    single = RayClient.job

    def counted(self: RayClient, submission_id: str) -> dict[str, Any] | None:
        asked.append(submission_id)
        return single(self, submission_id)

    made = [jobs.submit("", resources={"cpu": 0.1}) for _ in range(4)]
    strangers = [stranger_to(made[0].handle) for _ in range(6)]
    monkeypatch.setattr(RayClient, "job", counted)
    watched = made[0].scheduler.watch([*(job.handle for job in made), *strangers])
    last: dict[str, JobStatus | None] = {}
    for handle, status in watched:
        last[handle.name] = status
    for job in made:
        status = last[job.handle.name]
        assert status is not None
        assert status.state is JobState.SUCCEEDED
    assert all(last[handle.name] is None for handle in strangers)
    assert not set(asked) & {handle.name for handle in strangers}

"""A long log is whole and in order: followed, read afterwards, and after its follower was killed.

The experiment's artifacts are in a folder that the jobs do not write to: what stands on a run is
what was read from YARN.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_exec.jobs import JobHandle
from mlflow_exec.runs.attach import attach
from mlflow_exec.runs.reconcile import Reconciler
from mlflow_exec.schedulers.yarn import YarnScheduler
from mlflow_exec.settings import YarnSettings, parse_settings
from mlflow_exec.testing.collecting import Collected, until
from tests.clusters.yarn.cluster import YarnCluster
from tests.mlflow.conftest import yarn_submissions
from tests.mlflow.killed_clients import YarnClients
from tests.mlflow.yarn_runs import YarnRuns
from tests.servers import MlflowServer

# Lines of a hundred bytes; it stops in the middle until it is told to go on.
WRITES = """
import os, sys, time
count = int(sys.argv[1])
for number in range(count):
    if number == count // 2:
        sys.stdout.flush()
        while not os.path.exists(sys.argv[2]):
            time.sleep(0.1)
    sys.stdout.write(f"{number:09} ü {'x' * 86}\\n")
"""
MLPROJECT = """
name: writes
entry_points:
  main:
    parameters: {count: int, go_on: string}
    command: python3 main.py {count} {go_on}
"""
LINE_BYTES = 100
MB = 1_000_000
INDEXED = {
    "yarn.log-aggregation.file-formats": "IFile",
    "yarn.log-aggregation.file-controller.IFile.class": (
        "org.apache.hadoop.yarn.logaggregation.filecontroller.ifile."
        "LogAggregationIndexedFileController"
    ),
}


@pytest.fixture(scope="module")
def indexed_cluster() -> Iterator[YarnCluster]:
    """A YARN that gathers logs in files with an index."""
    cluster = YarnCluster(properties={"yarn-site": INDEXED}).start()
    yield cluster
    cluster.stop()


@pytest.fixture(params=["TFile", "IFile"])
def log_format(request: pytest.FixtureRequest) -> str:
    """What Hadoop calls the form in which it gathers logs."""
    return str(request.param)


@pytest.fixture
def logs(
    log_format: str,
    request: pytest.FixtureRequest,
    yarn_cluster: YarnCluster,
    yarn_tracking: MlflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[YarnRuns]:
    """Submissions whose logs nobody but a client keeps."""
    yarn_cluster.require_processes()
    cluster = yarn_cluster
    if log_format == "IFile":
        cluster = request.getfixturevalue("indexed_cluster")
    (tmp_path / "runs").mkdir()
    with yarn_submissions(cluster, yarn_tracking, tmp_path / "runs", monkeypatch) as runs:
        store = f"file://{tmp_path}/artifacts"
        runs.experiment_id = runs.mlflow.create_experiment(str(tmp_path), artifact_location=store)
        yield runs


@pytest.fixture
def clients(logs: YarnRuns) -> Iterator[YarnClients]:
    """Followers that can be killed."""
    clients = YarnClients(logs)
    yield clients
    clients.close()


def lines(text: str) -> list[str]:
    """Return the lines that the program has written; the first step has some of its own."""
    return [line for line in text.splitlines() if not line.startswith("mlflow-exec")]


def is_whole(text: str, count: int) -> bool:
    """Whether a log is what the program wrote, no more and no less; says where it is not."""
    found = lines(text)
    for number, line in enumerate(found):
        assert line == f"{number:09} ü {'x' * 86}", f"line {number} of {len(found)}: {line!r}"
    assert len(found) == count
    return True


def writes_on(runs: YarnRuns, clients: YarnClients, size_bytes: int) -> None:
    """Follow a log, have another's follower killed, and read both again from YARN."""
    count = size_bytes // LINE_BYTES
    project, go_on = runs.project(WRITES, MLPROJECT), runs.folder / "go-on"
    parameters = {"count": count, "go_on": str(go_on)}
    followed = runs.run(project, parameters)
    heard: list[str] = []
    following = Collected(followed.follow(on_log=heard.append) for _ in range(1))
    left = runs.run(project, parameters)
    follower = clients.attach(left.run_id)
    until(lambda: f"{count // 4:09}" in "".join(heard), "half of it is followed")
    until(lambda: f"{count // 4:09}" in follower.said_so_far(), "half of it is followed")
    clients.close()
    go_on.touch()
    following.all(300)
    assert is_whole("".join(heard), count)
    assert is_whole(runs.log(followed.run_id), count)
    kept_by_a_reconciler(runs, left.run_id)
    assert is_whole(runs.log(left.run_id), count)
    for run_id in (followed.run_id, left.run_id):
        run = runs.ends(attach(run_id), "SUCCEEDED")
        assert run.data.tags["mlflow_exec.log.complete"] == "true"
        assert is_whole(read_afterwards(runs, run_id), count)


def kept_by_a_reconciler(runs: YarnRuns, run_id: str) -> None:
    stop = threading.Event()
    passes = Collected(Reconciler(runs.mlflow, {"yarn": {}}).forever(1, stop))

    def is_kept() -> bool:
        return bool(runs.mlflow.get_run(run_id).data.tags["mlflow_exec.kept"] == "true")

    until(is_kept, "a reconciler has kept it", 300)
    stop.set()
    passes.all()


def read_afterwards(runs: YarnRuns, run_id: str) -> str:
    """Return a job's log as YARN has gathered it."""
    scheduler = YarnScheduler(parse_settings(YarnSettings, runs.config(), "of the test"))
    handle = attach(run_id).handle

    def record() -> dict[str, object]:
        return runs.manager().app(handle.uid)

    until(lambda: record()["logAggregationStatus"] == "SUCCEEDED", json.dumps(record()))
    return "".join(scheduler.logs(handle))


def is_gathered_as(logs: YarnRuns, log_format: str) -> bool:
    folder = f"/tmp/logs/{logs.cluster.superuser}/bucket-logs-{log_format.lower()}"
    return bool(logs.hdfs().list(folder))


def test_a_log_of_5_mb_is_whole(logs: YarnRuns, clients: YarnClients, log_format: str) -> None:
    writes_on(logs, clients, 5 * MB)
    assert is_gathered_as(logs, log_format)


@pytest.mark.large
def test_a_log_of_50_mb_is_whole(logs: YarnRuns, clients: YarnClients, log_format: str) -> None:
    writes_on(logs, clients, 50 * MB)
    assert is_gathered_as(logs, log_format)


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A follower that gets the beginning of each log, and nobody waits for the rest."""
    comes, logs = threading.Event(), YarnScheduler.logs

    def begins(self: YarnScheduler, handle: JobHandle, *, follow: bool = False) -> Iterator[str]:
        pieces = logs(self, handle, follow=follow)
        if follow:
            yield next(pieces)
            comes.wait()
        yield from pieces

    monkeypatch.setattr(YarnScheduler, "logs", begins)
    monkeypatch.setattr("mlflow_exec.runs.following._SOON_S", 0)
    monkeypatch.setattr("mlflow_exec.runs.following._FLUSH_S", 0)
    yield
    comes.set()


@pytest.mark.usefixtures("late")
def test_a_follower_sees_the_end_that_comes_late(logs: YarnRuns) -> None:
    go_on = logs.folder / "go-on"
    submitted = logs.run(logs.project(WRITES, MLPROJECT), {"count": 100, "go_on": str(go_on)})
    heard: list[str] = []
    following = Collected(submitted.follow(on_log=heard.append) for _ in range(1))
    until(lambda: heard, "its beginning is followed")
    go_on.touch()
    following.all(300)
    assert is_whole("".join(heard), 100)
    assert is_whole(logs.log(submitted.run_id), 100)

"""How many requests things cost on YARN, counted where this process sends them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from benchmarks.reconcile import Size
from benchmarks.sent import sent
from benchmarks.yarn_reconcile import LIST, World, excess, measure, measure_watch
from mlflow_exec.jobs import JobState
from mlflow_exec.schedulers.yarn import YarnScheduler
from mlflow_exec.settings import YarnSettings, parse_settings
from mlflow_exec.testing.collecting import Collected, until
from tests.clusters.yarn import applications
from tests.mlflow.yarn_runs import YarnRuns


@pytest.fixture
def world(yarn: YarnRuns) -> Iterator[World]:
    """Runs and applications of a test, which end with it."""
    experiment = yarn.mlflow.create_experiment(f"requests {yarn.folder.name}")
    world = World(yarn.cluster, yarn.server, experiment)
    yield world
    for handle in world.handles:
        applications.kill(yarn.cluster, handle.uid, user=yarn.cluster.superuser)


def test_many_jobs_cost_one_list_and_only_those_that_have_ended_cost_more(world: World) -> None:
    asked: list[Counter[str]] = []
    for size in (Size(10, 4), Size(30, 4)):
        _, noted = measure(world, size)
        assert excess(noted, size) == []
        asked.append(noted.kinds(to_mlflow=False) + noted.kinds(to_mlflow=True))
    few, many = asked
    # One of all, and one of its own tag for each of the four that have ended.
    assert few[LIST] == many[LIST] == 1 + 4
    assert all(many[kind] <= few[kind] for kind in many), "those that go on cost nothing"
    _, noted = measure_watch(world)
    assert noted.kinds(to_mlflow=False) == {LIST: 1}, "one list tells of all that are watched"


def test_many_that_each_watch_one_job_ask_together(world: World) -> None:
    world.fill(Size(8, 0))
    stop = threading.Event()
    with sent() as noted:
        watches = [
            Collected(
                YarnScheduler(parse_settings(YarnSettings, world.config, "of the test")).watch(
                    [handle], stop
                )
            )
            for handle in world.handles
        ]
        for watch in watches:
            watch.until(lambda items: len(items) > 0, "a first status of each")
        before = noted.kinds(to_mlflow=False)
        until(lambda: noted.kinds(to_mlflow=False)[LIST] >= before[LIST] + 4, "four more lists")
        after = noted.kinds(to_mlflow=False)
        applications.kill(world.cluster, world.handles[0].uid, user=world.cluster.superuser)
        seen = watches[0].all(60)
        stop.set()
    one = "GET /ws/v1/cluster/apps/*"
    # A watch that had not heard of the others yet may have asked for its own once more.
    assert after[one] <= before[one] + len(watches)
    assert after[LIST] + after[one] <= before[LIST] + before[one] + len(watches) + 6
    assert seen[-1][1] is not None
    assert seen[-1][1].state is JobState.CANCELLED

"""Environments that jobs on a node of a real Ray share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_exec.jobs import JobState
from mlflow_exec.testing.jobs import JobMaker, Submitted
from tests.clusters.pytest_kubernetes import unavailable
from tests.clusters.pytest_ray import RayCluster
from tests.unit.ray_jobs import ray_jobs

PROGRAM = "import six, sys; print('six', six.__version__, 'in', sys.prefix)"
TAKEN = "environment: taken from the cache (key "


@pytest.fixture
def jobs(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[JobMaker]:
    if ray_cluster.home is None:
        unavailable("a test looks at the node's disk, and the Ray is not known to be here")
    with ray_jobs(ray_cluster, tmp_path / "projects") as maker:
        yield maker


def ended(jobs: JobMaker, **settings: Any) -> Submitted:
    job = jobs.submit(PROGRAM, requirements=("six==1.16.0",), **settings)
    assert job.ends().state is JobState.SUCCEEDED, job.log()
    return job


def test_a_second_job_with_the_same_environment_installs_nothing(
    jobs: JobMaker, tmp_path: Path
) -> None:
    cache = {"path": str(tmp_path / "cache")}
    (tmp_path / "cache").mkdir()
    first = ended(jobs, environment_cache=cache).log()
    assert "environment: built in " in first
    second = ended(jobs, environment_cache=cache).log()
    assert TAKEN in second
    assert "install" not in second
    assert f" in {tmp_path}/cache/{os.geteuid()}/" in second


def test_without_a_setting_it_is_kept_in_the_home_of_the_nodes_user(
    jobs: JobMaker, tmp_path: Path
) -> None:
    home = {"HOME": str(tmp_path / "home")}
    ended(jobs, env=home, environment_cache={})
    made = tmp_path / "home/.cache/mlflow-exec/environments" / str(os.geteuid())
    assert len(list(made.glob("*/complete.json"))) == 1
    assert TAKEN in ended(jobs, env=home, environment_cache={}).log()


def test_it_can_be_switched_off(jobs: JobMaker, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path / "home")}
    log = ended(jobs, env=env, environment_cache=False).log()
    assert "virtualenv, ready after" in log
    assert not (tmp_path / "home/.cache/mlflow-exec").exists()

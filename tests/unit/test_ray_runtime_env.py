"""Ray's own runtime environments, on a real Ray."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_exec.jobs import FailureCategory, JobState
from mlflow_exec.testing.jobs import JobMaker
from tests.clusters.pytest_ray import RayCluster
from tests.unit.ray_jobs import ray_jobs

MISSING = "no-such-package-xyz==1"


@pytest.fixture
def jobs(ray_cluster: RayCluster, tmp_path: Path) -> Iterator[JobMaker]:
    with ray_jobs(ray_cluster, tmp_path) as maker:
        yield maker


@pytest.mark.parametrize(
    ("runtime_env", "reason"),
    [
        (
            # Without an index pip need not ask the network again and again.
            {"pip": {"packages": [MISSING], "pip_install_options": ["--no-index"]}},
            f"ERROR: No matching distribution found for {MISSING}",
        ),
        (
            {"py_modules": ["https://127.0.0.1:1/module.zip"]},
            "Connection refused",
        ),
    ],
    ids=["pip", "py_modules"],
)
def test_what_cannot_be_made_is_said_in_one_line_that_ends_with_the_reason(
    runtime_env: dict[str, Any], reason: str, jobs: JobMaker
) -> None:
    job = jobs.submit("", runtime_env=runtime_env)
    last = job.ends()
    assert last.state is JobState.FAILED
    assert last.failure is not None
    assert last.failure.category is FailureCategory.ENVIRONMENT_SETUP
    assert last.message.startswith("runtime_env setup failed: ")
    assert reason in last.message[-200:]
    assert "\n" not in last.message
    assert len(last.message) < 500, "a tag of the run holds it whole"
    assert "Traceback" in job.log(), "all that Ray has to say is the job's log"


def test_variables_of_the_runtime_environment_and_of_the_settings_reach_the_job(
    jobs: JobMaker,
) -> None:
    job = jobs.submit(
        "import os; print(*(os.environ[name] for name in ('BOTH', 'RAYS', 'OURS')))",
        env={"BOTH": "ours wins", "OURS": "and ours"},
        runtime_env={"env_vars": {"BOTH": "ray's wins", "RAYS": "Ray's"}},
    )
    assert job.ends().state is JobState.SUCCEEDED
    assert "ours wins Ray's and ours\n" in job.log()

"""How an application is, by what Serve tells."""

from __future__ import annotations

from typing import Any

import pytest

from mlflow_exec.releases import RolloutState
from mlflow_exec.settings import RayServeSettings
from mlflow_exec.targets.ray_serve.plan import make_plan
from mlflow_exec.targets.ray_serve.status import (
    api_of,
    is_ours,
    revisions_in,
    rollout_of,
    submitted,
)
from tests.unit.releases import release


def application(
    status: str,
    *replicas: str,
    message: str = "",
    below: str = "",
    revisions: int = 2,
    carried_out: int = 2,
    deployment: str = "HEALTHY",
) -> dict[str, Any]:
    kept = []
    for number in range(1, revisions + 1):
        asked = release(RayServeSettings, number)
        assert isinstance(asked.settings, RayServeSettings)
        kept.append(make_plan(asked, asked.settings).revision)
    config = dict(kept[-1].objects[0])
    user = {"revision": kept[-1].to_data(), "history": [r.to_data() for r in kept[:-1]]}
    config["deployments"] = [{**config["deployments"][0], "user_config": user}]
    model = {
        "message": below, "target_num_replicas": 2, "replicas": [{"state": s} for s in replicas],
        "status": deployment,
        "deployment_config": {"user_config": {"revision": {"number": carried_out}}},
    }  # fmt: skip
    return {
        "status": status, "message": message, "deployed_app_config": config,
        "deployments": {"Model": model},
    }  # fmt: skip


def test_a_deployment_that_runs_serves_its_newest_revision() -> None:
    rollout = rollout_of("iris", application("RUNNING", "RUNNING", "RUNNING"), "http://h/iris")
    assert (rollout.state, rollout.serving) == (RolloutState.READY, 2)
    assert (rollout.ready, rollout.replicas) == (2, 2)
    assert rollout.revision is not None
    assert rollout.revision.number == 2


def test_while_one_comes_the_one_before_serves() -> None:
    comes = application("DEPLOYING", "RUNNING", "STARTING", deployment="UPDATING")
    rollout = rollout_of("iris", comes, None)
    assert (rollout.state, rollout.serving) == (RolloutState.DEPLOYING, 1)
    built = application("DEPLOYING", "RUNNING", carried_out=1)
    assert rollout_of("iris", built, None).serving == 1, "Serve is still building the newest"
    first = rollout_of("iris", application("DEPLOYING", "STARTING", revisions=1), None)
    assert first.serving is None


def test_one_that_could_not_be_built_or_started_leaves_the_one_before() -> None:
    for carried_out, deployment in ((1, "HEALTHY"), (2, "DEPLOY_FAILED")):
        failed = application(
            "DEPLOY_FAILED", "RUNNING", carried_out=carried_out, deployment=deployment
        )
        assert rollout_of("iris", failed, None).serving == 1


def test_a_write_for_another_application_changes_nothing_of_it() -> None:
    # Serve calls all of them DEPLOYING for a moment, then.
    passing = application("DEPLOYING", "RUNNING", "RUNNING")
    assert rollout_of("iris", passing, None).serving == 2


REASONS = [
    ("Deploying app 'iris' failed with exception:\nModuleNotFoundError: No module named 'x'", "",
     "environment_setup"),
    ("Runtime env setup for app 'iris' failed:\nERROR: No matching distribution", "",
     "environment_setup"),
    ("Failed to update the deployments ['Model'].", "ValueError: no such weights", "user_error"),
    ("Failed to update the deployments ['Model'].",
     "mlflow-exec: the model was logged with Python 3.9, and this cluster runs 3.11",
     "invalid_config"),
    ("", "ray.exceptions.OutOfMemoryError: Task was killed", "out_of_memory"),
    ("Failed to update the deployments ['Model'].",
     "Failed to set up runtime environment.\nNo solution found when resolving dependencies",
     "environment_setup"),
    ("Failed to update the deployments ['Model'].",
     "Failed to set up runtime environment.\nRuntimeError: Failed to download runtime_env file "
     "package gcs://_ray_pkg_1.zip from the GCS to the Ray worker node.", "source_fetch"),
]  # fmt: skip


@pytest.mark.parametrize(("message", "below", "category"), REASONS)
def test_a_failure_is_told_from_where_it_is(message: str, below: str, category: str) -> None:
    failed = application("DEPLOY_FAILED", message=message, below=below)
    failure = rollout_of("iris", failed, None).failure
    assert failure is not None
    assert failure.category.value == category
    assert (below or message).splitlines()[-1] in failure.message
    assert "Failed to update" not in failure.message


def test_of_a_long_text_the_end_is_told() -> None:
    failed = application("DEPLOY_FAILED", message="x" * 9000 + "\nValueError: the cause")
    failure = rollout_of("iris", failed, None).failure
    assert failure is not None
    assert failure.message.endswith("ValueError: the cause")
    assert len(failure.message) < 5000


def test_others_applications_are_not_ours() -> None:
    assert is_ours(application("RUNNING"))
    assert not is_ours({"deployed_app_config": {"import_path": "app:app"}})
    assert not is_ours({"deployed_app_config": None})
    assert revisions_in({"deployments": [{"name": "Other", "user_config": {"revision": 1}}]}) == []


def test_one_by_serves_python_interface_is_told_by_its_deployments() -> None:
    told = application("RUNNING", "RUNNING", "RUNNING")
    (sent,) = told["deployed_app_config"]["deployments"]
    told["deployments"]["Model"]["deployment_config"]["user_config"] = sent["user_config"]
    told["source"] = "imperative"
    # An entry in the document that is not in force any more.
    told["deployed_app_config"]["deployments"] = [{**sent, "user_config": {}}]
    assert is_ours(told)
    assert api_of(told) == "imperative"
    assert [r.number for r in revisions_in(submitted(told))] == [1, 2]
    rollout = rollout_of("iris", told, None)
    assert (rollout.state, rollout.serving) == (RolloutState.READY, 2)


@pytest.mark.parametrize(
    "config", [None, "text", {}, {"revision": 1}, {"revision": {"objects": []}},
               {"revision": {"objects": [{"import_path": "app:app"}]}}],
)  # fmt: skip
def test_others_applications_by_python_are_not_ours(config: Any) -> None:
    model = {"deployment_config": {"user_config": config}}
    assert not is_ours({"source": "imperative", "deployments": {"Model": model}})


def test_a_record_that_cannot_be_read_is_no_end() -> None:
    broken = application("RUNNING", "RUNNING")
    broken["deployed_app_config"]["deployments"][0]["user_config"]["revision"] = {"name": "x"}
    rollout = rollout_of("iris", broken, None)
    assert (rollout.state, rollout.revision) == (RolloutState.READY, None)

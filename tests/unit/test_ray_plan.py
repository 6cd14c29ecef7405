"""A job as a submission to Ray's Jobs API."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlflow_exec import runtime
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ConfigError, TemplateError
from mlflow_exec.jobs import JobSpec
from mlflow_exec.runtime.job_order import JobOrder, SecretSource
from mlflow_exec.schedulers.base import Plan
from mlflow_exec.schedulers.ray import BUNDLE_LIMIT_BYTES, RayScheduler
from mlflow_exec.settings import RaySettings, parse_settings
from mlflow_exec.source import bundle

RUN_ID = "0123456789abcdef0123456789abcdef"
MakePlan = Callable[..., Plan]


@pytest.fixture
def plan(tmp_path: Path) -> Iterator[MakePlan]:
    """Makes plans of a small project from settings."""
    (tmp_path / "train.py").write_text("print('hello')")
    with bundle(tmp_path, limit_bytes=10**6) as packed:

        def make(
            *,
            command: str = "python train.py",
            bundled: bool = True,
            manager: str = "local",
            **given: Any,
        ) -> Plan:
            settings = parse_settings(RaySettings, given, "test")
            order = {
                "format": 1,
                "run_id": RUN_ID,
                "experiment_id": "3",
                "source": {"kind": "archive", "path": "elsewhere.zip", "sha256": "0" * 64},
                "entry_point": {"command": command},
                "environment": {"manager": manager},
                "environment_cache": None,
            }
            secrets = {"MLFLOW_TRACKING_TOKEN": Secret.of("s3cr3t", "a test")}
            spec = JobSpec(RUN_ID, "3", 2, order, settings, packed if bundled else None, secrets)
            return RayScheduler(settings).plan(spec)

        yield make


def job(plan: Plan) -> dict[str, Any]:
    (only,) = plan.objects
    return dict(only)


def order(plan: Plan) -> JobOrder:
    variables = job(plan)["runtime_env"]["env_vars"]
    return JobOrder.from_json(variables["MLFLOW_EXEC_ORDER"])


def files(plan: Plan) -> dict[str, bytes]:
    (content,) = plan.data.values()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_plan_is_one_submission_named_by_run_and_submission(plan: MakePlan) -> None:
    made = job(plan(retries=2))
    assert made["submission_id"] == f"mlflow-{RUN_ID}-2"
    assert made["metadata"] == {
        "managed-by": "mlflow-exec",
        "mlflow-exec/run-id": RUN_ID,
        "mlflow-exec/experiment-id": "3",
        "mlflow-exec/retries": "2",
    }
    assert made["entrypoint"].endswith(".mlflow_exec/entry.py env:MLFLOW_EXEC_ORDER")


def test_the_package_holds_the_project_and_the_first_step(plan: MakePlan) -> None:
    made = plan()
    found = files(made)
    assert found["train.py"] == b"print('hello')"
    assert set(found) == {"train.py"} | {f".mlflow_exec/{name}" for name in runtime.RUNTIME_FILES}
    (name,) = made.data
    assert job(made)["runtime_env"]["working_dir"] == f"gcs://{name}"
    assert order(made).source.kind == "directory"
    assert order(made).source.exclude == (".mlflow_exec",)


def test_the_same_project_is_the_same_package_for_every_run(plan: MakePlan) -> None:
    assert list(plan(command="python train.py 1").data) == list(plan(command="python x.py").data)


def test_a_project_that_travels_otherwise_leaves_the_package_to_the_first_step(
    plan: MakePlan,
) -> None:
    made = plan(bundled=False)
    assert all(name.startswith(".mlflow_exec/") for name in files(made))
    assert order(made).source.path == "elsewhere.zip"


def test_retries_and_deadline_are_the_first_steps(plan: MakePlan) -> None:
    made = order(plan(retries=2, deadline_s=60))
    assert (made.retry.owner, made.retry.retries, made.deadline_s) == ("entry", 2, 60)


def test_built_environments_are_kept_on_the_node_unless_it_is_switched_off(
    plan: MakePlan,
) -> None:
    kept = order(plan(manager="uv", environment_cache_limit="1Gi")).environment_cache
    assert kept is not None
    assert kept.path == "~/.cache/mlflow-exec/environments"
    assert (kept.limit_bytes, kept.max_age_s) == (1024**3, 86400)
    elsewhere = order(plan(manager="uv", environment_cache={"path": "/mnt/c"})).environment_cache
    assert elsewhere is not None
    assert elsewhere.path == "/mnt/c"
    assert order(plan(manager="uv", environment_cache=False)).environment_cache is None
    assert order(plan(manager="local")).environment_cache is None


def test_one_cpu_is_asked_for_unless_resources_say_otherwise(plan: MakePlan) -> None:
    assert job(plan())["entrypoint_num_cpus"] == 1
    assert not {"entrypoint_num_gpus", "entrypoint_memory", "entrypoint_resources"} & set(
        job(plan())
    )
    assert job(plan(resources={"cpu": 0}))["entrypoint_num_cpus"] == 0
    asked = job(plan(resources={"cpu": "500m", "memory": "2Gi", "gpu": 1, "custom": {"tpu": 2}}))
    assert asked["entrypoint_num_cpus"] == 0.5
    assert asked["entrypoint_memory"] == 2 * 1024**3
    assert asked["entrypoint_num_gpus"] == 1
    assert asked["entrypoint_resources"] == {"tpu": 2.0}


def test_ray_finds_no_dollar_to_replace_in_the_order(plan: MakePlan) -> None:
    made = plan(command="echo $HOME ${HOME}", env={"PRICE": "5$ ${HOME}"})
    text = job(made)["runtime_env"]["env_vars"]["MLFLOW_EXEC_ORDER"]
    assert os.path.expandvars(text) == text
    assert order(made).entry_point.command == "echo $HOME ${HOME}"
    assert order(made).env == {"PRICE": "5$ ${HOME}"}


def test_a_large_order_travels_as_a_file(plan: MakePlan) -> None:
    made = plan(command="python train.py " + "x" * 200_000)
    assert "MLFLOW_EXEC_ORDER" not in job(made)["runtime_env"]["env_vars"]
    assert job(made)["entrypoint"].endswith(" .mlflow_exec/order.json")
    text = files(made)[".mlflow_exec/order.json"].decode()
    assert len(JobOrder.from_json(text).entry_point.command) > 200_000


def test_variables_reach_the_job_and_its_tasks(plan: MakePlan) -> None:
    made = job(plan(env={"A": "1"}, runtime_env={"env_vars": {"A": "0", "B": "2"}}))
    variables = made["runtime_env"]["env_vars"]
    assert (variables["A"], variables["B"]) == ("1", "2")
    # Ray's own 3 s would kill the first step before the log is kept.
    assert int(variables["RAY_JOB_STOP_WAIT_TIME_S"]) > 20


def test_the_users_runtime_environment_is_kept(plan: MakePlan, tmp_path: Path) -> None:
    requirements = tmp_path / "wanted.txt"
    requirements.write_text("# for the workers\nnumpy\n\npandas>=2\n")
    made = job(plan(runtime_env={"pip": str(requirements), "py_modules": ["s3://b/m.zip"]}))
    assert made["runtime_env"]["pip"] == ["numpy", "pandas>=2"]
    assert made["runtime_env"]["py_modules"] == ["s3://b/m.zip"]


@pytest.mark.parametrize(
    ("runtime_env", "message"),
    [
        ({"working_dir": "."}, "runtime_env.working_dir"),
        ({"env_vars": {"HF_TOKEN": "x"}}, "runtime_env.env_vars.HF_TOKEN"),
        ({"env_vars": ["A=1"]}, "runtime_env.env_vars"),
        ({"py_modules": ["./mine"]}, "runtime_env.py_modules"),
        ({"pip": "no-such-file.txt"}, "runtime_env.pip: 'no-such-file.txt' cannot be read"),
    ],
)
def test_what_cannot_be_honoured_is_refused(
    plan: MakePlan, runtime_env: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")):
        plan(runtime_env=runtime_env)


def test_secrets_are_not_in_a_plan(plan: MakePlan) -> None:
    made = plan()
    assert "s3cr3t" not in json.dumps(made.objects) + made.to_yaml() + repr(made)
    assert "MLFLOW_TRACKING_TOKEN" not in job(made)["runtime_env"]["env_vars"]


def test_declared_secrets_are_references_in_the_order_only(plan: MakePlan) -> None:
    secrets = {"HF_TOKEN": {"node_env": "HF_OF_THE_NODE"}, "DB": {"file": "/run/secrets/db"}}
    made = plan(secrets=secrets)
    assert order(made).secrets == {
        "HF_TOKEN": SecretSource(env="HF_OF_THE_NODE"),
        "DB": SecretSource(file="/run/secrets/db"),
    }
    assert not {"HF_TOKEN", "DB"} & set(job(made)["runtime_env"]["env_vars"])


@pytest.mark.parametrize(
    "given",
    [
        {"patch": {"runtime_env": {"env_vars": {"HF_TOKEN": "hunter2"}}}},
        {"patch": {"runtime_env": {"env_vars": {"INDEX": "https://u:hunter2@index"}}}},
        {"patch": {"runtime_env": {"pip": ["--index-url https://u:hunter2@index"]}}},
        {"runtime_env": {"pip": {"packages": ["git+https://hunter2@host/p"]}}},
        {"runtime_env": {"env_vars": {"HF_TOKEN": "hunter2"}}},
    ],
)
def test_a_literal_that_ray_would_show_is_refused_with_the_way_on(
    plan: MakePlan, given: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="'secrets'") as refused:
        plan(**given)
    assert "hunter2" not in str(refused.value)
    if "HF_TOKEN" in str(refused.value):
        plan(**given, not_secret=["HF_TOKEN"])


def test_a_patch_is_merged_last(plan: MakePlan) -> None:
    patched = job(plan(patch={"entrypoint_label_selector": {"zone": "a"}, "metadata": {"by": "x"}}))
    assert patched["entrypoint_label_selector"] == {"zone": "a"}
    assert patched["metadata"]["mlflow-exec/run-id"] == RUN_ID


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"entrypoint_num_cpu": 2}, "'entrypoint_num_cpu' is no key of a Ray job submission"),
        ({"submission_id": "mine"}, "submission_id"),
        ({"metadata": None}, "mlflow-exec/run-id"),
        ({"runtime_env": {"working_dir": "s3://x/y.zip"}}, "working_dir"),
    ],
)
def test_a_patch_cannot_take_away_what_finds_the_job(
    plan: MakePlan, patch: dict[str, Any], message: str
) -> None:
    with pytest.raises(TemplateError, match=message):
        plan(patch=patch)


def test_a_template_of_the_users_own(plan: MakePlan, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml.j2"
    own.write_text(
        "submission_id: {{ name }}\nentrypoint: {{ entrypoint }}\nmetadata: {{ metadata }}\n"
        "runtime_env: {{ runtime_env }}\nentrypoint_num_cpus: 3\n"
    )
    assert job(plan(template=str(own)))["entrypoint_num_cpus"] == 3
    own.write_text("submission_id: {{ name }}\n---\nsubmission_id: {{ name }}\n")
    with pytest.raises(TemplateError, match="exactly one object"):
        plan(template=str(own))


def test_a_project_goes_through_the_package_store_up_to_its_limit() -> None:
    scheduler = RayScheduler(RaySettings())
    assert scheduler.delivery(BUNDLE_LIMIT_BYTES).kind == "scheduler"
    assert scheduler.delivery(BUNDLE_LIMIT_BYTES + 1).kind == "artifact"
    assert RayScheduler(RaySettings(source="artifact")).delivery(1).kind == "artifact"
    with pytest.raises(ConfigError, match="source 'artifact'"):
        RayScheduler(RaySettings(source="package")).delivery(BUNDLE_LIMIT_BYTES + 1)

"""A job as a YARN application."""

from __future__ import annotations

import io
import json
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
from mlflow_exec.schedulers.yarn import YarnScheduler
from mlflow_exec.schedulers.yarn.plan import staged, staging_folder
from mlflow_exec.schedulers.yarn.staging import is_of
from mlflow_exec.schedulers.yarn.submission import again
from mlflow_exec.settings import YarnSettings, parse_settings
from mlflow_exec.source import bundle

RUN_ID = "0123456789abcdef0123456789abcdef"
NAME = f"mlflow-{RUN_ID}-2"
SITE = (
    "<configuration><property><name>{}</name><value>{}</value></property></configuration>"
)
MakePlan = Callable[..., Plan]


@pytest.fixture
def conf_dir(tmp_path: Path) -> Path:
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "core-site.xml").write_text(SITE.format("fs.defaultFS", "hdfs://nn:8020"))
    (folder / "yarn-site.xml").write_text(SITE.format("yarn.resourcemanager.hostname", "rm"))
    return folder


@pytest.fixture
def plan(tmp_path: Path, conf_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakePlan]:
    """Makes plans of a small project from settings."""
    monkeypatch.setenv("HADOOP_USER_NAME", "ada")
    project = tmp_path / "project"
    project.mkdir()
    (project / "train.py").write_text("print('hello')")
    with bundle(project, limit_bytes=10**6) as packed:

        def make(**given: Any) -> Plan:
            settings = parse_settings(
                YarnSettings, {"hadoop_conf_dir": str(conf_dir), **given}, "test"
            )
            order = {
                "format": 1,
                "run_id": RUN_ID,
                "experiment_id": "3",
                "source": {"kind": "archive"},
                "entry_point": {"command": "python train.py"},
                "environment": {"manager": "virtualenv", "dependencies": ["x==1"]},
                "environment_cache": None,
            }
            secrets = {"MLFLOW_TRACKING_TOKEN": Secret.of("s3cr3t", "a test")}
            spec = JobSpec(RUN_ID, "3", 2, order, settings, packed, secrets)
            return YarnScheduler(settings).plan(spec)

        yield make


def order_of(plan: Plan) -> JobOrder:
    """Return the order in the archive of the first step."""
    (content,) = plan.data.values()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert set(runtime.RUNTIME_FILES) < set(archive.namelist())
        return JobOrder.from_json(archive.read("order.json").decode())


def test_the_settings_are_in_the_application(plan: MakePlan) -> None:
    (application,) = plan(
        queue="ml", node_label="gpu", priority=3, resources={"cpu": 2, "memory": "4Gi", "gpu": 1},
        file_systems=["hdfs://other"], acls={"view_users": ["eve"]}, python="/opt/my py/python3",
    ).objects  # fmt: skip
    assert application["queue"] == "ml"
    assert application["node_label"] == "gpu"
    assert application["priority"] == 3
    assert application["max_attempts"] == 1
    assert application["tags"] == ["mlflow-exec", f"mlflow-{RUN_ID}", NAME]
    assert application["master"]["resources"] == {"memory": 4096, "vcores": 2, "gpus": 1}
    assert application["file_systems"] == ["hdfs://other"]
    assert application["acls"]["enable"] is True
    assert application["acls"]["view_users"] == ["eve"]
    assert "exec '/opt/my py/python3' -I -S -u " in application["master"]["script"]


def test_each_job_has_a_folder_of_its_own_in_hdfs(plan: MakePlan) -> None:
    made = plan()
    (application,) = made.objects
    assert staging_folder(application) == f"hdfs://nn:8020/user/ada/.mlflow-exec/{NAME}"
    names = [name for name, _ in staged(made)]
    assert len(names) == 3
    assert "secret-MLFLOW_TRACKING_TOKEN" in names
    assert names[-1] in made.data, "the folder is complete when the first step is there"


@pytest.mark.parametrize(
    ("given", "root"),
    [
        ("/shared", "hdfs://nn:8020/shared/ada"),
        ("hdfs://other:8020/shared/", "hdfs://other:8020/shared/ada"),
    ],
)
def test_in_a_shared_place_each_user_has_a_folder(plan: MakePlan, given: str, root: str) -> None:
    (application,) = plan(staging_dir=given).objects
    assert staging_folder(application) == f"{root}/{NAME}"


@pytest.mark.parametrize("given", ["relative", "file:///tmp", "s3a://bucket/x"])
def test_a_place_that_is_no_folder_in_hdfs_is_refused(plan: MakePlan, given: str) -> None:
    with pytest.raises(ConfigError, match="staging_dir"):
        plan(staging_dir=given)


def test_what_is_secret_is_in_files_and_named_only(
    plan: MakePlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MINE", "my-value")
    made = plan(secrets={"A": {"env": "MINE"}, "B": {"file": "/etc/b"}})
    order = order_of(made)
    assert order.secrets == {
        "A": SecretSource(file="mlflow_exec_secret_A"),
        "B": SecretSource(file="/etc/b"),
        "MLFLOW_TRACKING_TOKEN": SecretSource(file="mlflow_exec_secret_MLFLOW_TRACKING_TOKEN"),
    }
    shown = made.to_yaml() + repr(made) + "".join(map(repr, made.data.values()))
    assert "my-value" not in shown
    assert "s3cr3t" not in shown
    assert made.secrets["A"].reveal() == "my-value"


def test_a_nodes_own_credentials_win(plan: MakePlan) -> None:
    made = plan(secrets={"MLFLOW_TRACKING_TOKEN": {"file": "/etc/token"}})
    assert order_of(made).secrets == {"MLFLOW_TRACKING_TOKEN": SecretSource(file="/etc/token")}
    assert made.secrets == {}


def test_variables_do_not_go_through_the_shell_of_the_container(plan: MakePlan) -> None:
    made = plan(env={"A": "$HOME `x` \"y\""})
    assert order_of(made).env == {"A": "$HOME `x` \"y\""}
    assert "A" not in made.objects[0]["master"]["env"]


def test_variables_of_skeins_master_do_not_reach_the_job(plan: MakePlan) -> None:
    master = plan().objects[0]["master"]
    assert master["env"] == {"JAVA_TOOL_OPTIONS": "-Xrs"}
    assert master["script"].startswith("unset JAVA_TOOL_OPTIONS; exec ")


@pytest.mark.parametrize(("environment", "manager"), [("build", "virtualenv"), ("local", "local")])
def test_the_environment_is_the_nodes_or_built_there(
    plan: MakePlan, environment: str, manager: str
) -> None:
    cache = {"path": "/var/tmp/x"} if environment == "build" else None
    order = order_of(plan(environment=environment, environment_cache=cache))
    assert order.environment.manager == manager
    assert (order.environment_cache is not None) == (manager != "local")


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ({"tags": ["mine"]}, "find the job"),
        ({"max_attempts": 2}, "max_attempts"),
        ({"services": {}}, "'services' is no key"),
        ({"master": {"files": {"mlflow_exec_job": None}}}, "mlflow_exec_job"),
        ({"master": {"env": {"INDEX": "https://u:p@host/x"}}}, "credentials"),
    ],
)
def test_a_patch_does_not_take_away_what_the_job_needs(
    plan: MakePlan, patch: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, TemplateError), match=message):
        plan(patch=patch)


def test_a_patch_may_add_to_the_application(plan: MakePlan) -> None:
    file = {"source": "hdfs://nn/data.zip", "type": "archive"}
    (application,) = plan(
        patch={"master": {"files": {"data": file}, "env": {"A": "1"}}}
    ).objects
    assert application["master"]["files"]["data"] == file
    assert "mlflow_exec_job" in application["master"]["files"]
    assert application["master"]["env"]["A"] == "1"


@pytest.mark.parametrize(
    ("folder", "removed"),
    [
        (NAME, True),
        (f"mlflow-{RUN_ID}-1", True),  # whose files the second one has taken
        (f"mlflow-{RUN_ID}-3", False),  # a later submission of the run
        (f"mlflow-{'f' * 32}-2", False),
        ("environments", False),
    ],
)
def test_a_job_removes_its_own_folder_and_no_later_one(folder: str, removed: bool) -> None:
    assert is_of(f"hdfs://nn:8020/user/ada/.mlflow-exec/{folder}", NAME) == removed


def test_what_is_submitted_again_takes_the_same_files(plan: MakePlan) -> None:
    objects = json.loads(json.dumps(list(plan().objects)))
    name, application = again(NAME, objects, 1)
    assert name == application["name"] == f"mlflow-{RUN_ID}-3"
    assert application["tags"] == ["mlflow-exec", f"mlflow-{RUN_ID}", name]
    assert application["master"]["env"]["MLFLOW_EXEC_INFRA_RETRIES"] == "1"
    assert application["master"]["files"] == objects[0]["master"]["files"]

"""What is refused, or made safe, before a submission touches anything."""

from __future__ import annotations

import logging
import subprocess
import tempfile
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from mlflow_exec.credentials import without_credentials
from mlflow_exec.errors import ConfigError
from mlflow_exec.runs.delivery import check_artifact, git_source
from mlflow_exec.runs.progress import Progress
from mlflow_exec.runs.project import Project, read_project
from mlflow_exec.runs.submit import Call, prepare
from mlflow_exec.runs.tracking import job_tracking_uri
from mlflow_exec.settings import KubernetesSettings, RaySettings, expand_file

VIRTUALENV = {"manager": "virtualenv"}


def project(uri: str) -> Project:
    git = {"uri": uri, "commit": "0" * 40}
    return Project("p", Path(), "", uri, git, False, {}, {"manager": "local"}, {})


@pytest.mark.parametrize(
    "uri",
    [
        "https://ghp_token@host.example/team/p.git",
        "https://user:password@host.example/team/p.git",
        "ssh://git:password@host.example/team/p.git",
    ],
)
def test_credentials_in_a_git_url_never_reach_the_job(uri: str) -> None:
    with pytest.raises(ConfigError, match="git_secret"):
        git_source(project(uri))


@pytest.mark.parametrize(
    "uri", ["https://host.example/p.git", "ssh://git@host.example/p.git", "git@host.example:p.git"]
)
def test_a_git_url_without_credentials_does(uri: str) -> None:
    assert git_source(project(uri))["uri"] == uri


def test_a_signed_url_needs_a_scheduler_that_hides_it() -> None:
    def way(root: str, *, hides: bool) -> str:
        return check_artifact(
            root, "http://mlflow:5000", VIRTUALENV, carries_secrets=hides, otherwise="take a bus"
        )

    assert way("s3://bucket/1", hides=True) == "presigned"
    with pytest.raises(ConfigError, match=r"serve-artifacts, or take a bus$"):
        way("s3://bucket/1", hides=False)
    assert way("mlflow-artifacts:/1", hides=False) == "proxied"


def test_a_local_store_is_found_from_the_jobs_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def seen(uri: str) -> str:
        return job_tracking_uri(RaySettings(), uri, same_machine=True)

    assert seen("sqlite:///mlflow.db") == f"sqlite:///{tmp_path}/mlflow.db"
    assert seen(f"sqlite:///{tmp_path}/a.db") == f"sqlite:///{tmp_path}/a.db"
    assert seen("./mlruns") == f"file://{tmp_path}/mlruns"
    assert seen("http://mlflow:5000") == "http://mlflow:5000"


@pytest.mark.parametrize("uri", ["sqlite:///m.db", "file:///m", "./m", "http://localhost:5000"])
def test_another_machine_cannot_use_a_local_store(uri: str) -> None:
    with pytest.raises(ConfigError, match="another machine"):
        job_tracking_uri(KubernetesSettings(), uri, same_machine=False)


def test_a_configuration_file_is_read_before_anything_is_merged(tmp_path: Path) -> None:
    (tmp_path / "cfg.yaml").write_text("image: from-the-file\nnamespace: a\n")
    given = {"file": str(tmp_path / "cfg.yaml"), "namespace": "b"}
    assert expand_file(given, "x") == {"image": "from-the-file", "namespace": "b"}


def test_a_url_is_shown_without_its_credentials() -> None:
    assert without_credentials("https://u:p@host/x?y=1") == "https://host/x?y=1"
    assert without_credentials("git@host:team/p.git") == "git@host:team/p.git"
    assert without_credentials("ssh://git@host/p.git") == "ssh://git@host/p.git"
    assert without_credentials("sftp://u:p@host/x") == "sftp://host/x"
    assert without_credentials("cannot read 'https://t0ken@host/x'") == "cannot read 'https://host/x'"


def test_a_refused_call_leaves_no_clone_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, clones = tmp_path / "p.git", tmp_path / "tmp"
    clones.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(clones))
    repository.mkdir()
    (repository / "MLproject").write_text("entry_points: {main: {command: 'true'}}")
    git = ("git", "-C", str(repository), "-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init", "-q"), ("add", "."), ("commit", "-q", "-m", "first")):
        subprocess.run([*git, *command], check=True)
    uri = f"file://{repository}"
    read_project(uri, None, "main", {}, "local").close()
    assert list(clones.iterdir()) == []
    with pytest.raises((ConfigError, MlflowException), match="mian"):
        read_project(uri, None, "mian", {}, "local")
    assert list(clones.iterdir()) == []


def test_a_parameters_file_that_is_ignored_is_refused(tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("data/\n")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.csv").write_text("1")
    (tmp_path / "MLproject").write_text(
        "entry_points: {main: {parameters: {data: path}, command: 'echo {data}'}}"
    )
    config = {"address": "http://localhost:1"}
    path = str(tmp_path / "data" / "x.csv")
    call = Call("ray", str(tmp_path), "main", {"data": path}, None, config, "sqlite:///x.db", "0")
    with pytest.raises(ConfigError, match=r"parameter 'data': data/x\.csv is left out"):
        prepare(call, Progress())
    (tmp_path / ".mlflowignore").write_text("!data/\n")
    prepare(call, Progress()).close()


def checked(tmp_path: Path, given: dict[str, str], **config: object) -> None:
    """Prepare a call with parameters and settings."""
    (tmp_path / "MLproject").write_text(
        "entry_points: {main: {parameters: {api_token: {default: none}}, command: 'echo'}}"
    )
    settings = {"address": "http://localhost:1", **config}
    call = Call("ray", str(tmp_path), "main", given, None, settings, "sqlite:///x.db", "0")
    prepare(call, Progress()).close()


@pytest.mark.parametrize("name", ["api_token", "db-password", "openai_api_key", "hfToken"])
def test_a_parameter_that_looks_like_a_secret_is_refused_with_the_way_on(
    tmp_path: Path, name: str
) -> None:
    with pytest.raises(ConfigError, match=f"parameter '{name}': .*by 'secrets'") as refused:
        checked(tmp_path, {name: "hunter2"})
    assert "hunter2" not in str(refused.value)
    checked(tmp_path, {name: "hunter2"}, not_secret=[name])


def test_a_url_with_credentials_as_a_parameter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="parameter 'db': its value holds a URL") as refused:
        checked(tmp_path, {"db": "postgresql://u:hunter2@host/db"})
    assert "hunter2" not in str(refused.value)


def test_numbers_and_ordinary_names_are_no_secrets(tmp_path: Path) -> None:
    given = {"max_tokens": "12", "token": "3e-4", "use_token": "True", "group_key": "id", "db": "x"}
    checked(tmp_path, given)


def test_credentials_in_a_dependency_are_refused_with_the_way_on(tmp_path: Path) -> None:
    (tmp_path / "MLproject").write_text(
        "python_env: python_env.yaml\nentry_points: {main: {command: 'true'}}"
    )
    environment = tmp_path / "python_env.yaml"
    environment.write_text("dependencies: ['--extra-index-url https://u:hunter2@index/simple']")
    with pytest.raises(ConfigError, match=r"write \$\{NAME\} in their place") as refused:
        read_project(str(tmp_path), None, "main", {}, None)
    assert "hunter2" not in str(refused.value)
    environment.write_text("dependencies: ['--extra-index-url https://${U}:${P}@index/simple']")
    read_project(str(tmp_path), None, "main", {}, None)


def test_what_mlflow_says_of_its_fetching_holds_no_credentials(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mlflow_log = logging.getLogger("mlflow")
    mlflow_log.addHandler(caplog.handler)
    try:
        with pytest.raises(ConfigError) as refused:
            read_project("https://u:hunter2@127.0.0.1:1/p.git", None, "main", {}, None)
    finally:
        mlflow_log.removeHandler(caplog.handler)
    assert "Fetching project from https://127.0.0.1:1/p.git" in caplog.text
    assert "hunter2" not in caplog.text + str(refused.value)

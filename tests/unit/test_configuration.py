"""Where each setting comes from, and what ``mlflow-exec render`` tells of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

from mlflow_exec.cli import cli
from mlflow_exec.errors import ConfigError
from mlflow_exec.runs.progress import Progress
from mlflow_exec.runs.submit import Call, prepare

MLPROJECT = """
name: in-docker
docker_env:
  image: team/train:3
  environment: [[LEVEL, low], [COLOUR, red], API_TOKEN, NOT_SET_HERE]
  volumes: ["/data:/mnt/data:ro"]
entry_points: {main: {command: "true"}}
"""
KUBECONFIG = {
    "current-context": "lab",
    "contexts": [{"name": "lab", "context": {"cluster": "c", "user": "u", "namespace": "team-a"}}],
    "clusters": [{"name": "c", "cluster": {"server": "https://localhost:1"}}],
    "users": [{"name": "u", "user": {"token": "hunter2"}}],
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a docker_env, in the shell of somebody with a cluster and a server."""
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(KUBECONFIG))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "hunter2")
    monkeypatch.setenv("API_TOKEN", "hunter2")
    monkeypatch.delenv("NOT_SET_HERE", raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "MLproject").write_text(MLPROJECT)
    return folder


def render(project: Path, config: dict[str, Any], *options: str) -> str:
    arguments = ["render", str(project), "-b", "k8s", "-c", json.dumps(config), *options]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert "hunter2" not in result.stdout, "a secret was printed"
    return result.stdout


def test_render_names_the_origin_of_every_setting(project: Path) -> None:
    patch = {"metadata": {"labels": {"a": "b"}}}
    config = {"env": {"COLOUR": "blue"}, "retries": 2, "patch": patch}
    shown = json.loads(render(project, config, "--output", "json"))["settings"]
    where = {key: item["where"] for key, item in shown.items()}
    assert where["image"] == "MLproject docker_env"
    assert where["env"] == "MLproject docker_env, --backend-config"
    assert shown["env"]["value"] == {"LEVEL": "low", "COLOUR": "blue"}
    assert shown["secrets"]["value"]["API_TOKEN"]["env"] == "API_TOKEN"
    assert (where["retries"], shown["retries"]["value"]) == ("--backend-config", 2)
    assert (where["infra_retries"], shown["infra_retries"]["value"]) == ("default", 3)
    assert where["patch"] == "--backend-config"
    assert shown["template"] == {"value": "kubernetes/job.yaml.j2", "where": "built in"}
    assert shown["namespace"] == {"value": "team-a", "where": "context 'lab'"}
    assert shown["tracking_uri"] == {
        "value": "http://mlflow:5000",
        "where": "MLFLOW_TRACKING_URI",
    }
    assert shown["MLFLOW_TRACKING_TOKEN"]["where"].startswith("the environment variable")
    assert shown["environment manager"]["where"] == "the project's files"


def test_the_origins_stand_above_the_manifest(project: Path) -> None:
    text = render(project, {"namespace": "team-b"}, "--env-manager", "local")
    assert '# namespace: "team-b" (--backend-config)\n' in text
    assert '# environment manager: "local" (--env-manager)\n' in text
    job = next(item for item in yaml.safe_load_all(text) if item["kind"] == "Job")
    pod = job["spec"]["template"]["spec"]
    assert job["metadata"]["namespace"] == "team-b"
    assert pod["containers"][0]["image"] == "team/train:3"
    assert {"name": "docker-env-0", "mountPath": "/mnt/data", "readOnly": True} in (
        pod["containers"][0]["volumeMounts"]
    )


def test_the_backend_configuration_wins_over_docker_env(project: Path) -> None:
    shown = json.loads(render(project, {"image": "mine:1"}, "--output", "json"))["settings"]
    assert shown["image"] == {"value": "mine:1", "where": "--backend-config"}


def test_docker_env_is_refused_where_jobs_have_no_image(project: Path) -> None:
    call = Call("ray", str(project), "main", {}, None, {}, "http://mlflow:5000", "0")
    with pytest.raises(ConfigError, match=r"docker_env names an image.*python_env"):
        prepare(call, Progress())

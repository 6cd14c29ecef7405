"""Every way on which a project reaches its pod."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client
from mlflow.exceptions import ExecutionException

from tests.mlflow.artifact_servers import ftp_server, s3_server
from tests.mlflow.git_server import GitServer, git_server
from tests.mlflow.k8s_runs import PLAIN, K8sRuns

LISTS = """
import hashlib, os
for folder, _, names in sorted(os.walk(".")):
    for name in sorted(names):
        path = os.path.join(folder, name)
        print("FILE", path, hashlib.sha256(open(path, "rb").read()).hexdigest()[:8])
"""
AWKWARD_NAMES = ["with spaces '\"$HOME", "中文 🦊.txt", "-dash", "yaml: [x] #.txt"]


def large(project: Path) -> Path:
    """Make a project too large for a ConfigMap, with content that cannot be packed."""
    (project / "large.bin").write_bytes(os.urandom(1_500_000))
    return project


def kept(k8s: K8sRuns, run_id: str) -> list[str]:
    """Return the names of our artifacts of a run."""
    return [Path(item.path).name for item in k8s.mlflow.list_artifacts(run_id, "mlflow-exec")]


def test_a_small_project_travels_in_a_configmap(k8s: K8sRuns) -> None:
    files = {f"data/{name}": name for name in AWKWARD_NAMES} | {"left/out.txt": "x"}
    project = k8s.project(LISTS, PLAIN, {**files, ".mlflowignore": "left/\n"})
    run = k8s.ends(k8s.run(project), "SUCCEEDED")
    log = k8s.log(run.info.run_id)
    for name in AWKWARD_NAMES:
        assert f"FILE ./data/{name} " in log
    assert "out.txt" not in log
    assert not any(name.startswith("source-") for name in kept(k8s, run.info.run_id))


def test_a_large_project_travels_by_the_tracking_server(k8s: K8sRuns) -> None:
    run = k8s.ends(k8s.run(large(k8s.project(LISTS))), "SUCCEEDED")
    assert "FILE ./large.bin" in k8s.log(run.info.run_id)
    assert any(name.startswith("source-") for name in kept(k8s, run.info.run_id))


def test_a_large_project_does_not_fit_where_a_configmap_is_asked_for(k8s: K8sRuns) -> None:
    before = k8s.run_ids()
    with pytest.raises(ExecutionException, match=r"source: configmap: .* bytes"):
        k8s.run(large(k8s.project("")), source="configmap")
    assert k8s.run_ids() == before


@pytest.fixture
def bucket(k8s: K8sRuns) -> Iterator[str]:
    """A bucket on an S3 server; only this process has its credentials."""
    with s3_server(str(k8s.cluster.node_ip)) as server:
        yield server.bucket


def test_a_large_project_travels_by_a_signed_url_of_the_store(k8s: K8sRuns, bucket: str) -> None:
    k8s.experiment_id = k8s.mlflow.create_experiment("in S3", artifact_location=bucket)
    run = k8s.ends(k8s.run(large(k8s.project(LISTS))), "SUCCEEDED")
    assert "FILE ./large.bin" in k8s.log(run.info.run_id), "the client kept the log"
    assert run.data.tags["mlflow_exec.log.complete"] == "true"
    everything = k8s.artifact(run.info.run_id, "manifest.yaml") + k8s.log(run.info.run_id)
    assert "Signature" not in everything
    assert "s3cret" not in everything


@pytest.fixture
def ftp(k8s: K8sRuns, tmp_path: Path) -> Iterator[str]:
    """An FTP server that lets everybody write."""
    with ftp_server(str(k8s.cluster.node_ip), tmp_path / "ftp") as uri:
        yield uri


def test_a_large_project_travels_by_a_store_that_only_mlflow_knows(k8s: K8sRuns, ftp: str) -> None:
    k8s.experiment_id = k8s.mlflow.create_experiment("in FTP", artifact_location=ftp)
    project = large(k8s.project(LISTS))
    submitted = k8s.run(project, env_manager="local", image=k8s.cluster.image_mlflow)
    run = k8s.ends(submitted, "SUCCEEDED")
    assert "FILE ./large.bin" in k8s.log(run.info.run_id), "the client kept the log"
    assert run.data.tags["mlflow_exec.log.complete"] == "true"
    assert f'"mlflow_uri": "{ftp}/' in k8s.artifact(run.info.run_id, "manifest.yaml")


def test_a_store_that_only_mlflow_knows_and_an_image_without_it(k8s: K8sRuns, ftp: str) -> None:
    k8s.experiment_id = k8s.mlflow.create_experiment("in FTP, lost", artifact_location=ftp)
    submitted = k8s.run(large(k8s.project(LISTS)), env_manager="local")
    run = k8s.ends(submitted, "FAILED", "source_fetch")
    assert "No module named 'mlflow'" in run.data.tags["mlflow_exec.failure.message"]
    assert "image needs mlflow" in run.data.tags["mlflow_exec.failure.hint"]


def test_a_store_that_only_mlflow_knows_cannot_bring_an_environment(k8s: K8sRuns, ftp: str) -> None:
    k8s.experiment_id = k8s.mlflow.create_experiment("in FTP, refused", artifact_location=ftp)
    with pytest.raises(ExecutionException, match=r"ftp:// needs MLflow.*--env-manager local"):
        k8s.run(large(k8s.project(LISTS)), env_manager="virtualenv")


@pytest.fixture
def repositories(k8s: K8sRuns, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitServer]:
    folder = tmp_path_factory.mktemp("repositories")
    with git_server(folder, str(k8s.cluster.node_ip)) as server:
        yield server


@pytest.mark.parametrize("source", ["auto", "git"])
def test_a_project_in_git_runs_at_the_commit_that_is_asked_for(
    k8s: K8sRuns, repositories: GitServer, source: str
) -> None:
    project = k8s.project("")
    (project / "sub").mkdir()
    (project / "sub/MLproject").write_text(PLAIN)
    (project / "sub/main.py").write_text("print('the first state'); open('../main.py').close()")
    first = repositories.commit("p.git", project)
    (project / "sub/main.py").write_text("print('a later state')")
    repositories.commit("p.git", project)
    submitted = k8s.run(
        f"{repositories.url}/p.git#sub", version=first, source=source, git_image=k8s.cluster.image
    )
    run = k8s.ends(submitted, "SUCCEEDED")
    assert "the first state" in k8s.log(run.info.run_id)
    assert run.data.tags["mlflow.source.git.commit"] == first
    manifest = k8s.artifact(run.info.run_id, "manifest.yaml")
    assert ("initContainers" in manifest) == (source == "git")


def test_the_job_clones_with_a_secret(
    k8s: K8sRuns, repositories: GitServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    repositories.commit("p.git", k8s.project("print('cloned')"))
    repositories.password = "hunter2"
    with k8s.cluster.api_client() as api:
        secret = {"username": "u", "password": "hunter2"}
        client.CoreV1Api(api).create_namespaced_secret(
            k8s.namespace, {"metadata": {"name": "git"}, "stringData": secret}
        )
    # The user's own git has its own way to the password.
    for name, value in {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "credential.helper",
        "GIT_CONFIG_VALUE_0": "!echo username=u; echo password=hunter2; :",
    }.items():
        monkeypatch.setenv(name, value)
    submitted = k8s.run(
        f"{repositories.url}/p.git", source="git", git_image=k8s.cluster.image, git_secret="git"
    )
    run = k8s.ends(submitted, "SUCCEEDED")
    log = k8s.log(run.info.run_id)
    assert "cloned" in log
    assert "hunter2" not in log + k8s.artifact(run.info.run_id, "manifest.yaml")


def test_a_source_that_the_job_cannot_clone(k8s: K8sRuns, repositories: GitServer) -> None:
    repositories.commit("p.git", k8s.project(""))
    submitted = k8s.run(
        f"{repositories.url}/p.git", source="git", git_image=k8s.cluster.image,
        patch={"spec": {"template": {"spec": {"initContainers": [
            {"name": "source", "env": [{"name": "GIT_URI", "value": f"{repositories.url}/no.git"}]},
        ]}}}},
    )  # fmt: skip
    run = k8s.ends(submitted, "FAILED", "source_fetch")
    assert f"{repositories.url}/no.git/' not found" in run.data.tags["mlflow_exec.failure.message"]
    assert run.data.tags["mlflow_exec.failure.hint"]


def test_the_code_is_in_the_image(k8s: K8sRuns) -> None:
    # A volume stands in for the image's layer with the project.
    files = {"MLproject": PLAIN, "main.py": "print('of the image'); open('written', 'w')"}
    with k8s.cluster.api_client() as api:
        client.CoreV1Api(api).create_namespaced_config_map(
            k8s.namespace, {"metadata": {"name": "code"}, "data": files}
        )
    submitted = k8s.run(
        k8s.project("print('of the laptop')"),
        source="image",
        source_path="/opt/project",
        volumes=[{"name": "code", "configMap": {"name": "code"}}],
        volume_mounts=[{"name": "code", "mountPath": "/opt/project"}],
    )
    run = k8s.ends(submitted, "SUCCEEDED")
    assert "of the image" in k8s.log(run.info.run_id)


def test_the_image_lacks_the_code(k8s: K8sRuns) -> None:
    submitted = k8s.run(k8s.project(""), source="image", source_path="/no/such/folder")
    run = k8s.ends(submitted, "FAILED", "source_fetch")
    assert "/no/such/folder" in run.data.tags["mlflow_exec.failure.message"]

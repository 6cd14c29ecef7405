"""Calls that are refused before anything is created: no run, no object in the cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.exceptions import ExecutionException

from tests.mlflow.k8s_runs import K8sRuns

DECLARED = """
name: declared
entry_points:
  main:
    parameters:
      depth: float
    command: python3 main.py {depth}
  reads:
    parameters:
      data: path
    command: python3 main.py {data}
  broken:
    command: python3 main.py {undeclared}
"""
GOOD = {"depth": 3}

CALLS: dict[str, tuple[dict[str, Any], str]] = {
    "a parameter of the wrong type": (
        {"parameters": {"depth": "deep"}}, r"'depth'.*float.*'deep'",
    ),
    "a parameter that is missing": ({"parameters": {}}, "depth"),
    "a path that does not exist": (
        {"entry_point": "reads", "parameters": {"data": "no/such/file"}}, r"'data'.*no/such/file",
    ),
    "an entry point that is not there": ({"entry_point": "mian"}, "mian"),
    "an entry point with an unknown parameter": ({"entry_point": "broken"}, "undeclared"),
    "an unknown setting": (
        {"namspace": "x"}, r"unknown setting 'namspace' \(did you mean 'namespace'\?\)",
    ),
    "an unknown setting in a mapping": (
        {"resources": {"memroy": "1Gi"}}, r"'resources\.memroy' \(did you mean 'memory'\?\)",
    ),
    "a value of the wrong type": ({"retries": "many"}, r"retries: .*'?many"),
    "a quantity that is none": ({"resources": {"memory": "much"}}, r"resources\.memory: .*much"),
    "a secret in the open": ({"env": {"HF_TOKEN": "hf_abc"}}, r"env\.HF_TOKEN.*secrets"),
    "a secret that is not set here": (
        {"secrets": {"A_TOKEN": {"env": "THERE_IS_NO_SUCH_VARIABLE"}}}, "THERE_IS_NO_SUCH_VARIABLE",
    ),
    "an unknown context": ({"context": "prod"}, r"context: 'prod' is not in kubeconfig .*known: "),
    "an unknown kubeconfig": ({"kubeconfig": "/no/such/file"}, "/no/such/file"),
    "a namespace that does not exist": ({"namespace": "no-such-namespace"}, "no-such-namespace"),
    "a tracking server that the job cannot reach": (
        {"tracking_uri": "http://127.0.0.1:5000"}, r"tracking_uri.*127\.0\.0\.1",
    ),
    "a tracking store on this machine's disk": (
        {"tracking_uri": "sqlite:///mlflow.db"}, r"tracking_uri.*sqlite",
    ),
    "a password in the tracking URI": (
        {"tracking_uri": "http://me:hunter2@mlflow:5000"}, "MLFLOW_TRACKING_PASSWORD",
    ),
    "no image": ({"image": None}, "image: none is given"),
    "git for what is not in git": ({"source": "git"}, "not a git repository"),
    "a patch that the cluster does not know": (
        {"patch": {"spec": {"template": {"spec": {"nodeSelektor": {}}}}}}, "nodeSelektor",
    ),
    "a patch that takes the container away": (
        {"patch": {"spec": {"template": {"spec": {"containers": [
            {"name": "job", "$patch": "delete"}]}}}}}, "container 'job' must stay",
    ),
    "a template that is not there": ({"template": "no-template.yaml"}, "no-template.yaml"),
    "a conda environment without its file": ({"env_manager": "conda"}, "conda.yaml"),
}  # fmt: skip


@pytest.fixture(autouse=True)
def nothing_is_created(k8s: K8sRuns) -> Any:
    before = k8s.run_ids(), k8s.objects()
    yield
    assert (k8s.run_ids(), k8s.objects()) == before


@pytest.mark.parametrize("call", CALLS)
def test_it_is_refused(k8s: K8sRuns, call: str) -> None:
    given, message = CALLS[call]
    arguments = {"parameters": GOOD, **given}
    with pytest.raises(ExecutionException, match=f"(?s){message}") as caught:
        k8s.run(k8s.project("", DECLARED), **arguments)
    assert "hunter2" not in str(caught.value)
    assert "hf_abc" not in str(caught.value)


def test_a_project_that_is_not_there(k8s: K8sRuns) -> None:
    with pytest.raises(ExecutionException, match="no-such-project"):
        k8s.run(k8s.folder / "no-such-project")


def test_a_store_on_this_machine(k8s: K8sRuns, tmp_path: Path) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    with pytest.raises(ExecutionException, match="another machine and cannot reach"):
        k8s.run(k8s.project("", DECLARED), GOOD)


def test_a_link_that_leads_out_of_the_project(k8s: K8sRuns) -> None:
    project = k8s.project("", DECLARED)
    (project / "secrets").symlink_to("/etc")
    with pytest.raises(ExecutionException, match="secrets"):
        k8s.run(project, GOOD)


def test_a_project_over_the_limit(k8s: K8sRuns) -> None:
    project = k8s.project("", DECLARED, {"data/large.txt": "x" * 100_000})
    with pytest.raises(ExecutionException, match="data"):
        k8s.run(project, GOOD, source_limit=10)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"docker_args": {"gpus": "all"}}, "--docker-args"),
        ({"docker_auth": {"username": "u"}}, "image_pull_secrets"),
        ({"build_image": True}, "--build-image"),
        ({"storage_dir": "/tmp"}, "--storage-dir"),
    ],
)
def test_an_option_that_means_nothing_here(
    k8s: K8sRuns, option: dict[str, Any], message: str
) -> None:
    with pytest.raises(ExecutionException, match=message):
        mlflow.projects.run(
            str(k8s.project("", DECLARED)), parameters=GOOD, backend="k8s", experiment_id="0",
            backend_config=k8s.config(), **option,
        )  # fmt: skip

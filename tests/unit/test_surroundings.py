"""What a process knows of the place where it runs, and who is told."""

from __future__ import annotations

import json
import socket

import pytest

from mlflow_exec.plugins.request_header import ExecRequestHeaders
from mlflow_exec.plugins.run_context import ExecRunContext
from mlflow_exec.runtime import job as first_step
from mlflow_exec.surroundings import JOB_VARIABLE, facts

DIGEST = "sha256:" + "0123456789abcdef" * 4
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.mark.parametrize(
    ("env", "known"),
    [
        ({}, {}),
        ({"HOSTNAME": "laptop", "POD_NAME": "a", "NM_HOST": "b"}, {}),
        (POD, {"k8s.pod": socket.gethostname()}),
        (
            {**POD, "MLFLOW_EXEC_POD": "job-0-x", "MLFLOW_EXEC_NAMESPACE": "team-a",
             "MLFLOW_EXEC_NODE": "node-7", "MLFLOW_EXEC_IMAGE": f"r.example/python@{DIGEST}",
             "MLFLOW_EXEC_JOB": "mlflow-r-1"},
            {"job": "mlflow-r-1", "k8s.pod": "job-0-x", "k8s.namespace": "team-a",
             "k8s.node": "node-7", "k8s.image": f"r.example/python@{DIGEST}",
             "k8s.image_digest": DIGEST},
        ),
        (
            {**POD, "POD_NAME": "web", "POD_NAMESPACE": "b", "NODE_NAME": "n",
             "MLFLOW_EXEC_IMAGE": "python:3.11", "MLFLOW_EXEC_IMAGE_DIGEST": DIGEST},
            {"k8s.pod": "web", "k8s.namespace": "b", "k8s.node": "n", "k8s.image": "python:3.11",
             "k8s.image_digest": DIGEST},
        ),
        ({"RAY_JOB_ID": "01000000"}, {"ray.job_id": "01000000"}),
        (
            {"RAY_JOB_CONFIG_JSON_ENV_VAR": json.dumps({"metadata": {"job_submission_id": "s-1"}})},
            {"ray.submission_id": "s-1"},
        ),
        ({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{"}, {}),
        (
            {"CONTAINER_ID": "container_e17_1410901177871_0001_01_000005", "NM_HOST": "n"},
            {"yarn.application_id": "application_1410901177871_0001", "yarn.node": "n",
             "yarn.container_id": "container_e17_1410901177871_0001_01_000005"},
        ),
        ({"CONTAINER_ID": "0f3c"}, {}),
        (
            {"SLURM_JOB_ID": "7", "SLURM_CLUSTER_NAME": "c", "SLURMD_NODENAME": "n"},
            {"slurm.job_id": "7", "slurm.cluster": "c", "slurm.node": "n"},
        ),
        (
            {"SLURM_JOB_ID": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "3"},
            {"slurm.job_id": "7_3"},
        ),
    ],
)  # fmt: skip
def test_what_the_environment_tells(env: dict[str, str], known: dict[str, str]) -> None:
    assert facts(env) == known


def test_a_job_of_ours_is_told_its_name() -> None:
    assert first_step.JOB_VARIABLE == JOB_VARIABLE


def test_tags_and_headers_are_short_plain_and_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KUBERNETES_SERVICE_HOST", "RAY_JOB_ID", "CONTAINER_ID"):
        monkeypatch.delenv(name, raising=False)
    assert not ExecRunContext().in_context()
    assert not ExecRequestHeaders().in_context()
    monkeypatch.setenv("SLURM_JOB_ID", "7\r\nAuthorization: x")
    monkeypatch.setenv("SLURM_CLUSTER_NAME", "ü" * 600)
    monkeypatch.setenv("MLFLOW_RUN_ID", "abc")
    monkeypatch.delenv("SLURMD_NODENAME", raising=False)
    assert ExecRunContext().in_context()
    assert ExecRunContext().tags() == {
        "mlflow_exec.slurm.job_id": "7\r\nAuthorization: x",
        "mlflow_exec.slurm.cluster": "ü" * 500,
    }
    assert ExecRequestHeaders().request_headers() == {
        "X-MLflow-Exec-Slurm-Job-Id": "7??Authorization:?x",
        "X-MLflow-Exec-Slurm-Cluster": "?" * 200,
        "X-MLflow-Exec-Run": "abc",
    }

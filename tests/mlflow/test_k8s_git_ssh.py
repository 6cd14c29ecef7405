"""The job clones over SSH, with the key of a Secret."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kubernetes import client
from mlflow.entities import Run

from mlflow_exec.runs.submitted import ExecSubmittedRun
from tests.mlflow.k8s_runs import K8sRuns
from tests.mlflow.ssh_server import SshServer, make_key, ssh_server


@pytest.fixture
def server(
    k8s: K8sRuns, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[SshServer]:
    """A git server over SSH, which this process has a key for."""
    with ssh_server(tmp_path_factory.mktemp("ssh"), str(k8s.cluster.node_ip)) as server:
        monkeypatch.setenv("GIT_SSH_COMMAND", server.client_command)
        yield server


def submit(k8s: K8sRuns, server: SshServer, secret: dict[str, str]) -> ExecSubmittedRun:
    """Submit a project that prints ``cloned``; the job's Secret holds what is given."""
    server.commit("p.git", k8s.project("print('cloned')"))
    with k8s.cluster.api_client() as api:
        made = client.CoreV1Api(api).create_namespaced_secret(
            k8s.namespace,
            {
                "metadata": {"generateName": "git-ssh-"},
                "type": "kubernetes.io/ssh-auth",
                "stringData": secret,
            },
        )
    return k8s.run(
        f"{server.url}/p.git",
        source="git",
        git_image=k8s.cluster.image,
        git_secret=made.metadata.name,
    )


def says_why(k8s: K8sRuns, run: Run, why: str) -> None:
    """Check that the failure and the kept log both have git's own reason."""
    assert why in run.data.tags["mlflow_exec.failure.message"]
    assert why in k8s.log(run.info.run_id)


@pytest.mark.parametrize("known", [True, False])
def test_the_job_clones_with_a_key(k8s: K8sRuns, server: SshServer, known: bool) -> None:
    secret = {"ssh-privatekey": server.key}
    if known:
        secret["known_hosts"] = server.known_hosts
    run = k8s.ends(submit(k8s, server, secret), "SUCCEEDED")
    log = k8s.log(run.info.run_id)
    assert "\ncloned" in log
    secret_line = server.key.splitlines()[1]
    assert secret_line not in log + k8s.artifact(run.info.run_id, "manifest.yaml")


def test_a_key_that_the_server_does_not_let_in(
    k8s: K8sRuns, server: SshServer, tmp_path: Path
) -> None:
    stranger = make_key(tmp_path / "stranger")
    secret = {"ssh-privatekey": stranger, "known_hosts": server.known_hosts}
    run = k8s.ends(submit(k8s, server, secret), "FAILED", "source_fetch")
    says_why(k8s, run, "Permission denied (publickey)")
    assert run.data.tags["mlflow_exec.failure.hint"]


def test_a_server_that_is_not_the_known_one(
    k8s: K8sRuns, server: SshServer, tmp_path: Path
) -> None:
    make_key(tmp_path / "other")
    other = f"{server.host} {(tmp_path / 'other.pub').read_text()}"
    secret = {"ssh-privatekey": server.key, "known_hosts": other}
    run = k8s.ends(submit(k8s, server, secret), "FAILED", "source_fetch")
    says_why(k8s, run, "Host key verification failed")

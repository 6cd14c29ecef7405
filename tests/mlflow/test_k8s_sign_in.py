"""Jobs that sign in at a server which believes the cluster's own tokens, or those in a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kubernetes import client
from mlflow.exceptions import ExecutionException

from mlflow_exec.runtime.end import TAG_LOG_COMPLETE, TAG_STATE_BY
from mlflow_exec.testing.collecting import until
from tests.clusters.pytest_kubernetes import KubernetesCluster
from tests.guarded_server import Guard, guarded, takes
from tests.mlflow.conftest import submissions
from tests.mlflow.k8s_runs import K8sRuns
from tests.mlflow.renewed_tokens import (
    FIRST,
    SECOND,
    TOKEN,
    outlives_its_token,
    sign_in_by_file,
)
from tests.servers import MlflowServer

AUDIENCE = "mlflow-of-the-test"
PLACE = "mlflow-exec-test-place"
LOGS = """
import mlflow, os
with mlflow.start_run():
    mlflow.log_metric("m", 1)
    mlflow.log_text("text", "text.txt")
    names = ("POD", "NAMESPACE", "NODE", "IMAGE", "JOB")
    mlflow.log_params({name: os.environ["MLFLOW_EXEC_" + name] for name in names})
"""


@pytest.fixture
def guard(kubernetes_cluster: KubernetesCluster, k8s_tracking: MlflowServer) -> Iterator[Guard]:
    """Before the tracking server, where pods reach it."""
    name = str(kubernetes_cluster.node_ip)
    with guarded(
        lambda _: False, k8s_tracking.url, host="0.0.0.0", visible_as=name
    ) as found:
        yield found


@contextmanager
def signed_in(
    cluster: KubernetesCluster, namespace: str, guard: Guard, folder: Path, token: Path
) -> Iterator[K8sRuns]:
    """Submissions by somebody whose own token is in a file."""
    (folder / "projects").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        sign_in_by_file(patch, token)
        server = MlflowServer(guard.url, folder)
        with submissions(cluster, namespace, server, folder / "projects") as runs:
            yield runs


def test_a_job_signs_in_by_a_token_of_its_service_account(
    kubernetes_cluster: KubernetesCluster, k8s_namespace: str, guard: Guard, tmp_path: Path
) -> None:
    own = tmp_path / "token"
    with kubernetes_cluster.api_client() as api:
        core, reviews = client.CoreV1Api(api), client.AuthenticationV1Api(api)
        asked = {"spec": {"audiences": [AUDIENCE]}}
        made = core.create_namespaced_service_account_token("default", k8s_namespace, asked)
        own.write_text(made.status.token)
        users: set[str] = set()
        of_pods: set[str] = set()

        def accepts(given: str | None) -> bool:
            token = (given or "").removeprefix("Bearer ")
            spec = {"token": token, "audiences": [AUDIENCE]}
            status = reviews.create_token_review({"spec": spec}).status
            if status.authenticated:
                users.add(status.user.username)
                extra = status.user.extra or {}
                of_pods.update(extra.get("authentication.kubernetes.io/pod-name", []))
            return bool(status.authenticated)

        guard.accepts = accepts
        with signed_in(kubernetes_cluster, k8s_namespace, guard, tmp_path, own) as k8s:
            with pytest.raises(ExecutionException, match="set 'tracking_token_audience'"):
                k8s.run(k8s.project(LOGS))
            submitted = k8s.run(
                k8s.project(LOGS), image=kubernetes_cluster.image_mlflow,
                tracking_token_audience=AUDIENCE,
            )  # fmt: skip
            run = k8s.ends(submitted, "SUCCEEDED")
    assert run.data.metrics == {"m": 1}
    assert run.data.tags[TAG_STATE_BY] == "entry"
    assert run.data.tags[TAG_LOG_COMPLETE] == "true"
    assert users == {f"system:serviceaccount:{k8s_namespace}:default"}
    told = run.data.params
    assert {told.pop("POD")} == of_pods
    assert told.pop("NODE")
    assert told == {
        "NAMESPACE": k8s_namespace,
        "IMAGE": kubernetes_cluster.image_mlflow,
        "JOB": f"mlflow-{submitted.run_id}-1",
    }


def test_a_job_that_is_queued_for_longer_than_its_token_lives_writes_its_end(
    kubernetes_cluster: KubernetesCluster, k8s_namespace: str, guard: Guard, tmp_path: Path
) -> None:
    kubernetes_cluster.processes()  # on a user's own nodes there is no folder of this machine
    tokens = tmp_path / "tokens"
    tokens.mkdir(mode=0o755)
    token = tokens / "token"
    token.write_text(FIRST)
    guard.accepts = takes(FIRST)
    with signed_in(kubernetes_cluster, k8s_namespace, guard, tmp_path, token) as k8s:
        submitted = k8s.run(
            k8s.project(LOGS), image=kubernetes_cluster.image_mlflow,
            node_selector={PLACE: "there"}, secrets={TOKEN: {"file": "/tokens/token"}},
            volumes=[{"name": "tokens", "hostPath": {"path": str(tokens)}}],
            volume_mounts=[{"name": "tokens", "mountPath": "/tokens", "readOnly": True}],
        )  # fmt: skip
        until(lambda: submitted.status().state.value == "QUEUED", "it waits for a place")
        guard.accepts = takes(SECOND)
        token.write_text(SECOND)
        with labelled(kubernetes_cluster, PLACE, "there"):
            run = k8s.ends(submitted, "SUCCEEDED")
    assert run.data.metrics == {"m": 1}
    assert run.data.tags[TAG_STATE_BY] == "entry"
    assert run.data.tags[TAG_LOG_COMPLETE] == "true"


@contextmanager
def labelled(cluster: KubernetesCluster, name: str, value: str) -> Iterator[None]:
    """Have a label on all nodes."""
    with cluster.api_client() as api:
        core = client.CoreV1Api(api)

        def label(value: str | None) -> None:
            for node in core.list_node().items:
                core.patch_node(node.metadata.name, {"metadata": {"labels": {name: value}}})

        label(value)
        try:
            yield
        finally:
            label(None)


def test_a_job_outlives_its_token_which_is_renewed_in_its_file(
    kubernetes_cluster: KubernetesCluster, k8s_namespace: str, guard: Guard, tmp_path: Path
) -> None:
    kubernetes_cluster.processes()  # on a user's own nodes there is no folder of this machine
    tokens = tmp_path / "tokens"
    tokens.mkdir(mode=0o755)
    token = tokens / "token"
    with signed_in(kubernetes_cluster, k8s_namespace, guard, tmp_path, token) as k8s:
        outlives_its_token(
            k8s, guard, token, "/tokens/token",
            image=kubernetes_cluster.image_mlflow,
            secrets={TOKEN: {"file": "/tokens/token"}},
            volumes=[{"name": "tokens", "hostPath": {"path": str(tokens)}}],
            volume_mounts=[{"name": "tokens", "mountPath": "/tokens", "readOnly": True}],
        )  # fmt: skip

"""A job is found again from other machines: other kubeconfigs, other users, inside the cluster."""

from __future__ import annotations

import base64
import json
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client

import mlflow_exec
from mlflow_exec.clients.ports import free_port
from mlflow_exec.errors import MlflowExecError
from mlflow_exec.runs.attach import attach
from tests.clusters.kubernetes import configuration
from tests.clusters.kubernetes.cluster import Cluster
from tests.clusters.kubernetes.prerequisites import missing
from tests.clusters.kubernetes.rights import await_right
from tests.clusters.pytest_kubernetes import unavailable
from tests.mlflow.k8s_deployments import K8sDeployments
from tests.mlflow.k8s_runs import WAIT, K8sRuns

RIGHTS = [
    {"apiGroups": ["batch"], "resources": ["jobs"],
     "verbs": ["get", "list", "watch", "delete", "patch"]},
    {"apiGroups": [""], "resources": ["pods", "pods/log", "events"],
     "verbs": ["get", "list", "watch"]},
]  # fmt: skip


def colleague(
    k8s: K8sRuns | K8sDeployments, rules: Sequence[Mapping[str, Any]] = RIGHTS
) -> tuple[str, str]:
    """Make a service account that may look after jobs, or do what the rules say.

    Returns:
        Its name and token.
    """
    name = f"colleague-{uuid.uuid4().hex[:8]}"
    metadata = {"name": name}
    subject = {"kind": "ServiceAccount", "name": name, "namespace": k8s.namespace}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name}
    with k8s.cluster.api_client() as api:
        core, rbac = client.CoreV1Api(api), client.RbacAuthorizationV1Api(api)
        core.create_namespaced_service_account(k8s.namespace, {"metadata": metadata})
        rbac.create_namespaced_role(k8s.namespace, {"metadata": metadata, "rules": rules})
        rbac.create_namespaced_role_binding(
            k8s.namespace, {"metadata": metadata, "roleRef": role, "subjects": [subject]}
        )
        await_right(api, k8s.namespace, name, rules[-1])
        token: str = core.create_namespaced_service_account_token(
            name, k8s.namespace, {"spec": {"expirationSeconds": 3600}}
        ).status.token
    return name, token


def entries(kubeconfig: Path, context: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return how a context reaches its cluster and as whom, with the content of its files."""
    config = yaml.safe_load(kubeconfig.read_text())
    names = next(c for c in config["contexts"] if c["name"] == context)["context"]
    cluster = next(c for c in config["clusters"] if c["name"] == names["cluster"])["cluster"]
    user = next(u for u in config["users"] if u["name"] == names["user"])["user"]
    for entry in (cluster, user):
        for key in ("certificate-authority", "client-certificate", "client-key"):
            if key in entry:
                data = (kubeconfig.parent / entry.pop(key)).read_bytes()
                entry[f"{key}-data"] = base64.b64encode(data).decode()
    return cluster, user


def write_kubeconfig(path: Path, current: str, contexts: Mapping[str, tuple[Any, Any]]) -> Path:
    """Write a kubeconfig of contexts: name -> (cluster, user)."""
    text = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": current,
        "clusters": [{"name": f"c-{name}", "cluster": c} for name, (c, _) in contexts.items()],
        "users": [{"name": f"u-{name}", "user": u} for name, (_, u) in contexts.items()],
        "contexts": [
            {"name": name, "context": {"cluster": f"c-{name}", "user": f"u-{name}"}}
            for name in contexts
        ],
    }
    path.write_text(yaml.safe_dump(text))
    return path


def mlflow_exec_command(k8s: K8sRuns, kubeconfig: Path, *arguments: str) -> tuple[int, str, str]:
    process = k8s.command_line("mlflow-exec", *arguments, env={"KUBECONFIG": str(kubeconfig)})
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_another_user_on_another_machine(k8s: K8sRuns, tmp_path: Path) -> None:
    submitted = k8s.run(k8s.project(WAIT))
    k8s.says(submitted, "it waits")
    here, _ = entries(k8s.cluster.kubeconfig, k8s.cluster.context)
    user = {"token": colleague(k8s)[1]}
    dead = {"server": f"https://127.0.0.1:{free_port()}"}
    theirs = write_kubeconfig(
        tmp_path / "theirs", "staging", {"staging": (dead, {}), "b": (here, user)}
    )
    code, out, err = mlflow_exec_command(
        k8s, theirs, "status", submitted.run_id, "--output", "json"
    )
    assert code == 0, err
    assert json.loads(out)["state"] == "RUNNING"
    code, _, err = mlflow_exec_command(k8s, theirs, "cancel", submitted.run_id)
    assert code == 0, err
    k8s.ends(submitted, "CANCELLED")


def test_a_kubeconfig_without_the_cluster(
    k8s: K8sRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = k8s.run(k8s.project(WAIT))
    port = free_port()
    other = write_kubeconfig(
        tmp_path / "other", "staging", {"staging": ({"server": f"https://127.0.0.1:{port}"}, {})}
    )
    monkeypatch.setenv("KUBECONFIG", str(other))
    elsewhere = attach(submitted.run_id)
    with pytest.raises(MlflowExecError, match=rf"Tried: .*staging.*127\.0\.0\.1:{port}"):
        elsewhere.cancel()
    monkeypatch.setenv("KUBECONFIG", str(k8s.cluster.kubeconfig))
    assert submitted.status().state.value in ("QUEUED", "STARTING", "RUNNING")


@pytest.fixture(scope="module")
def other_cluster() -> Iterator[Cluster]:
    """A second Kubernetes that answers, and has nothing of ours."""
    if lacking := missing():
        unavailable("a second Kubernetes cannot start here: " + " ".join(lacking))
    cluster = Cluster.start()
    yield cluster
    cluster.stop()


@pytest.mark.parametrize("name", [None, "prod-eu"], ids=["by its identity", "named by hand"])
def test_of_two_clusters_that_answer_the_one_with_the_job(
    k8s: K8sRuns, other_cluster: Cluster, tmp_path: Path, name: str | None
) -> None:
    submitted = k8s.run(k8s.project(WAIT), cluster_name=name)
    assert submitted.handle.cluster == (name or submitted.handle.cluster)
    k8s.says(submitted, "it waits")
    near = entries(other_cluster.kubeconfig, configuration.CONTEXT)
    far = entries(k8s.cluster.kubeconfig, k8s.cluster.context)
    both = write_kubeconfig(tmp_path / "both", "near", {"near": near, "far": far})
    code, out, err = mlflow_exec_command(k8s, both, "status", submitted.run_id, "--output", "json")
    assert code == 0, err
    assert json.loads(out)["state"] == "RUNNING", "the current context is the wrong cluster"
    here = json.dumps({"context": "near"})
    code, _, err = mlflow_exec_command(k8s, both, "cancel", submitted.run_id, "-c", here)
    assert code == 1
    assert "leave 'context' out" in err
    code, _, err = mlflow_exec_command(k8s, both, "cancel", submitted.run_id)
    assert code == 0, err
    k8s.ends(submitted, "CANCELLED")


INSIDE = """
import sys
from mlflow_exec.runs.attach import attach
other = attach(sys.argv[1])
print("SEEN", other.status().state.value, flush=True)
print("ITS LOG", "it waits" in "".join(other.logs()), flush=True)
other.cancel()
print("AFTER", other.status().state.value, flush=True)
"""
INSIDE_PROJECT = """
name: inside
python_env: python_env.yaml
entry_points:
  main:
    parameters: {run: string}
    command: python main.py {run}
"""


def test_a_pod_of_the_cluster(k8s: K8sRuns) -> None:
    submitted = k8s.run(k8s.project(WAIT))
    k8s.says(submitted, "it waits")
    needs = ["mlflow-skinny", "kubernetes", "jinja2", "pydantic", "rich", "click"]
    project = k8s.project(
        INSIDE, INSIDE_PROJECT, {"python_env.yaml": yaml.safe_dump({"dependencies": needs})}
    )
    package = Path(mlflow_exec.__file__).parent
    shutil.copytree(package, project / "mlflow_exec")
    inside = k8s.run(
        project,
        {"run": submitted.run_id},
        env_manager="uv",
        service_account=colleague(k8s)[0],
        patch={"spec": {"template": k8s.cluster.pod_patch}},
    )
    k8s.ends(inside, "SUCCEEDED")
    log = k8s.log(inside.run_id)
    assert "SEEN RUNNING" in log
    assert "ITS LOG True" in log
    assert "AFTER CANCELLED" in log
    k8s.ends(submitted, "CANCELLED")

"""Models on a real Kubernetes by MLflow's own command line and client: a registry, uv, secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from kubernetes import client
from mlflow import MlflowClient
from mlflow.deployments import BaseDeploymentClient, get_deploy_client
from mlflow.exceptions import MlflowException

from mlflow_exec.testing.collecting import until
from mlflow_exec.testing.served_models import BODY, JSON, ROW, save_model
from tests.clusters.kubernetes.pods import pod_patch
from tests.clusters.pytest_kubernetes import KubernetesCluster
from tests.mlflow.k8s_deployments import K8sDeployments
from tests.servers import MlflowServer

TOKEN = "a-token-that-nobody-may-see"
SECRET = "a-value-that-nobody-may-see"


@dataclass
class Registry:
    """Registered models of one name, and how they are deployed."""

    served: K8sDeployments
    name: str
    patch: Path

    def register(self, answer: int, requirements: tuple[str, ...]) -> str:
        """Log and register one more version, and return it."""
        folder = self.served.folder / f"registered-{answer}-{time.monotonic_ns()}"
        folder.mkdir()
        path = save_model(folder, answer, requirements=requirements)
        with mlflow.start_run() as run:
            mlflow.log_artifacts(str(path), "model")
        source = f"{run.info.artifact_uri}/model"
        found = MlflowClient().create_model_version(self.name, source, run.info.run_id)
        return str(found.version)

    def options(self, **changes: Any) -> dict[str, Any]:
        """Return settings as the command line takes them."""
        cluster = self.served.cluster
        base = {
            "image": cluster.image,
            "image_pull_policy": "IfNotPresent",
            "patch": str(self.patch),
            "cache": json.dumps({"host_path": str(self.served.folder / "cache")}),
            "timeout_s": "300",
            "request_timeout_s": "20",
            "drain_s": "5",
        }
        return {**base, **changes}

    def command(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run ``mlflow deployments`` on this cluster."""
        verb, *more = arguments
        given = [part for key, value in options.items() for part in ("-C", f"{key}={value}")]
        command = [sys.executable, "-m", "mlflow", "deployments", verb, "-t", self.served.uri]
        return subprocess.run([*command, *more, *given], capture_output=True, text=True)


@pytest.fixture(scope="module")
def registry(
    kubernetes_cluster: KubernetesCluster,
    k8s_namespace: str,
    k8s_tracking: MlflowServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Registry]:
    folder = tmp_path_factory.mktemp("registry")
    pods = pod_patch("model")["spec"]
    pods["initContainers"] = [{**pods["containers"][0], "name": "prepare"}]
    patch = folder / "patch.yaml"
    patch.write_text(yaml.safe_dump({"spec": {"template": {"spec": pods}}}))
    served = K8sDeployments(kubernetes_cluster, k8s_namespace, folder)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("KUBECONFIG", str(kubernetes_cluster.kubeconfig))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", k8s_tracking.url)
        monkeypatch.setenv("IRIS_TOKEN", TOKEN)
        monkeypatch.setenv("IRIS_SECRET", SECRET)
        mlflow.set_tracking_uri(k8s_tracking.url)
        name = f"served-{os.getpid()}"
        MlflowClient().create_registered_model(name)
        yield Registry(served, name, patch)
        served.close()
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def deployments(registry: Registry) -> BaseDeploymentClient:
    return get_deploy_client(registry.served.uri)


@pytest.fixture(scope="module")
def created(registry: Registry) -> subprocess.CompletedProcess[str]:
    """A deployment of an alias, in an environment of its own that uv builds."""
    version = registry.register(1, ("mlflow-skinny", "pandas"))
    MlflowClient().set_registered_model_alias(registry.name, "champion", version)
    uri = f"models:/{registry.name}@champion"
    return registry.command("create", "--name", "iris", "-m", uri, **registry.options())


def test_an_alias_is_served_in_an_environment_of_its_own(
    registry: Registry, created: subprocess.CompletedProcess[str], deployments: BaseDeploymentClient
) -> None:
    assert created.returncode == 0, created.stdout + created.stderr
    assert "iris is created" in created.stdout
    assert deployments.predict("iris", ROW)["predictions"] == [1]
    shown = deployments.get_deployment("iris")
    assert (shown["state"], shown["pinned_uri"]) == ("READY", f"models:/{registry.name}/1")


def test_an_update_to_a_model_of_a_missing_requirement_tells_it_and_goes_back(
    registry: Registry, created: object, deployments: BaseDeploymentClient
) -> None:
    wanted = "a-package-that-no-index-has==1.0"
    version = registry.register(2, ("mlflow-skinny", "pandas", wanted))
    with pytest.raises(MlflowException, match=r"(?s)environment_setup.*a-package-that-no-index"):
        deployments.update_deployment("iris", f"models:/{registry.name}/{version}")
    shown = deployments.get_deployment("iris")
    assert (shown["state"], shown["revision"], shown["serving"]) == ("READY", 3, 3)
    assert deployments.predict("iris", ROW)["predictions"] == [1]


def test_a_second_model_of_the_same_requirements_takes_the_environment_that_is_there(
    registry: Registry, created: object, deployments: BaseDeploymentClient, tmp_path: Path
) -> None:
    version = registry.register(3, ("mlflow-skinny", "pandas"))
    uri = f"models:/{registry.name}/{version}"
    updated = registry.command("update", "--name", "iris", "-m", uri)
    assert updated.returncode == 0, updated.stdout + updated.stderr
    row = tmp_path / "row.json"
    row.write_text(json.dumps(ROW))
    asked = registry.command("predict", "--name", "iris", "-I", str(row))
    assert json.loads(asked.stdout)["predictions"] == [3]
    assert "taken from the cache" in registry_log(registry, "iris")


def registry_log(registry: Registry, name: str) -> str:
    """Return what the first step of the newest pod has said."""
    served = registry.served
    with served.cluster.api_client() as api:
        core = client.CoreV1Api(api)
        pods = core.list_namespaced_pod(
            served.namespace, label_selector=f"mlflow-exec/deployment={name}"
        ).items
        newest = max(pods, key=lambda pod: pod.metadata.creation_timestamp)
        log = core.read_namespaced_pod_log(
            newest.metadata.name, served.namespace, container="prepare"
        )
        return str(log)


def test_secrets_reach_the_model_and_stand_nowhere_else(
    registry: Registry, deployments: BaseDeploymentClient
) -> None:
    served = registry.served
    reads = f"assert __import__('os').environ['IRIS_SECRET'] == {SECRET!r}"
    path = save_model(served.folder, 7, predicting=reads)
    options = served.given(
        secrets={"IRIS_SECRET": {"env": "IRIS_SECRET"}}, token={"env": "IRIS_TOKEN"}
    )
    deployments.create_deployment("guarded", str(path), config={**options, "any_python": True})
    raw = served.ask_once("guarded")
    assert raw()[0] == 401
    wrong = served.target().request(
        "guarded", "/invocations", BODY, {**JSON, "X-Mlflow-Exec-Token": "wrong"}
    )
    assert wrong.status == 401
    assert deployments.predict("guarded", ROW)["predictions"] == [7]
    texts = json.dumps(everything(served, "guarded"), default=str)
    assert "guarded-secrets-1" in texts
    assert TOKEN not in texts
    assert SECRET not in texts.replace(reads, "")
    deployments.delete_deployment("guarded")
    assert served.everything("guarded") == []


def everything(served: K8sDeployments, name: str) -> list[Any]:
    """Return all objects of a deployment but its Secrets, whole."""
    chosen = {"label_selector": f"mlflow-exec/deployment={name}"}
    with served.cluster.api_client() as api:
        core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
        lists = (
            apps.list_namespaced_deployment, apps.list_namespaced_replica_set,
            core.list_namespaced_pod, core.list_namespaced_service,
            core.list_namespaced_config_map,
        )  # fmt: skip
        return [o.to_dict() for find in lists for o in find(served.namespace, **chosen).items]


def test_a_gate_applies_nothing_of_a_model_that_fails(registry: Registry, tmp_path: Path) -> None:
    served = registry.served
    rows = "".join(f"{n}.5,{2 if n % 10 else 3}\n" for n in range(40))
    (tmp_path / "rows.csv").write_text("x,label\n" + rows)
    accurate = {"kind": "threshold", "metric": "accuracy", "min": 0.8}
    suite = {"data": "rows.csv", "target": "label", "validations": {"accurate": accurate}}
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(suite))
    options = served.given(gate=tmp_path / "suite.yaml", any_python=True)
    good, bad = (str(save_model(tmp_path, answer)) for answer in (2, 3))

    def deploys(verb: str, model: str) -> subprocess.CompletedProcess[str]:
        return registry.command(verb, "--name", "gated", "-m", model, **options)

    refused = deploys("create", bad)
    assert refused.returncode != 0
    assert "accurate (major): accuracy is 0.1" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert served.everything("gated") == []
    created = deploys("create", good)
    assert created.returncode == 0, created.stdout + created.stderr
    assert served.answer("gated") == 2
    before = sorted(served.everything("gated"))
    assert deploys("update", bad).returncode != 0
    assert sorted(served.everything("gated")) == before
    assert served.answer("gated") == 2
    served.target().delete("gated")


def test_rendering_prints_what_would_be_sent_and_sends_nothing(registry: Registry) -> None:
    served = registry.served
    path = save_model(served.folder, 8)
    options = registry.options(token='{"env": "IRIS_TOKEN"}', render="only")
    printed = registry.command("create", "--name", "shown", "-m", str(path), **options)
    assert printed.returncode == 0, printed.stderr
    kinds = {document["kind"] for document in yaml.safe_load_all(printed.stdout)}
    assert kinds == {"Deployment", "Service", "PodDisruptionBudget", "ConfigMap", "Secret"}
    assert TOKEN not in printed.stdout
    assert served.everything("shown") == []


def test_a_deployment_is_deleted_by_the_command_line(registry: Registry, created: object) -> None:
    deleted = registry.command("delete", "--name", "iris")
    assert deleted.returncode == 0, deleted.stderr
    until(lambda: registry.served.everything("iris") == [], "nothing is left")
    missing = registry.command("get", "--name", "iris")
    assert missing.returncode != 0
    assert "there is no deployment 'iris'" in missing.stderr
    assert "Traceback" not in missing.stderr

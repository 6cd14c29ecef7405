"""Deployments of models on a real Kubernetes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from mlflow.deployments import get_deploy_client

from mlflow_exec.releases import Model, ModelPackage, Release, Rollout
from mlflow_exec.settings import KubernetesTargetSettings
from mlflow_exec.shipping import content_hash
from mlflow_exec.targets.base import ReleasePlan
from mlflow_exec.targets.kubernetes import KubernetesTarget
from mlflow_exec.testing.served import Served
from mlflow_exec.testing.served_models import BODY, JSON, save_model
from tests.clusters.kubernetes.pods import pod_patch
from tests.clusters.kubernetes.services import pod_dns, service_network
from tests.clusters.pytest_kubernetes import KubernetesCluster

READY_S = 120.0


@dataclass
class K8sDeployments:
    """Deploys to a namespace of a cluster."""

    cluster: KubernetesCluster
    namespace: str
    folder: Path
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @property
    def uri(self) -> str:
        """The target's URI."""
        return f"k8s://{self.cluster.context}/{self.namespace}"

    def given(self, **changes: Any) -> dict[str, Any]:
        """Return settings of these tests, with changes."""
        base: dict[str, Any] = {
            "kubeconfig": str(self.cluster.kubeconfig),
            "image": self.cluster.image_mlflow,
            "image_pull_policy": "IfNotPresent",
            "environment": "local",
            "timeout_s": READY_S,
            "drain_s": 5,
            "request_timeout_s": 20,
        }
        return {**base, **changes}

    def target(self, **changes: Any) -> KubernetesTarget:
        """Return a target with these settings."""
        return KubernetesTarget(KubernetesTargetSettings(**self.given(**changes)), self.uri)

    def model(self, answer: int, **code: Any) -> Model:
        """Return a new model with this answer, whose files travel with its release."""
        folder = self.folder / str(next(self._numbers))
        folder.mkdir()
        path = save_model(folder, answer, **code)
        sha256, size_bytes = content_hash(path)
        package = ModelPackage(path, sha256, size_bytes)
        return Model(path.as_uri(), path.as_uri(), str(answer), package=package)

    def plan(
        self, name: str, model: Model, number: int = 1, **changes: Any
    ) -> tuple[KubernetesTarget, ReleasePlan]:
        """Return a target and what it plans for a model."""
        given = self.given(**changes)
        settings = KubernetesTargetSettings(**given)
        target = KubernetesTarget(settings, self.uri)
        now = datetime.now(timezone.utc).isoformat()
        release = Release(name, number, model, settings, given, now)
        return target, target.plan(release)

    def apply(self, name: str, model: Model, number: int = 1, **changes: Any) -> KubernetesTarget:
        """Check and apply a release."""
        target, plan = self.plan(name, model, number, **changes)
        target.check(plan)
        target.apply(plan)
        return target

    def deploy(self, name: str, model: Model, number: int = 1, **changes: Any) -> Rollout:
        """Apply a release and return its rollout once it is ready or has failed."""
        return self.apply(name, model, number, **changes).wait(name, number, READY_S)

    def answer(self, name: str) -> int:
        """Return what a deployment answers."""
        status, body = self.ask(name)
        assert status == 200, body
        return int(json.loads(body)["predictions"][0])

    def close(self) -> None:
        """Remove all deployments of the namespace."""
        names = [rollout.name for rollout in self.target().rollouts()]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.target().delete, names))

    def pod_names(self, name: str) -> set[str]:
        """Return the pods of a deployment, those that are being stopped among them."""
        return {found for found in self.everything(name) if found.startswith("V1Pod/")}

    def ready_pods(self, name: str) -> set[str]:
        """Return the names of the pods of a deployment that are ready."""
        with self.cluster.api_client() as api:
            chosen = f"mlflow-exec/deployment={name}"
            found = client.CoreV1Api(api).list_namespaced_pod(
                self.namespace, label_selector=chosen
            )
            return {
                pod.metadata.name
                for pod in found.items
                if any(c.type == "Ready" and c.status == "True" for c in pod.status.conditions)
            }

    def kill_pod(self, name: str) -> None:
        """Kill a pod in the middle of what it does."""
        with self.cluster.api_client() as api:
            core = client.CoreV1Api(api)
            core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)

    def everything(self, name: str) -> list[str]:
        """Return every object with the label of a deployment, whatever its kind."""
        chosen = {"label_selector": f"mlflow-exec/deployment={name}"}
        with self.cluster.api_client() as api:
            core, apps = client.CoreV1Api(api), client.AppsV1Api(api)
            lists = (
                apps.list_namespaced_deployment, apps.list_namespaced_replica_set,
                core.list_namespaced_pod, core.list_namespaced_service,
                core.list_namespaced_config_map, core.list_namespaced_secret,
                client.PolicyV1Api(api).list_namespaced_pod_disruption_budget,
                client.AutoscalingV2Api(api).list_namespaced_horizontal_pod_autoscaler,
                client.NetworkingV1Api(api).list_namespaced_ingress,
            )  # fmt: skip
            return [
                f"{type(item).__name__}/{item.metadata.name}"
                for find in lists
                for item in find(self.namespace, **chosen).items
            ]

    def ask(self, name: str) -> tuple[int, bytes]:
        """Send one request as our own clients do, which try again where a pod does not answer."""
        answer = self.target().request(name, "/invocations", BODY, JSON)
        return answer.status, answer.body

    def ask_once(
        self, name: str, headers: Mapping[str, str] | None = None
    ) -> Callable[[], tuple[int, bytes]]:
        """Return what sends a request to a deployment, and never again, whatever comes of it."""
        sent = {**JSON, **(headers or {})}
        path = f"/api/v1/namespaces/{self.namespace}/services/{name}:http/proxy/invocations"
        client = self.target()._client

        def ask() -> tuple[int, bytes]:
            response = client.exchange("POST", path, BODY, sent, 30)
            return response.status, response.data

        return ask


@contextmanager
def served_by(made: K8sDeployments, tracking_uri: str, environments: Path) -> Iterator[Served]:
    """Give the deployments and endpoints of a namespace, as the suites use them.

    Args:
        made: The namespace.
        tracking_uri: Where the models are.
        environments: Where routers find the environment that the first of them has built.
    """
    given = {key: str(value) for key, value in made.given().items() if key != "kubeconfig"}
    cluster = made.cluster.processes()
    pods = {**pod_patch("model")["spec"], **pod_dns(cluster.slot, made.namespace)}
    pods["initContainers"] = [{**pods["containers"][0], "name": "prepare"}]
    patch = made.folder / "patch.yaml"
    patch.write_text(yaml.safe_dump({"spec": {"template": {"spec": pods}}}))
    routers = {
        **given,
        "image": made.cluster.image,
        "environment": "uv",
        "patch": str(patch),
        "cache": json.dumps({"host_path": str(environments)}),
    }
    models = made.folder / "models"
    models.mkdir()
    with (
        pytest.MonkeyPatch.context() as monkeypatch,
        made.cluster.api_client() as api,
        service_network(cluster.slot, made.namespace, api),
    ):
        monkeypatch.setenv("KUBECONFIG", str(made.cluster.kubeconfig))
        monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri)
        yield Served(
            get_deploy_client(made.uri), made.uri, given, routers, routers, made.ask_once,
            made.ready_pods, made.kill_pod, made.everything, models,
        )  # fmt: skip

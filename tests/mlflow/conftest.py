"""Fixtures of end-to-end tests: a tracking server that jobs reach, and submissions to clusters."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import mlflow
import pytest
from kubernetes import client
from mlflow.deployments import BaseDeploymentClient, get_deploy_client

from mlflow_exec.clients.ray_embedded import recorded
from mlflow_exec.clients.ray_serve import ServeClient
from mlflow_exec.testing.served import Served
from mlflow_exec.testing.served_models import save_model
from tests.clusters.processes import appears
from tests.clusters.pytest_kubernetes import KubernetesCluster, unavailable
from tests.clusters.pytest_ray import RayCluster, require_ray
from tests.clusters.pytest_yarn import running
from tests.clusters.ray_head import RayHead, ray_head
from tests.clusters.yarn.cluster import YarnCluster
from tests.mlflow.interventions import offer
from tests.mlflow.k8s_deployments import K8sDeployments, served_by
from tests.mlflow.k8s_runs import K8sRuns
from tests.mlflow.ray_runs import RayRuns
from tests.mlflow.yarn_faults import FRAIL
from tests.mlflow.yarn_runs import YarnRuns
from tests.servers import MlflowServer, mlflow_server
from tests.yarn_client import use


@pytest.fixture(scope="session")
def k8s_tracking(
    kubernetes_cluster: KubernetesCluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    """A tracking server that pods reach, and this process under the same address."""
    if kubernetes_cluster.node_ip is None:
        unavailable("pods of this cluster have no known way to a server of this machine")
    folder = tmp_path_factory.mktemp("k8s-tracking")
    # MLflow refuses experiments in an FTP store, unless whoever runs the server wants them.
    stores = {"MLFLOW_ALLOWED_HOST_ADDRESSED_ARTIFACT_SCHEMES": "ftp"}
    name = kubernetes_cluster.node_ip
    with mlflow_server(folder, host="0.0.0.0", visible_as=name, environment=stores) as server:
        yield server


@pytest.fixture(scope="session")
def k8s_namespace(
    kubernetes_cluster: KubernetesCluster, _namespaces: client.CoreV1Api
) -> Iterator[str]:
    """A namespace for all end-to-end tests of a session; deleted before others are waited for."""
    with kubernetes_cluster.api_client() as api:
        core = client.CoreV1Api(api)
        labels = {"mlflow-exec-test/session": str(os.getpid())}
        metadata = {"generateName": "mlflow-exec-test-", "labels": labels}
        name: str = core.create_namespace({"metadata": metadata}).metadata.name
        accounts = f"{name} has its service account"
        assert appears(lambda: core.list_namespaced_service_account(name).items, timeout_s=120), (
            accounts
        )
        yield name
        core.delete_namespace(name)


@contextmanager
def submissions(
    cluster: KubernetesCluster, namespace: str, server: MlflowServer, folder: Path
) -> Iterator[K8sRuns]:
    """Submissions to a real Kubernetes, by whoever is its administrator."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(cluster.kubeconfig))
        mlflow.set_tracking_uri(server.url)
        runs = K8sRuns(server, folder, cluster, namespace)
        yield runs
        runs.close()
        mlflow.set_tracking_uri(None)


@pytest.fixture
def k8s(
    kubernetes_cluster: KubernetesCluster,
    k8s_namespace: str,
    k8s_tracking: MlflowServer,
    tmp_path: Path,
) -> Iterator[K8sRuns]:
    """Submissions of one test."""
    with submissions(kubernetes_cluster, k8s_namespace, k8s_tracking, tmp_path) as runs:
        yield runs


@pytest.fixture(scope="module")
def module_k8s(
    kubernetes_cluster: KubernetesCluster,
    k8s_namespace: str,
    k8s_tracking: MlflowServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[K8sRuns]:
    """Submissions of all tests of a module."""
    folder = tmp_path_factory.mktemp("submissions")
    with submissions(kubernetes_cluster, k8s_namespace, k8s_tracking, folder) as runs:
        yield runs


@pytest.fixture
def gpu_resource(k8s: K8sRuns) -> Iterator[str]:
    """The name of a resource of which the node has one."""
    k8s.cluster.processes()  # a user's own nodes are left as they are
    name = f"mlflow-exec.test/gpu-{os.getpid()}"
    with k8s.cluster.api_client() as api:
        core = client.CoreV1Api(api)
        offer(core, name, "1")
        yield name
        offer(core, name, None)


@pytest.fixture(scope="module")
def own_ray() -> Iterator[RayHead]:
    """A Ray that tests may kill."""
    require_ray()
    with ray_head() as head:
        yield head


@pytest.fixture(scope="module")
def ray_tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A tracking server that jobs on this machine reach."""
    with mlflow_server(tmp_path_factory.mktemp("ray-tracking")) as server:
        yield server


@pytest.fixture
def ray(
    own_ray: RayHead, ray_tracking: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RayRuns]:
    """Submissions to a real Ray."""
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(own_ray.token_file))
    monkeypatch.setenv("MLFLOW_EXEC_HOME", str(tmp_path / "home"))
    mlflow.set_tracking_uri(ray_tracking.url)
    runs = RayRuns(ray_tracking, tmp_path, own_ray)
    yield runs
    runs.close()
    mlflow.set_tracking_uri(None)


@pytest.fixture(scope="session")
def yarn_tracking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A tracking server that containers on this machine reach."""
    with mlflow_server(tmp_path_factory.mktemp("yarn-tracking")) as server:
        yield server


@pytest.fixture(scope="session")
def frail_yarn_cluster() -> Iterator[YarnCluster]:
    """A YARN that tests may hurt; each leaves it whole, and empty."""
    with running(YarnCluster(properties=FRAIL)) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def frail(
    frail_yarn_cluster: YarnCluster,
    yarn_tracking: MlflowServer,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[YarnRuns]:
    """Submissions of all tests of a module to a YARN that they may hurt."""
    folder = tmp_path_factory.mktemp("submissions")
    with pytest.MonkeyPatch.context() as patch, yarn_submissions(
        frail_yarn_cluster, yarn_tracking, folder, patch
    ) as runs:
        yield runs


@pytest.fixture
def yarn(
    yarn_cluster: YarnCluster,
    yarn_tracking: MlflowServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[YarnRuns]:
    """Submissions to a real YARN."""
    with yarn_submissions(yarn_cluster, yarn_tracking, tmp_path, monkeypatch) as runs:
        yield runs


@contextmanager
def yarn_submissions(
    cluster: YarnCluster, server: MlflowServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[YarnRuns]:
    """Submissions to any YARN of the tests."""
    use(cluster, monkeypatch)
    mlflow.set_tracking_uri(server.url)
    runs = YarnRuns(server, folder, cluster)
    yield runs
    runs.close()
    mlflow.set_tracking_uri(None)


# -- deployments on Kubernetes

@pytest.fixture(scope="module")
def served(
    kubernetes_cluster: KubernetesCluster,
    k8s_namespace: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[K8sDeployments]:
    """Deployments go to a real Kubernetes; nothing of them is left there."""
    made = K8sDeployments(kubernetes_cluster, k8s_namespace, tmp_path_factory.mktemp("served"))
    yield made
    made.close()


@pytest.fixture(scope="session")
def router_environments(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the routers of all modules find the environment that the first of them has built."""
    return tmp_path_factory.mktemp("router-environments")


@pytest.fixture(scope="module")
def serving(
    served: K8sDeployments, k8s_tracking: MlflowServer, router_environments: Path
) -> Iterator[Served]:
    """The deployments and endpoints of a namespace, as the suites use them."""
    with served_by(served, k8s_tracking.url, router_environments) as found:
        yield found


# -- deployments on Ray Serve

@pytest.fixture(scope="module")
def served_on(
    ray_cluster: RayCluster, ray_tracking: MlflowServer
) -> Iterator[Callable[[], ServeClient]]:
    """Deployments go to the Ray of the tests; nothing of them is left there."""
    with pytest.MonkeyPatch.context() as patch:
        if ray_cluster.home is not None:
            patch.setenv("MLFLOW_EXEC_HOME", str(ray_cluster.home))
        patch.setenv("MLFLOW_TRACKING_URI", ray_tracking.url)
        mlflow.set_tracking_uri(ray_tracking.url)

        def client() -> ServeClient:
            own = recorded()
            assert own is not None
            return ServeClient(own.address, token=own.token())

        yield client
        deployments = get_deploy_client("ray-serve")
        for found in deployments.list_endpoints():
            deployments.delete_endpoint(found["name"])
        for found in deployments.list_deployments():
            deployments.delete_deployment(found["name"])
        mlflow.set_tracking_uri(None)


@pytest.fixture(scope="module")
def deployments(served_on: object) -> BaseDeploymentClient:
    return get_deploy_client("ray-serve")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def one(models: Path) -> str:
    return str(save_model(models, 1))

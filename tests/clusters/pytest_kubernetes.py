"""Fixtures that give tests a real Kubernetes: the one of $KUBECONFIG, or one started here.

A cluster started here lasts for the session. Where neither is to be had the tests are skipped with
the reason, or fail with it when MLFLOW_EXEC_FORBID_SKIP=1.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import pytest
import yaml
from kubernetes import client, config

from tests.clusters.kubernetes import configuration, images
from tests.clusters.kubernetes.cluster import Cluster
from tests.clusters.kubernetes.pods import pod_patch
from tests.clusters.kubernetes.prerequisites import missing
from tests.clusters.processes import appears

_NAMESPACES_GONE_S = 60.0


@dataclass
class KubernetesCluster:
    """A cluster for tests, ours or the user's, and how to reach it."""

    kubeconfig: Path
    context: str
    image: str
    """An image with Python 3 and pip, there or to be pulled (imagePullPolicy IfNotPresent)."""
    image_mlflow: str
    """The same with mlflow-skinny, scikit-learn, matplotlib and pandas installed."""
    node_ip: str | None = None
    """Where a pod reaches servers of this host; None when that is not known."""
    pod_patch: dict[str, Any] = field(default_factory=dict)
    """A patch of a Pod with a container `job` that lets it install packages."""
    ours: Cluster | None = None
    """The processes, when they run on this machine and are ours."""

    def api_client(self) -> client.ApiClient:
        """Return a new client of its API server; the caller closes it."""
        return config.new_client_from_config(str(self.kubeconfig), self.context)

    def restart(self, component: str) -> None:
        """Kill a component (`kube-apiserver`, `kubelet`, ...) and start it; returns when it serves.

        A test that needs it is skipped on a user's own cluster.
        """
        self.processes().restart(component)

    def processes(self) -> Cluster:
        """Return the cluster as processes to kill and start; skips where there are none."""
        if self.ours is None:
            unavailable("a test of killed components needs a cluster that the tests started")
        return self.ours


def unavailable(reason: str) -> NoReturn:
    """Skip the running test, or fail it where skips are forbidden; never returns."""
    if os.environ.get("MLFLOW_EXEC_FORBID_SKIP") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def kubernetes_cluster() -> Iterator[KubernetesCluster]:
    """A real Kubernetes for the whole session."""
    given = os.environ.get("KUBECONFIG")
    if given:
        yield _given(Path(given.split(os.pathsep)[0]))
        return
    if lacking := missing():
        unavailable("no Kubernetes (KUBECONFIG is not set, none can start): " + " ".join(lacking))
    cluster = Cluster.start()
    try:
        yield _started(cluster)
    finally:
        cluster.stop()


def _started(cluster: Cluster) -> KubernetesCluster:
    return KubernetesCluster(
        kubeconfig=cluster.kubeconfig,
        context=configuration.CONTEXT,
        image=images.PYTHON,
        image_mlflow=images.PYTHON_MLFLOW,
        node_ip=cluster.node_ip,
        pod_patch=pod_patch(),
        ours=cluster,
    )


def _given(kubeconfig: Path) -> KubernetesCluster:
    cluster = Cluster.find(kubeconfig.absolute().parent)
    if cluster is not None:
        return _started(cluster)
    image = os.environ.get("MLFLOW_EXEC_TEST_IMAGE", "python:3.11-slim")
    patch = os.environ.get("MLFLOW_EXEC_TEST_POD_PATCH")
    return KubernetesCluster(
        kubeconfig=kubeconfig,
        context=yaml.safe_load(kubeconfig.read_text())["current-context"],
        image=image,
        image_mlflow=os.environ.get("MLFLOW_EXEC_TEST_IMAGE_MLFLOW", image),
        pod_patch=yaml.safe_load(Path(patch).read_text()) if patch else {},
    )


@pytest.fixture(scope="session")
def mlflow_exec_image(
    kubernetes_cluster: KubernetesCluster, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """An image in which this checkout is installed, with what it needs to reach Kubernetes."""
    given = os.environ.get("MLFLOW_EXEC_TEST_IMAGE_MLFLOW_EXEC")
    if given:
        return given
    if kubernetes_cluster.ours is None:
        unavailable("no image with this package (MLFLOW_EXEC_TEST_IMAGE_MLFLOW_EXEC is not set)")
    archive = tmp_path_factory.mktemp("image") / "mlflow-exec.tar"
    name = images.write_mlflow_exec(archive)
    kubernetes_cluster.ours.load_image(archive)
    archive.unlink()
    return name


@pytest.fixture(scope="session")
def _namespaces(kubernetes_cluster: KubernetesCluster) -> Iterator[client.CoreV1Api]:
    """The API for namespaces; at the session's end it waits for those deleted to be gone."""
    with kubernetes_cluster.api_client() as api_client:
        core = client.CoreV1Api(api_client)
        yield core
        made = f"{_LABEL}={os.getpid()}"
        appears(
            lambda: not core.list_namespace(label_selector=made).items,
            timeout_s=_NAMESPACES_GONE_S,
            interval_s=0.5,
        )


_LABEL = "mlflow-exec-test/session"


@pytest.fixture
def namespace(_namespaces: client.CoreV1Api) -> Iterator[str]:
    """A fresh namespace in which pods can start; deleted after the test with all in it."""
    metadata = {"generateName": "mlflow-exec-test-", "labels": {_LABEL: str(os.getpid())}}
    name = _namespaces.create_namespace({"metadata": metadata}).metadata.name
    try:
        # A pod created before its service account is refused.
        assert appears(lambda: _has_service_account(_namespaces, name), timeout_s=120)
        yield name
    finally:
        _namespaces.delete_namespace(name)


def _has_service_account(core: client.CoreV1Api, namespace: str) -> bool:
    with contextlib.suppress(client.ApiException):
        core.read_namespaced_service_account("default", namespace)
        return True
    return False

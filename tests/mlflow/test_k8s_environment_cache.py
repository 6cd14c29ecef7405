"""Environments that pods share: on the node's disk, and in a claim."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client
from mlflow.exceptions import ExecutionException

from mlflow_exec.testing.collecting import until
from tests.mlflow.k8s_runs import PLAIN, K8sRuns

PYTHON_ENV = PLAIN + "python_env: python_env.yaml\n"
PROGRAM = "import six, sys; print('six', six.__version__, 'in', sys.prefix)"
CAPACITY = "1Gi"


@pytest.fixture
def host_path(k8s: K8sRuns) -> Iterator[str]:
    """A folder on the nodes that is not there before and not after."""
    path = f"/tmp/mlflow-exec-test-{uuid.uuid4().hex}"
    yield path
    remove = f"import shutil; shutil.rmtree('/host/{Path(path).name}', ignore_errors=True)"
    k8s.ends(
        k8s.run(
            k8s.project(remove),
            volumes=[{"name": "host", "hostPath": {"path": str(Path(path).parent)}}],
            volume_mounts=[{"name": "host", "mountPath": "/host"}],
        ),
        "SUCCEEDED",
    )


@pytest.fixture
def claim(k8s: K8sRuns, host_path: str) -> Iterator[str]:
    """A claim, bound to a volume made by hand: a test cluster need not have a provisioner."""
    name = f"mlflow-exec-test-{uuid.uuid4().hex}"
    common = {"storageClassName": "", "accessModes": ["ReadWriteMany"]}
    volume = {
        "metadata": {"name": name},
        "spec": {
            **common,
            "capacity": {"storage": CAPACITY},
            "persistentVolumeReclaimPolicy": "Retain",
            "hostPath": {"path": host_path, "type": "DirectoryOrCreate"},
        },
    }
    wanted = {
        "metadata": {"name": "environments"},
        "spec": {
            **common, "volumeName": name, "resources": {"requests": {"storage": CAPACITY}},
        },
    }  # fmt: skip
    with k8s.cluster.api_client() as api:
        core = client.CoreV1Api(api)
        core.create_persistent_volume(volume)
        core.create_namespaced_persistent_volume_claim(k8s.namespace, wanted)

        def is_bound() -> bool:
            found = core.read_namespaced_persistent_volume_claim("environments", k8s.namespace)
            return bool(found.status.phase == "Bound")

        until(is_bound, "the claim is bound", 60)
        yield "environments"
        core.delete_namespaced_persistent_volume_claim("environments", k8s.namespace)
        core.delete_persistent_volume(name)


def run(k8s: K8sRuns, manager: str = "virtualenv", **settings: Any) -> str:
    """Run a project with an environment of its own, and return its log."""
    environment = "dependencies:\n  - six==1.16.0\n"
    project = k8s.project(PROGRAM, PYTHON_ENV, {"python_env.yaml": environment})
    patch = {"spec": {"template": k8s.cluster.pod_patch}}
    submitted = k8s.run(project, patch=patch, env_manager=manager, **settings)
    k8s.ends(submitted, "SUCCEEDED")
    return k8s.log(submitted.run_id)


def prefix(log: str) -> str:
    (line,) = [line for line in log.splitlines() if line.startswith("six ")]
    return line.split(" in ")[1]


@pytest.mark.parametrize("place", ["host_path", "claim"])
def test_a_second_pod_with_the_same_environment_installs_nothing(
    k8s: K8sRuns, place: str, request: pytest.FixtureRequest
) -> None:
    setting = {place: request.getfixturevalue(place)}
    if place == "claim":
        setting["sub_path"] = "team-a"
    first = run(k8s, environment_cache=setting)
    assert "environment: built in " in first
    assert "pip install" in first
    second = run(k8s, environment_cache=setting)
    assert "environment: taken from the cache (key " in second
    assert "install" not in second
    assert prefix(first) == prefix(second)


def test_without_a_cache_each_pod_builds_its_own(k8s: K8sRuns) -> None:
    log = run(k8s)
    assert "virtualenv, ready after" in log
    assert "cache" not in log


def test_a_claim_that_is_not_there_is_refused_beforehand(k8s: K8sRuns) -> None:
    with pytest.raises(ExecutionException, match="PersistentVolumeClaim 'none' does not exist"):
        run(k8s, environment_cache={"claim": "none"})

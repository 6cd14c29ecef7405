"""No planted secret is found in anything that jobs on a real Kubernetes leave behind.

What a program itself writes to MLflow (metrics, params, artifacts) is its own business, and so are
the project's files; both are left out.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from mlflow_exec.testing.collecting import until
from tests.mlflow.git_server import git_server
from tests.mlflow.k8s_runs import K8sRuns
from tests.mlflow.planted import TELLS, Planted, submitted_by_a_client
from tests.servers import asking_for

FAILS = TELLS + "raise RuntimeError('the token is ' + os.environ['BY_ENV'])"
EATS = TELLS + "eaten = [bytearray(1 << 20) for _ in range(4000)]"
WAITS = TELLS + "print('PATIENT', flush=True); time.sleep(600)"
PYTHON_ENV = "name: x\npython_env: python_env.yaml\nentry_points: {main: {command: python main.py}}"
ENDS = {
    "succeeded": ("SUCCEEDED", ""),
    "failed": ("FAILED", "user_error"),
    "eats": ("FAILED", "out_of_memory"),
    "no source": ("FAILED", "source_fetch"),
    "no environment": ("FAILED", "environment_setup"),
    "no secret": ("FAILED", "invalid_config"),
    "cancelled": ("CANCELLED", ""),
}


def make_secret(k8s: K8sRuns, name: str, **values: str) -> None:
    with k8s.cluster.api_client() as api:
        body = {"metadata": {"name": name}, "stringData": values}
        client.CoreV1Api(api).create_namespaced_secret(k8s.namespace, body)


def calls(k8s: K8sRuns, planted: Planted, git: str, basic: str) -> dict[str, dict[str, Any]]:
    """Return the calls of `mlflow.projects.run`, one for each way to end."""
    make_secret(k8s, "planted", key=planted.plant("of a Secret"))
    make_secret(k8s, "in-a-file", token=planted.plant("of a file") + "\n")
    make_secret(k8s, "git-wrong", username="u", password=planted.plant("git password", "-"))
    make_secret(k8s, "basic", user="someone", password=planted.values["tracking password"])
    index = f"https://u:{planted.plant('index password', '-')}@127.0.0.1:9/simple"
    vault: dict[str, Any] = {
        "volumes": [{"name": "vault", "secret": {"secretName": "in-a-file"}}],
        "volume_mounts": [{"name": "vault", "mountPath": "/vault", "readOnly": True}],
        "env": {"IN_THE_OPEN": planted.values["control"]},
    }
    by = {"BY_ENV": {"env": "OF_THE_SHELL"}, "BY_SECRET": {"secret": "planted", "key": "key"},
          "BY_FILE": {"file": "/vault/token"}}  # fmt: skip
    files = {"python_env.yaml": "dependencies: [-r requirements.txt]",
             "requirements.txt": f"--index-url {index}\ntiny==1\n"}  # fmt: skip
    nowhere = {**by, "NOWHERE": {"file": "/vault/none"}}
    login = {"MLFLOW_TRACKING_USERNAME": {"secret": "basic", "key": "user"},
             "MLFLOW_TRACKING_PASSWORD": {"secret": "basic", "key": "password"}}  # fmt: skip

    def call(uri: Path | str, **changes: Any) -> dict[str, Any]:
        config = k8s.config(**{"secrets": by, "infra_retries": 0, **vault, **changes})
        return {"uri": str(uri), "backend": "k8s", "backend_config": config}

    return {
        "succeeded": call(k8s.project(TELLS)),
        "failed": call(k8s.project(FAILS), tracking_uri=basic, secrets={**by, **login}),
        "eats": call(k8s.project(EATS), resources={"memory": "128Mi"}),
        "no source": call(
            git, source="git", git_image=k8s.cluster.image, git_secret="git-wrong"
        ),
        "no environment": call(k8s.project(TELLS, PYTHON_ENV, files)),
        "no secret": call(k8s.project(TELLS), secrets=nowhere),
        "cancelled": call(k8s.project(WAITS)),
    }


def search_cluster(k8s: K8sRuns, planted: Planted, runs: Mapping[str, str]) -> None:
    """Look through the objects of the runs, the namespace's events, and the pods' logs."""
    with k8s.cluster.api_client() as api:
        core, batch = client.CoreV1Api(api), client.BatchV1Api(api)
        lists = {
            "Job": batch.list_namespaced_job, "Pod": core.list_namespaced_pod,
            "ConfigMap": core.list_namespaced_config_map, "Event": core.list_namespaced_event,
        }  # fmt: skip
        for kind, listed in lists.items():
            planted.search(kind, listed(k8s.namespace, _preload_content=False).data)
        ours = core.list_namespaced_secret(k8s.namespace, label_selector="mlflow-exec/run-id")
        for secret in ours.items:
            metadata = json.dumps(api.sanitize_for_serialization(secret.metadata))
            planted.search("a Secret's metadata", metadata.encode())
            assert [owner.kind for owner in secret.metadata.owner_references] == ["Job"]
        for pod in core.list_namespaced_pod(k8s.namespace).items:
            if (pod.metadata.labels or {}).get("mlflow-exec/run-id") not in runs.values():
                continue
            for container in [*(pod.spec.init_containers or []), *pod.spec.containers]:
                with suppress(client.ApiException):  # one that never ran has no log
                    log = core.read_namespaced_pod_log(
                        pod.metadata.name, k8s.namespace, container=container.name,
                        _preload_content=False,
                    )  # fmt: skip
                    planted.search("a container's log", log.data)
    if k8s.cluster.ours is not None:
        folder = k8s.cluster.ours.slot.folder
        assert planted.search_files("the kubelet's files", [folder / "pod-logs"])
        for component in ("kubelet", "containerd"):
            planted.search(component, k8s.cluster.ours.log(component).read_bytes())


def delete_jobs(k8s: K8sRuns, runs: Mapping[str, str]) -> None:
    """Delete the Jobs, and wait for their Secrets to be gone with them."""
    selector = f"mlflow-exec/run-id in ({','.join(runs.values())})"
    with k8s.cluster.api_client() as api:
        core, batch = client.CoreV1Api(api), client.BatchV1Api(api)
        batch.delete_collection_namespaced_job(
            k8s.namespace, label_selector=selector, propagation_policy="Background"
        )
        until(
            lambda: not core.list_namespaced_secret(k8s.namespace, label_selector=selector).items,
            "the Secrets go with their Jobs",
            120,
        )


def test_no_planted_secret_is_found_in_anything_that_jobs_leave(
    k8s: K8sRuns, tmp_path_factory: pytest.TempPathFactory
) -> None:
    planted, name = Planted(), str(k8s.cluster.node_ip)
    planted.plant("control")
    token = planted.plant("tracking token", "-")
    pair = f"someone:{planted.plant('tracking password', '-')}"
    basic = "Basic " + base64.b64encode(pair.encode()).decode()
    folder = tmp_path_factory.mktemp("planted")
    repositories = tmp_path_factory.mktemp("planted-git")
    with (
        asking_for(f"Bearer {token}", k8s.server.url, "0.0.0.0", name) as by_token,
        asking_for(basic, k8s.server.url, "0.0.0.0", name) as by_password,
        git_server(repositories, name) as git,
    ):
        git.commit("p.git", k8s.project(""))
        git.password = planted.plant("password of the own git", "-")
        made = calls(k8s, planted, f"{git.url}/p.git", by_password)
        shell = {
            "MLFLOW_TRACKING_URI": by_token,
            "MLFLOW_TRACKING_TOKEN": token,
            "OF_THE_SHELL": planted.plant("of the shell"),
            "GIT_CONFIG_COUNT": "1",
            "GIT_CONFIG_KEY_0": "credential.helper",
            "GIT_CONFIG_VALUE_0": f"!echo username=u; echo password={git.password}; :",
        }
        runs = submitted_by_a_client(folder, made, k8s.environment(**shell), planted)
    for kind, run_id in runs.items():
        tags = k8s.server.tags(run_id)
        ended = (tags["mlflow_exec.state"], tags.get("mlflow_exec.failure.category", ""))
        assert ended == ENDS[kind], f"{kind}: {tags}"
        planted.search_run(k8s.server, run_id, folder)
    search_cluster(k8s, planted, runs)
    planted.assert_unseen("control")
    seen = planted.places("control")
    for place in ("Job", "Pod", "a container's log", "an artifact: mlflow-exec/log.txt",
                  "an artifact: mlflow-exec/manifest.yaml", "the client's stdout"):  # fmt: skip
        assert place in seen, "the search itself does not look there"
    if k8s.cluster.ours is not None:
        assert "the kubelet's files" in seen
    delete_jobs(k8s, runs)

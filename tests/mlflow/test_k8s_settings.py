"""Settings that shape the Job, seen from inside of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client

from tests.mlflow.k8s_runs import K8sRuns

TELL = """
import json, os, pathlib
print("TOLD " + json.dumps({"env": dict(os.environ), "cgroups": open("/proc/self/cgroup").read(),
      "volume": sorted(p.name for p in pathlib.Path("/scratch").glob("*"))}))
"""


def told(k8s: K8sRuns, run_id: str) -> dict[str, Any]:
    """Return what the job said of itself."""
    found: dict[str, Any] = json.loads(k8s.log(run_id).split("TOLD ", 1)[1].splitlines()[0])
    return found


def test_secrets_are_references(k8s: K8sRuns, monkeypatch: pytest.MonkeyPatch) -> None:
    value = "s3cret'\"$(X)\nline 🦊"
    monkeypatch.setenv("MY_TOKEN", value)
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "tracking-s3cret")
    with k8s.cluster.api_client() as api:
        client.CoreV1Api(api).create_namespaced_secret(
            k8s.namespace, {"metadata": {"name": "hf"}, "stringData": {"token": value}}
        )
    secrets = {"HF_TOKEN": {"secret": "hf", "key": "token"}, "MY_TOKEN": {"env": "MY_TOKEN"}}
    program = """
import os
for name in ("HF_TOKEN", "MY_TOKEN", "MLFLOW_TRACKING_TOKEN"):
    print(name, len(os.environ[name].encode()), hash(os.environ[name]) == hash(WANTED[name]))
"""
    wanted = {"HF_TOKEN": value, "MY_TOKEN": value, "MLFLOW_TRACKING_TOKEN": "tracking-s3cret"}
    encoded = {name: text.encode().hex() for name, text in wanted.items()}
    decode = f"WANTED = {{k: bytes.fromhex(v).decode() for k, v in {encoded!r}.items()}}"
    submitted = k8s.run(k8s.project(decode + program), secrets=secrets)
    run = k8s.ends(submitted, "SUCCEEDED")
    log = k8s.log(run.info.run_id)
    assert log.count(" True") == 3, log
    artifacts = [k8s.artifact(run.info.run_id, name) for name in ("manifest.yaml", "diagnosis.json",
                                                                  "settings.json")]  # fmt: skip
    everything = "".join([*artifacts, log, json.dumps(dict(run.data.tags))])
    assert "s3cret" not in everything
    with k8s.cluster.api_client() as api:
        job = client.BatchV1Api(api).read_namespaced_job(submitted.handle.name, k8s.namespace)
        files = client.CoreV1Api(api).read_namespaced_config_map(
            submitted.handle.name, k8s.namespace
        )
    assert "s3cret" not in f"{job} {files}"


def test_a_patch_and_further_settings(k8s: K8sRuns) -> None:
    patch = {"spec": {"template": {"spec": {
        "containers": [{"name": "job", "env": [{"name": "PATCHED", "value": "yes"}]}],
    }}}}  # fmt: skip
    submitted = k8s.run(
        k8s.project(TELL),
        env={"PLAIN": "$(HOME) $HOME"},
        patch=patch,
        volumes=[{"name": "scratch", "emptyDir": {}}],
        volume_mounts=[{"name": "scratch", "mountPath": "/scratch/inner"}],
        labels={"team": "a"},
        annotations={"note": "a: b"},
    )
    run = k8s.ends(submitted, "SUCCEEDED")
    seen = told(k8s, run.info.run_id)
    assert seen["env"]["PLAIN"] == "$(HOME) $HOME"
    assert seen["env"]["PATCHED"] == "yes"
    assert seen["volume"] == ["inner"]
    with k8s.cluster.api_client() as api:
        job = client.BatchV1Api(api).read_namespaced_job(submitted.handle.name, k8s.namespace)
    for metadata in (job.metadata, job.spec.template.metadata):
        assert metadata.labels["team"] == "a"
        assert metadata.annotations["note"] == "a: b"


def test_a_template_and_a_patch_of_ones_own(k8s: K8sRuns, tmp_path: Path) -> None:
    builtin = Path(__file__).parents[2] / "deploy_templates/kubernetes/job.yaml.j2"
    template = tmp_path / "mine.yaml.j2"
    template.write_text(builtin.read_text().replace("spec:\n", "spec:\n  # mine\n", 1))
    patch = tmp_path / "patch.yaml"
    patch.write_text("spec: {template: {metadata: {labels: {from: a-file}}}}")
    submitted = k8s.run(k8s.project(""), template=str(template), patch=str(patch))
    run = k8s.ends(submitted, "SUCCEEDED")
    assert "from: a-file" in k8s.artifact(run.info.run_id, "manifest.yaml")


def test_a_configuration_of_mlflows_own_backend(k8s: K8sRuns, tmp_path: Path) -> None:
    template = tmp_path / "kubernetes_job_template.yaml"
    template.write_text("""
apiVersion: batch/v1
kind: Job
metadata: {name: "{replaced with MLflow Project name}", namespace: elsewhere, labels: {kept: "1"}}
spec:
  ttlSecondsAfterFinished: 100
  backoffLimit: 0
  template:
    spec:
      containers:
        - name: "{replaced with MLflow Project name}"
          image: "{replaced with URI of Docker image}"
          command: ["{replaced with MLflow Project entry point command}"]
          env: [{name: FROM_TEMPLATE, value: "1"}]
          resources: {limits: {memory: 512Mi}, requests: {memory: 256Mi}}
      restartPolicy: Never
""")
    config = k8s.config() | {
        "kube-context": k8s.cluster.context,
        "kube-job-template-path": str(template),
        "repository-uri": "registry.invalid/mlflow",
    }
    del config["context"]
    submitted = k8s.run(k8s.project(TELL), config=config)
    run = k8s.ends(submitted, "SUCCEEDED")
    assert told(k8s, run.info.run_id)["env"]["FROM_TEMPLATE"] == "1"
    assert submitted.handle.path[0] == k8s.namespace
    text = k8s.artifact(run.info.run_id, "manifest.yaml")
    assert "memory: 512Mi" in text
    assert "kept: '1'" in text


def test_the_image_and_environment_of_docker_env(
    k8s: K8sRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COPIED", "from here")
    mlproject = f"""
name: docker
docker_env:
  image: {k8s.cluster.image}
  environment: ["COPIED", ["SET", "there"]]
entry_points: {{main: {{command: python3 main.py}}}}
"""
    run = k8s.ends(k8s.run(k8s.project(TELL, mlproject), image=None), "SUCCEEDED")
    env = told(k8s, run.info.run_id)["env"]
    assert (env["COPIED"], env["SET"]) == ("from here", "there")

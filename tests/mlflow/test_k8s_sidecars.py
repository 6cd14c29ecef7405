"""Jobs beside a sidecar that starts before them and runs on, such as one of a service mesh."""

from __future__ import annotations

import json
from typing import Any

from mlflow_exec.testing.collecting import Collected
from tests.mlflow.k8s_runs import WAIT, K8sRuns

ENDLESS = "echo the mesh is here; trap 'exit 3' TERM; while :; do sleep 0.1; done"


def sidecar(image: str) -> dict[str, Any]:
    """Return a patch that adds one, as Kubernetes 1.29 and later have them."""
    mesh = {"name": "mesh", "image": image, "imagePullPolicy": "IfNotPresent",
            "restartPolicy": "Always", "command": ["sh", "-c", ENDLESS]}  # fmt: skip
    return {"spec": {"template": {"spec": {"initContainers": [mesh]}}}}


def test_the_log_is_the_jobs_while_it_runs_and_after(k8s: K8sRuns) -> None:
    job = k8s.run(k8s.project(WAIT), patch=sidecar(k8s.cluster.image))
    lines = Collected(job.logs(follow=True))
    lines.until(lambda pieces: "it waits" in "".join(pieces), "its own output is followed")
    job.cancel()
    k8s.ends(job, "CANCELLED")
    assert "the mesh is here" not in k8s.log(job.run_id) + "".join(lines.all())


def test_the_failure_is_the_jobs_and_not_that_of_the_sidecar(k8s: K8sRuns) -> None:
    job = k8s.run(k8s.project("raise SystemExit(7)"), patch=sidecar(k8s.cluster.image))
    run = k8s.ends(job, "FAILED", "user_error")
    assert "code 7" in run.data.tags["mlflow_exec.failure.message"]
    assert json.loads(k8s.artifact(job.run_id, "diagnosis.json"))["exit_code"] == 7
    assert run.data.tags["mlflow_exec.log.complete"] == "true"


def test_an_image_that_is_missing_is_told_though_the_sidecar_runs(k8s: K8sRuns) -> None:
    patch = sidecar(k8s.cluster.image)
    missing = "registry.invalid/there-is/none:1"
    job = k8s.run(k8s.project(""), patch=patch, image=missing, start_timeout_s=20)
    run = k8s.ends(job, "FAILED", "image_pull")
    assert missing in run.data.tags["mlflow_exec.failure.message"]

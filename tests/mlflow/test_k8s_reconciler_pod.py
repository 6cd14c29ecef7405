"""The reconciler that runs in the cluster, with the rights of its rendered Role and no others."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest
import yaml
from kubernetes import client, utils

from mlflow_exec.testing.collecting import until
from tests.mlflow.k8s_runs import WAIT, K8sRuns
from tests.mlflow.test_k8s_reconcile import delete_job

OBJECTS = {
    "ServiceAccount": (client.CoreV1Api, "service_account"),
    "Role": (client.RbacAuthorizationV1Api, "role"),
    "RoleBinding": (client.RbacAuthorizationV1Api, "role_binding"),
    "CronJob": (client.BatchV1Api, "cron_job"),
}


@dataclass
class Reconciler:
    """What `mlflow-exec render reconciler` prints, applied."""

    k8s: K8sRuns
    name: str
    objects: list[dict[str, Any]]

    def apply(self) -> None:
        """Create the objects, as `kubectl apply` does."""
        with self.k8s.cluster.api_client() as api:
            for item in self.objects:
                utils.create_from_dict(api, item)

    def remove(self) -> None:
        """Delete the objects."""
        with self.k8s.cluster.api_client() as api:
            for item in reversed(self.objects):
                group, kind = OBJECTS[item["kind"]]
                delete = getattr(group(api), f"delete_namespaced_{kind}")
                with suppress(client.ApiException):
                    delete(item["metadata"]["name"], item["metadata"]["namespace"])

    def passes(self) -> tuple[bool, str]:
        """Start a pass at once, as `kubectl create job --from` does; return how it ended."""
        name = f"{self.name}-{uuid.uuid4().hex[:6]}"
        [cron_job] = [item for item in self.objects if item["kind"] == "CronJob"]
        body = {"metadata": {"name": name}, **cron_job["spec"]["jobTemplate"]}
        body["metadata"] = {**body["metadata"], "name": name}
        namespace = self.k8s.namespace
        with self.k8s.cluster.api_client() as api:
            batch, core = client.BatchV1Api(api), client.CoreV1Api(api)
            batch.create_namespaced_job(namespace, body)

            def end() -> str:
                status = batch.read_namespaced_job(name, namespace).status
                found = [c.type for c in status.conditions or [] if c.status == "True"]
                return next((kind for kind in found if kind in ("Complete", "Failed")), "")

            ended = until(end, "the pass is over", 240)
            chosen = f"batch.kubernetes.io/job-name={name}"
            [pod] = core.list_namespaced_pod(namespace, label_selector=chosen).items
            text: str = core.read_namespaced_pod_log(pod.metadata.name, namespace)
            batch.delete_namespaced_job(name, namespace, propagation_policy="Background")
        return ended == "Complete", text


@pytest.fixture
def applied(k8s: K8sRuns, mlflow_exec_image: str) -> Iterator[Callable[..., Reconciler]]:
    """Renders a reconciler by the command line and applies it; settings by name."""
    made: list[Reconciler] = []

    def make(**settings: Any) -> Reconciler:
        name = f"reconciler-{uuid.uuid4().hex[:6]}"
        config = {
            "name": name,
            "namespace": k8s.namespace,
            "image": mlflow_exec_image,
            "tracking_uri": k8s.server.url,
            "schedule": "0 0 1 1 *",  # the tests say when
            **settings,
        }
        command = k8s.command_line("mlflow-exec", "render", "reconciler", "-c", json.dumps(config))
        out, err = command.communicate(timeout=120)
        assert command.returncode == 0, err
        made.append(Reconciler(k8s, name, list(yaml.safe_load_all(out))))
        made[-1].apply()
        return made[-1]

    yield make
    for reconciler in made:
        reconciler.remove()


def actions(text: str) -> dict[str, str]:
    """Return what a pass said that it did with runs without an end, by run."""
    found = (re.match(r"([0-9a-f]{32})  (\w+)", line) for line in text.splitlines())
    # Other tests leave runs whose jobs wrote their own end, and nobody has waited for.
    return {line[1]: line[2] for line in found if line and line[2] != "kept"}


def test_runs_whose_jobs_ended_unseen_are_ended(
    k8s: K8sRuns, applied: Callable[..., Reconciler]
) -> None:
    nowhere = f"{k8s.server.url}/elsewhere"  # the job cannot write its end there
    late = k8s.run(k8s.project(WAIT), deadline_s=6)
    unheard = k8s.run(k8s.project("print('nobody hears')"), tracking_uri=nowhere)
    waiting = k8s.run(k8s.project(WAIT))
    deleted = k8s.run(k8s.project(WAIT))  # the last, which is the first to be looked at
    for submitted in (deleted, waiting):
        k8s.says(submitted, "it waits")
    delete_job(k8s, deleted)
    k8s.state_becomes(late, "FAILED")
    k8s.state_becomes(unheard, "SUCCEEDED")

    well, said = applied().passes()
    assert well, said
    assert actions(said) == dict.fromkeys([late.run_id, unheard.run_id, deleted.run_id], "ended")
    k8s.ends(late, "FAILED", "deadline")
    assert "it waits" in k8s.log(late.run_id)
    k8s.ends(deleted, "FAILED", "lost")
    k8s.ends(unheard, "SUCCEEDED")
    assert "nobody hears" in k8s.log(unheard.run_id), "the pod's log was read by the reconciler"
    run = k8s.mlflow.get_run(waiting.run_id)
    assert (run.info.status, run.data.tags["mlflow_exec.state"]) == ("RUNNING", "RUNNING")
    waiting.cancel()


def test_without_any_job_left_only_the_clusters_identity_decides(
    k8s: K8sRuns, applied: Callable[..., Reconciler]
) -> None:
    deleted = k8s.run(k8s.project(WAIT))
    k8s.says(deleted, "it waits")
    delete_job(k8s, deleted)

    well, said = applied().passes()
    assert (well, actions(said)) == (False, {deleted.run_id: "unknown"}), said
    assert "read_cluster_id" in said
    assert k8s.mlflow.get_run(deleted.run_id).info.status == "RUNNING"

    other = k8s.mlflow.create_run(k8s.experiment_id).info.run_id
    handle = f"k8s://{uuid.uuid4()}/{k8s.namespace}/mlflow-{other}-1"
    tags = {"backend": "k8s", "handle": handle, "handle.uid": str(uuid.uuid4()), "state": "QUEUED"}
    for key, value in tags.items():
        k8s.mlflow.set_tag(other, f"mlflow_exec.{key}", value)

    well, said = applied(read_cluster_id=True).passes()
    k8s.mlflow.set_terminated(other)
    k8s.mlflow.set_tag(other, "mlflow_exec.state", "CANCELLED")  # open no more for other tests
    assert well, said
    assert actions(said) == {deleted.run_id: "ended", other: "elsewhere"}
    k8s.ends(deleted, "FAILED", "lost")

"""Whatever goes wrong with a job, its run ends by itself and says what it was.

All jobs are submitted at once, each is followed, and the tests look at one end after the other.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from kubernetes import client

from mlflow_exec.runs.submitted import ExecSubmittedRun
from mlflow_exec.testing.collecting import Collected, until
from tests.mlflow.interventions import (
    HELD,
    delete_pod,
    evict,
    exchange_artifact,
    exchange_configmap,
    left_behind,
    pod,
    release,
    start_deleting,
)
from tests.mlflow.k8s_runs import WAIT, K8sRuns
from tests.mlflow.registry_server import MARK, Registry, registry_server

EATS = "print('last words', flush=True); x = [bytearray(b'x' * (8 << 20)) for _ in range(999)]"
RUNS = "print('it ran')"


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong, and what its run has to say.

    Attributes:
        category: Of the failure; empty for a job that is CANCELLED.
        says: A pattern that the message has.
        hint: A pattern that the hint has.
        settings: Of the submission.
        program: What the job runs.
        befalls: What happens to the job once it is there.
        once_it_runs: Whether that needs the program to run before.
    """

    category: str
    says: str
    hint: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    program: str = RUNS
    befalls: Callable[[K8sRuns, ExecSubmittedRun], None] | None = None
    once_it_runs: bool = False


def secret_vanishes(k8s: K8sRuns, submitted: ExecSubmittedRun) -> None:
    """Delete the Secrets that the check has seen, before a node has taken the pod."""
    with k8s.cluster.api_client() as api:
        name = submitted.settings.labels["needs"]  # type: ignore[attr-defined]
        client.CoreV1Api(api).delete_namespaced_secret(name, k8s.namespace)
    release(k8s, submitted)


def artifact_changes(k8s: K8sRuns, submitted: ExecSubmittedRun) -> None:
    exchange_artifact(k8s, submitted)
    release(k8s, submitted)


def configmap_changes(k8s: K8sRuns, submitted: ExecSubmittedRun) -> None:
    exchange_configmap(k8s, submitted)
    release(k8s, submitted)


def faults(registry: Registry, full: str) -> dict[str, Fault]:
    """Return what goes wrong, by name.

    Args:
        registry: Where images come from, or do not.
        full: A namespace without room.
    """
    return {
        "too little memory": Fault(
            "out_of_memory", "memory", "memory", {"resources": {"memory": "64Mi"}}, EATS),
        "an image that the registry does not have": Fault(
            "image_pull", "none/such:1.*not found", "name and tag",
            {"image": registry.image("none/such"), "image_pull_grace_s": 1}),
        "an image that needs credentials": Fault(
            "image_pull", "private/x:1.*401", "image_pull_secrets",
            {"image": registry.image("private/x"), "image_pull_grace_s": 1}),
        "a registry that limits for too long": Fault(
            "infrastructure", r"start_timeout_s \(15 s\): .*limits how often.*429", "mirror",
            {"image": registry.image("has/limits"), "image_pull_grace_s": 1,
             "start_timeout_s": 15}),
        "a node that there is not": Fault(
            "unschedulable", r"queue_timeout_s \(1 s\)", "node_selector",
            {"node_selector": {"none": "such"}, "queue_timeout_s": 1}),
        "a service account that is gone": Fault(
            "invalid_config", r"start_timeout_s \(2 s\): .*service account.*not found", "names",
            {"service_account": "short-lived", "start_timeout_s": 2}),
        "a Secret that is gone": Fault(
            "invalid_config", r"start_timeout_s \(12 s\): .*secret \"env\" not found", "names",
            {"secrets": {"TOKEN": {"secret": "env", "key": "k"}}, "patch": HELD,
             "labels": {"needs": "env"}, "start_timeout_s": 12}, befalls=secret_vanishes),
        "a Secret to mount that is gone": Fault(
            "invalid_config", r"start_timeout_s \(12 s\): .*secret \"mounted\" not found", "names",
            {"volumes": [{"name": "s", "secret": {"secretName": "mounted"}}], "patch": HELD,
             "volume_mounts": [{"name": "s", "mountPath": "/s"}],
             "labels": {"needs": "mounted"}, "start_timeout_s": 12}, befalls=secret_vanishes),
        "a quota that is used up": Fault(
            "quota", r"queue_timeout_s \(6 s\): .*exceeded quota: full", "quota raised",
            {"namespace": full, "queue_timeout_s": 6}),
        "a deadline": Fault(
            "deadline", "deadline_s", "deadline_s", {"deadline_s": 15}, WAIT),
        "one eviction too many": Fault(
            "evicted", "evicted.*Eviction API.*once.*allows 0", "infra_retries",
            {"infra_retries": 0}, WAIT, evict, once_it_runs=True),
        "a pod that somebody deletes": Fault(
            "infrastructure", "deleted.*once.*allows 0", "infra_retries",
            {"infra_retries": 0}, WAIT, delete_pod, once_it_runs=True),
        "a Job that somebody deletes": Fault(
            "", "", "", {}, WAIT, start_deleting, once_it_runs=True),
        "a project that was exchanged in the store": Fault(
            "source_fetch", "not the one that was submitted: its sha256", "Submit again",
            {"source": "artifact", "patch": HELD}, befalls=artifact_changes),
        "a project that was exchanged in the cluster": Fault(
            "source_fetch", "not the one that was submitted: its sha256", "Submit again",
            {"source": "configmap", "patch": HELD}, befalls=configmap_changes),
    }  # fmt: skip


NAMES = list(faults(Registry(""), ""))
FINDS_THE_MARK = f"print('the image is', open({MARK!r}).read())"
HAS_NO_SECRET = "import os; print('it has', os.environ.get('MAYBE'))"
OPTIONAL = {"spec": {"template": {"spec": {"containers": [{"name": "job", "env": [
    {"name": "MAYBE", "valueFrom": {"secretKeyRef": {"name": "x", "key": "k", "optional": True}}},
]}]}}}}  # fmt: skip


@dataclass
class Submitted:
    """The jobs of this module, all followed."""

    faults: dict[str, Fault]
    registry: Registry
    runs: dict[str, ExecSubmittedRun] = field(default_factory=dict)
    followers: list[Collected[bool]] = field(default_factory=list)

    def add(self, name: str, submitted: ExecSubmittedRun) -> None:
        """Follow a job as a user's process does."""
        self.runs[name] = submitted
        self.followers.append(Collected(submitted.wait() for _ in range(1)))


@pytest.fixture(scope="module")
def registry(
    module_k8s: K8sRuns, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Registry]:
    with registry_server(module_k8s.cluster, tmp_path_factory.mktemp("registry")) as served:
        served.limited |= {"has/limits", "has/recovered"}
        yield served


@pytest.fixture(scope="module")
def full_namespace(module_k8s: K8sRuns) -> Iterator[str]:
    """A namespace in which no pod has room."""
    quota = {"metadata": {"name": "full"}, "spec": {"hard": {"pods": "0"}}}
    with module_k8s.cluster.api_client() as api:
        core = client.CoreV1Api(api)
        name = f"mlflow-exec-test-full-{uuid.uuid4().hex[:8]}"
        core.create_namespace({"metadata": {"name": name}})
        until(lambda: core.list_namespaced_service_account(name).items, "its service account")
        core.create_namespaced_resource_quota(name, quota)
        until(lambda: core.read_namespaced_resource_quota("full", name).status.hard, "it counts")
        yield name
        core.delete_namespace(name)


@pytest.fixture(scope="module")
def submitted(module_k8s: K8sRuns, registry: Registry, full_namespace: str) -> Submitted:
    """Everything that goes wrong, at once."""
    k8s, jobs = module_k8s, Submitted(faults(registry, full_namespace), registry)
    with k8s.cluster.api_client() as api:
        core = client.CoreV1Api(api)
        for name in ("env", "mounted"):
            body = {"metadata": {"name": name}, "stringData": {"k": "v"}}
            core.create_namespaced_secret(k8s.namespace, body)
        account = {"metadata": {"name": "short-lived"}}
        core.create_namespaced_service_account(k8s.namespace, account)
        # What the cluster says of it counts for a while, for jobs of the same shape.
        account_name = jobs.faults["a service account that is gone"].settings["service_account"]
        before = k8s.run(k8s.project(RUNS), service_account=account_name, ttl_s=0)
        jobs.add("its predecessor", before)
        pod(k8s, jobs.runs["its predecessor"])
        core.delete_namespaced_service_account("short-lived", k8s.namespace)
    jobs.add("a registry that recovers", k8s.run(
        k8s.project(FINDS_THE_MARK), image=registry.image("has/recovered"), image_pull_grace_s=1,
        ttl_s=0))  # fmt: skip
    jobs.add("an optional Secret", k8s.run(k8s.project(HAS_NO_SECRET), patch=OPTIONAL, ttl_s=0))
    for name, fault in jobs.faults.items():
        jobs.add(name, k8s.run(k8s.project(fault.program), ttl_s=0, **fault.settings))
    for name, fault in jobs.faults.items():
        if fault.once_it_runs:
            k8s.says(jobs.runs[name], "it waits")
        if fault.befalls is not None:
            fault.befalls(k8s, jobs.runs[name])
    return jobs


@pytest.mark.parametrize("what", NAMES)
def test_a_fault_ends_the_run_with_its_reason(
    module_k8s: K8sRuns, submitted: Submitted, what: str
) -> None:
    k8s, fault, job = module_k8s, submitted.faults[what], submitted.runs[what]
    run = k8s.ends(job, "FAILED" if fault.category else "CANCELLED", fault.category)
    message = run.data.tags.get("mlflow_exec.failure.message", "")
    hint = run.data.tags.get("mlflow_exec.failure.hint", "")
    assert re.search(fault.says, message, re.S), message
    assert re.search(fault.hint, hint), hint
    assert "it ran" not in k8s.log(job.run_id)
    until(lambda: not left_behind(k8s, job), "nothing of it is left in the cluster")


def test_memory_is_no_fault_of_the_cluster(module_k8s: K8sRuns, submitted: Submitted) -> None:
    job = submitted.runs["too little memory"]
    run = module_k8s.ends(job, "FAILED", "out_of_memory")
    assert job.settings.infra_retries == 3
    assert run.data.tags["mlflow_exec.attempt"] == "1"
    assert module_k8s.log(job.run_id).count("last words") == 1


def test_a_job_waits_for_a_registry_that_limits_and_starts_when_it_does_not(
    module_k8s: K8sRuns, submitted: Submitted
) -> None:
    k8s, job = module_k8s, submitted.runs["a registry that recovers"]
    until(lambda: submitted.registry.turned_away["has/recovered"] > 1, "the node tries again")
    status = job.status()
    assert (status.state.value, status.held) == ("STARTING", True), status
    submitted.registry.limited.discard("has/recovered")
    k8s.ends(job, "SUCCEEDED")
    assert "the image is pulled" in k8s.log(job.run_id)


def test_an_optional_secret_that_is_not_there_is_none(
    module_k8s: K8sRuns, submitted: Submitted
) -> None:
    job = submitted.runs["an optional Secret"]
    module_k8s.ends(job, "SUCCEEDED")
    assert "it has None" in module_k8s.log(job.run_id)

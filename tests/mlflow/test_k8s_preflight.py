"""What the cluster is asked before anything is created, and what it answers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from kubernetes import client
from mlflow.exceptions import ExecutionException

from mlflow_exec.testing.collecting import until
from tests.mlflow.k8s_runs import WAIT, K8sRuns
from tests.mlflow.test_k8s_handles import colleague, entries, write_kubeconfig

DOCS = Path(__file__).resolve().parents[2] / "docs" / "kubernetes.md"
SECRET = {"secrets": {"API_TOKEN": {"secret": "api", "key": "token"}}}


def documented_rules() -> list[dict[str, Any]]:
    """Return the rules of the Role in the docs."""
    pattern = r"```yaml\n(apiVersion: rbac.*?kind: Role\n.*?)```"
    (block,) = re.findall(pattern, DOCS.read_text(), re.S)
    rules: list[dict[str, Any]] = yaml.safe_load(block)["rules"]
    return rules


EVERY_RIGHT = [
    (verb, resource)
    for rule in documented_rules()
    for resource in rule["resources"]
    for verb in rule["verbs"]
]


def without(verb: str, resource: str) -> list[dict[str, Any]]:
    """Return the documented rules with one verb less."""
    rules = []
    for rule in documented_rules():
        granted = rule["verbs"]
        for name in rule["resources"]:
            verbs = [v for v in granted if (v, name) != (verb, resource)]
            if verbs:
                rule = {"apiGroups": rule["apiGroups"], "resources": [name], "verbs": verbs}
                rules.append(rule)
    return rules


def user(k8s: K8sRuns, rules: list[dict[str, Any]], folder: Path) -> dict[str, Any]:
    """Make a user with these rights; return the settings with which that user submits."""
    name, token = colleague(k8s, rules)
    cluster, _ = entries(k8s.cluster.kubeconfig, k8s.cluster.context)
    file = write_kubeconfig(folder / name, "here", {"here": (cluster, {"token": token})})
    return {"kubeconfig": str(file), "context": "here"}


def warned(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_the_documented_role_is_all_that_is_needed(k8s: K8sRuns, tmp_path: Path) -> None:
    theirs = user(k8s, documented_rules(), tmp_path)
    k8s.ends(k8s.run(k8s.project("print('done')"), **theirs), "SUCCEEDED")
    waits = k8s.run(k8s.project(WAIT), **theirs)
    k8s.says(waits, "it waits")
    waits.cancel()
    k8s.ends(waits, "CANCELLED")


@pytest.mark.parametrize(("verb", "resource"), EVERY_RIGHT)
def test_a_right_that_is_missing_is_named(
    k8s: K8sRuns,
    tmp_path: Path,
    verb: str,
    resource: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t0ken")  # it travels in a Secret
    known = k8s.run_ids()
    theirs = user(k8s, without(verb, resource), tmp_path)
    if (verb, resource) == ("list", "events"):  # the job runs all the same
        k8s.ends(k8s.run(k8s.project(""), **theirs), "SUCCEEDED")
        assert f"'{verb} {resource}' is missing" in warned(capsys)
        return
    with pytest.raises(ExecutionException, match=rf"missing: {verb} {resource}; ask for"):
        k8s.run(k8s.project(""), **theirs)
    assert k8s.run_ids() == known


REFUSED: Mapping[str, tuple[dict[str, Any], str]] = {
    "a service account that is not there": (
        {"service_account": "nobody"}, "service account 'nobody' does not exist",
    ),
    "a Secret that is not there": (
        {"secrets": {"X": {"secret": "none", "key": "k"}}}, "Secret 'none' does not exist",
    ),
    "a key that the Secret lacks": (
        {"secrets": {"X": {"secret": "there", "key": "k"}}},
        "Secret 'there' has no key 'k'; its keys: user",
    ),
    "a claim that is not there": (
        {"volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]},
        "PersistentVolumeClaim 'data' does not exist",
    ),
    "a priority class that is not there": (
        {"priority_class": "first"}, "no PriorityClass with name first was found",
    ),
    "a queue where there is no Kueue": (
        {"queue": "team"}, "the cluster has no Kueue",
    ),
    "a toleration that is none": (
        {"tolerations": [{"operator": "Sometimes"}]}, "Sometimes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_can_never_run_is_refused(k8s: K8sRuns, what: str) -> None:
    settings, message = REFUSED[what]
    with k8s.cluster.api_client() as api:
        core = client.CoreV1Api(api)
        secret = {"metadata": {"name": "there"}, "stringData": {"user": "u"}}
        core.create_namespaced_secret(k8s.namespace, secret)
        try:
            before = k8s.run_ids(), k8s.objects()
            with pytest.raises(ExecutionException, match=message):
                k8s.run(k8s.project(""), **settings)
            assert (k8s.run_ids(), k8s.objects()) == before
        finally:
            core.delete_namespaced_secret("there", k8s.namespace)


def test_what_is_only_full_now_is_a_warning_and_the_job_waits(
    k8s: K8sRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    with k8s.cluster.api_client() as api:
        core = client.CoreV1Api(api)
        quota = {"metadata": {"name": "full"}, "spec": {"hard": {"pods": "0"}}}
        core.create_namespaced_resource_quota(k8s.namespace, quota)
        until(
            lambda: core.read_namespaced_resource_quota("full", k8s.namespace).status.hard,
            "the quota counts",
        )
        try:
            submitted = k8s.run(k8s.project("print('at last')"), resources={"cpu": "77m"})
            assert "exceeded quota" in warned(capsys)
            until(lambda: "exceeded quota" in submitted.status().message, "the reason is told")
            assert submitted.status().state.value == "QUEUED"
        finally:
            core.delete_namespaced_resource_quota("full", k8s.namespace)
    k8s.ends(submitted, "SUCCEEDED")


def test_a_job_that_no_node_can_hold_is_told_so(
    k8s: K8sRuns, capsys: pytest.CaptureFixture[str]
) -> None:
    submitted = k8s.run(k8s.project(""), resources={"cpu": 5000})
    assert "no node can hold cpu 5000000m" in warned(capsys)
    k8s.state_becomes(submitted, "QUEUED")
    k8s.run(k8s.project(""), node_selector={"disk": "golden"})
    assert "no node has the labels" in warned(capsys)

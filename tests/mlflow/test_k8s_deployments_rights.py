"""Deployments by somebody who may do what the docs ask for, and nothing more."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlflow_exec.errors import AccessDeniedError
from mlflow_exec.releases import RolloutState
from mlflow_exec.settings import KubernetesTargetSettings
from mlflow_exec.targets.kubernetes import KubernetesTarget
from mlflow_exec.testing.served_models import BODY, JSON
from tests.mlflow.k8s_deployments import K8sDeployments
from tests.mlflow.test_k8s_handles import colleague, entries, write_kubeconfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "serving-kubernetes.md"


def documented_rules() -> list[dict[str, Any]]:
    """Return the rules of the Role in the docs."""
    block = re.search(r"```yaml\n(.*?kind: Role\n.*?)```", PAGE.read_text("utf-8"), re.S)
    assert block is not None
    rules: list[dict[str, Any]] = yaml.safe_load(block.group(1))["rules"]
    return rules


def kubeconfig_of(served: K8sDeployments, rules: list[dict[str, Any]]) -> Path:
    """Return the kubeconfig of somebody with these rights, in a context named as the cluster's."""
    cluster, _ = entries(served.cluster.kubeconfig, served.cluster.context)
    name, token = colleague(served, rules)
    context = served.cluster.context
    path = served.folder / f"{name}.kubeconfig"
    return write_kubeconfig(path, context, {context: (cluster, {"token": token})})


def test_the_documented_role_is_enough(
    served: K8sDeployments, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IRIS_TOKEN", "a-token-that-nobody-may-see")
    mine = {
        "kubeconfig": str(kubeconfig_of(served, documented_rules())),
        "token": {"env": "IRIS_TOKEN"},
        "resources": {"cpu": 0.1},
    }
    model = served.model(1)
    first = served.deploy("rights", model, 1, max_replicas=2, ingress_host="a.example", **mine)
    assert first.state is RolloutState.READY, first
    target = KubernetesTarget(KubernetesTargetSettings(**served.given(**mine)), served.uri)
    assert target.request("rights", "/ping", None, {}).status == 200
    answer = target.request("rights", "/invocations", BODY, JSON)
    assert json.loads(answer.body)["predictions"] == [1]
    assert all(finding.ok for finding in target.diagnose() if finding.subject == "rights")
    second = served.deploy("rights", model, 2, **mine)
    assert second.state is RolloutState.READY
    target.delete("rights")
    assert served.everything("rights") == []


def test_rights_that_are_missing_are_named_before_anything_is_made(
    served: K8sDeployments,
) -> None:
    fewer = [
        {**rule, "verbs": [verb for verb in rule["verbs"] if verb != "patch"]}
        if "deployments" in rule["resources"]
        else rule
        for rule in documented_rules()
    ]
    kubeconfig = str(kubeconfig_of(served, fewer))
    target, plan = served.plan("fewer", served.model(1), kubeconfig=kubeconfig)
    with pytest.raises(AccessDeniedError, match="these rights are missing: patch deployments;"):
        target.check(plan)
    assert served.everything("fewer") == []
    missing = next(finding for finding in target.diagnose() if finding.subject == "rights")
    assert not missing.ok
    assert "patch deployments" in missing.detail

"""Deployments on a real Kubernetes keep the contract of targets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from mlflow_exec.testing.deployments import DeploymentConformance


class TestDeploymentsOnKubernetes(DeploymentConformance):
    broken: ClassVar[Mapping[str, tuple[Mapping[str, Any], Mapping[str, str], str]]] = {
        **DeploymentConformance.broken,
        "more memory than it may take": (
            {"loading": "self.weights = bytes(bytearray(800 * 1024 * 1024))"},
            {"resources.memory": "600Mi"}, "out_of_memory.*more memory than its limit",
        ),
    }  # fmt: skip

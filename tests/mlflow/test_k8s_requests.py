"""How many requests things cost, counted where this process sends them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from benchmarks.reconcile import Size, World, excess, measure
from benchmarks.sent import sent
from mlflow_exec.clients.kubernetes_config import connect
from tests.mlflow.k8s_runs import K8sRuns

JOBS = 3


def test_a_job_costs_four_writing_requests_once_its_checks_are_known(
    k8s: K8sRuns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_TOKEN", "value")
    project = k8s.project("print('hello')")
    secrets: dict[str, Any] = {"secrets": {"A_TOKEN": {"env": "A_TOKEN"}}}
    k8s.run(project, {"alpha": 0}, **secrets)  # its preflight counts for all of this shape
    with sent("MainThread") as noted:  # watches of earlier tests may still live
        for _ in range(JOBS):
            k8s.run(project, {"alpha": 0}, **secrets)
    # The real Job controller writes to the same Jobs meanwhile: that costs no second try.
    path = "/apis/batch/v1/namespaces/*/jobs"
    assert noted.kinds(to_mlflow=False) == {
        f"POST {path}": JOBS,
        "POST /api/v1/namespaces/*/secrets": JOBS,
        "POST /api/v1/namespaces/*/configmaps": JOBS,
        f"PATCH {path}/*": JOBS,
    }
    ours = sum(noted.kinds(to_mlflow=True).values()) / JOBS
    assert ours <= 8, noted.kinds(to_mlflow=True)
    for submitted in k8s.submitted:
        k8s.ends(submitted, "SUCCEEDED")


def test_reconcile_asks_by_pages_and_for_the_runs_whose_jobs_have_ended(
    k8s: K8sRuns, namespace: str
) -> None:
    client = connect(k8s.cluster.context, str(k8s.cluster.kubeconfig))
    experiment = k8s.mlflow.create_experiment(namespace)
    world = World(client, namespace, k8s.server, experiment)
    asked: list[Counter[str]] = []
    for size, there in ((Size(12, 4), 0), (Size(40, 4), 8)):
        _, noted = measure(world, {"context": k8s.cluster.context}, size, there)
        assert excess(noted, size) == []
        asked.append(noted.kinds(to_mlflow=False) + noted.kinds(to_mlflow=True))
    few, many = asked
    assert few.keys() - many.keys() <= {"GET /api/3.0/mlflow/server-info"}
    assert all(many[kind] <= few[kind] for kind in many), "those that go on cost nothing"

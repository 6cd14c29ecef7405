"""The arithmetic of the benchmarks: what is counted, and what is too much."""

from __future__ import annotations

from benchmarks.figures import Figure
from benchmarks.reconcile import CLUSTER_REQUESTS, MLFLOW_REQUESTS, Size, excess
from benchmarks.sent import Request, Sent

RUN = "0123456789abcdef" * 2
JOBS = "/apis/batch/v1/namespaces/team/jobs"


def request(method: str, path: str) -> Request:
    return Request("host:1", method, path, 0.5)


def of_reconcile(size: Size, per_run: int = 0) -> Sent:
    """Return the requests of a reconciler that asks once for each page, or for each run too."""
    lists = [request("GET", JOBS), request("GET", "/api/v1/namespaces/team/pods")]
    pages = [*lists, request("POST", "/api/2.0/mlflow/runs/search")]
    job = request("PATCH", f"{JOBS}/mlflow-{RUN}-1")
    run = request("GET", "/api/2.0/mlflow/runs/get")
    ended = [job] * (CLUSTER_REQUESTS * size.ended) + [run] * (MLFLOW_REQUESTS * size.ended)
    return Sent([*pages, *ended, *[run] * (per_run * size.runs)])


def test_requests_are_told_apart_by_what_they_ask_for_not_by_names() -> None:
    noted = Sent([request("PATCH", f"{JOBS}/mlflow-{RUN}-{n}") for n in (1, 2)])
    noted.requests.append(request("GET", "/api/2.0/mlflow/runs/get"))
    noted.requests.append(request("PUT", f"/api/2.0/mlflow-artifacts/artifacts/0/{RUN}/a"))
    assert noted.kinds(to_mlflow=False) == {"PATCH /apis/batch/v1/namespaces/*/jobs/*": 2}
    assert sum(noted.kinds(to_mlflow=True).values()) == 2
    assert len(noted.writes()) == 2


def test_a_request_for_each_open_run_is_too_much() -> None:
    size = Size(400, 20)
    assert excess(of_reconcile(size), size) == []
    [found] = excess(of_reconcile(size, per_run=1), size)
    assert found.startswith("400 open, 20 ended: MLflow's other requests: 620")


def test_a_figure_keeps_its_limits() -> None:
    assert Figure(4, at_most=4).is_good
    assert not Figure(4.01, at_most=4).is_good
    assert not Figure(0.69, at_least=0.7).is_good
    assert (Figure(1).limit, Figure(1, at_least=0.7).limit) == ("", "≥ 0.7")

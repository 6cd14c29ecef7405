"""MLflow's client against a server that believes an OpenID Connect issuer."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from mlflow_exec.runs.diagnosis_sign_in import diagnose_sign_in
from tests.guarded_server import Guard, guarded
from tests.oidc.issuer import SECRET, TestIssuer, oidc_issuer
from tests.servers import mlflow_server


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestIssuer]:
    with oidc_issuer(tmp_path_factory.mktemp("issuer")) as found:
        yield found


@pytest.fixture(scope="module")
def server(issuer: TestIssuer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guard]:
    folder = tmp_path_factory.mktemp("believing")
    with mlflow_server(folder) as behind, guarded(issuer.knows, behind.url) as guard:
        yield guard


@pytest.fixture
def client(
    issuer: TestIssuer, server: Guard, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MlflowClient]:
    for name, value in {
        "MLFLOW_TRACKING_AUTH": "mlflow-exec",
        "MLFLOW_EXEC_AUTH": "oidc",
        "MLFLOW_EXEC_AUTH_ISSUER": issuer.url,
        "MLFLOW_EXEC_AUTH_CLIENT_ID": "machine",
        "MLFLOW_EXEC_AUTH_CLIENT_SECRET": SECRET,
        "MLFLOW_TRACKING_URI": server.url,
    }.items():
        monkeypatch.setenv(name, value)
    server.seen.clear()
    yield MlflowClient()
    issuer.let_tokens_live(3600)


def test_a_run_of_many_threads_outlives_its_tokens_without_one_refusal(
    client: MlflowClient, issuer: TestIssuer, server: Guard, tmp_path: Path
) -> None:
    issuer.let_tokens_live(5)
    file = tmp_path / "artifact.bin"
    file.write_bytes(b"x" * 1_000_000)
    refused: list[str | None] = []

    def accepts(given: str | None) -> bool:
        if issuer.knows(given):
            return True
        refused.append(given)
        return False

    server.accepts = accepts
    run_id = client.create_run("0").info.run_id
    began, failed = time.monotonic(), []

    def work(number: int) -> None:
        try:
            step = 0
            while time.monotonic() < began + 7:
                client.log_metric(run_id, f"m{number}", step, step=step)
                step += 1
            client.log_artifact(run_id, str(file), f"of-{number}")
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert not refused
    assert 3 <= len(set(server.sent)) <= 5, "one token for all threads, and in time the next one"
    assert len(client.list_artifacts(run_id)) == 4


def test_a_token_that_is_revoked_in_between_is_replaced(
    client: MlflowClient, issuer: TestIssuer, server: Guard
) -> None:
    server.accepts = issuer.knows
    run_id = client.create_run("0").info.run_id
    gone = str(server.sent[-1])
    server.accepts = lambda given: given != gone and issuer.knows(given)
    client.log_metric(run_id, "m", 1)
    assert client.get_run(run_id).data.metrics == {"m": 1}
    assert server.sent[-3] == gone != server.sent[-2] == server.sent[-1]


def test_doctor_gets_a_token(client: MlflowClient, issuer: TestIssuer, server: Guard) -> None:
    flow, credential = diagnose_sign_in()
    assert flow.detail == (
        f"oidc from variable MLFLOW_EXEC_AUTH, for the tracking server (127.0.0.1:{server.port})"
    )
    assert credential.ok
    assert credential.detail.startswith(f"from oidc: {issuer.url}; it expires at ")
    assert mlflow.get_tracking_uri() == server.url

"""A tracking token that is renewed in its file while the job runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from mlflow_exec.runtime.job_order import SecretSource
from mlflow_exec.runtime.token_file import TokenFile, token_file
from mlflow_exec.runtime.tracking_server import RequestError, TrackingServer
from tests.guarded_server import Guard, guarded, takes
from tests.servers import until

FIRST, SECOND = "first-token-of-the-test", "second-token-of-the-test"


def unmasked(_: Iterable[str]) -> None:
    """Stand for a log that is not looked at."""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(FIRST + "\n")
    return path


@pytest.fixture
def guard() -> Iterator[Guard]:
    with guarded(takes(FIRST)) as server:
        yield server


def test_the_file_is_read_for_each_request_and_its_tokens_are_masked(
    file: Path, guard: Guard
) -> None:
    hidden: list[str] = []
    server = TrackingServer(guard.url, {"MLFLOW_TRACKING_TOKEN": "old"},
                            TokenFile(str(file), hidden.extend).read)  # fmt: skip
    server.api("GET", "runs/get")
    server.api("GET", "runs/get")
    file.write_text(SECOND)
    guard.accepts = takes(SECOND)
    server.api("GET", "runs/get")
    assert guard.sent == [f"Bearer {FIRST}"] * 2 + [f"Bearer {SECOND}"]
    assert hidden == [FIRST, SECOND]


def test_a_token_that_has_expired_is_waited_for_until_it_is_renewed(
    file: Path, guard: Guard
) -> None:
    guard.accepts = takes(SECOND)
    server = TrackingServer(guard.url, {}, TokenFile(str(file), unmasked).read)
    thread = threading.Thread(target=lambda: server.api("GET", "runs/get"))
    thread.start()
    until(lambda: len(guard.seen) > 1, "it is asked again")
    file.write_text(SECOND)
    thread.join(30)
    assert not thread.is_alive()
    assert guard.sent[-1] == f"Bearer {SECOND}"


def test_without_a_file_a_refusal_is_final(guard: Guard) -> None:
    with pytest.raises(RequestError, match="HTTP 401"):
        TrackingServer(guard.url, {"MLFLOW_TRACKING_TOKEN": "x"}).api("GET", "runs/get")
    assert len(guard.seen) == 1


def test_a_redirect_to_another_server_gets_no_token(file: Path, guard: Guard) -> None:
    with guarded(lambda _: True, visible_as="localhost") as other:
        guard.redirects = {"/api/2.0/mlflow/runs/get": f"{other.url}/away"}
        TrackingServer(guard.url, {}, TokenFile(str(file), unmasked).read).api("GET", "runs/get")
        assert other.sent == [None]


def test_which_tokens_are_renewed(file: Path) -> None:
    def found(environ: dict[str, str] | None = None, **sources: SecretSource) -> TokenFile | None:
        return token_file(sources, environ or {}, unmasked)

    renewed = found(MLFLOW_TRACKING_TOKEN=SecretSource(file=str(file)))
    assert renewed is not None
    assert renewed.path == str(file)
    basic = {"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"}
    assert found(basic, MLFLOW_TRACKING_TOKEN=SecretSource(file=str(file))) is None
    assert found(MLFLOW_TRACKING_TOKEN=SecretSource(file="staged-for-one-job")) is None
    assert found(MLFLOW_TRACKING_TOKEN=SecretSource(env="TOKEN")) is None
    assert found(OTHER=SecretSource(file=str(file))) is None


_USERS = """
import sys, mlflow, warnings
warnings.simplefilter("error")
client = mlflow.MlflowClient()
client.search_experiments()
print("asked", flush=True)
sys.stdin.readline()
client.search_experiments()
try:
    mlflow.MlflowClient(sys.argv[1]).search_experiments()
except Exception as error:
    print(type(error).__name__)
"""


def test_mlflow_in_the_job_reads_the_file_too_and_nothing_is_installed_for_it(
    file: Path, guard: Guard, tmp_path: Path
) -> None:
    given = TokenFile(str(file), unmasked)
    env = {**os.environ, "MLFLOW_TRACKING_URI": guard.url, "PYTHONPATH": "/elsewhere",
           "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0"}  # fmt: skip
    env = given.for_mlflow(env, str(tmp_path))
    assert env["PYTHONPATH"] == f"{tmp_path}/sign-in:/elsewhere"
    assert FIRST not in json.dumps(env)
    with guarded(lambda _: True) as other:
        process = subprocess.Popen(
            [sys.executable, "-c", _USERS, other.url], env=env, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "asked\n"
        file.write_text(SECOND)
        guard.accepts = takes(SECOND)
        process.communicate("\n", timeout=60)
        assert process.returncode == 0
        assert other.sent == [None]
    assert guard.sent == [f"Bearer {FIRST}", f"Bearer {SECOND}"]


def test_a_provider_that_the_job_is_told_stays(file: Path, tmp_path: Path) -> None:
    told = {"MLFLOW_TRACKING_AUTH": "mlflow-exec"}
    assert TokenFile(str(file), unmasked).for_mlflow(told, str(tmp_path)) == told

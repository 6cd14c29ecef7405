"""A tracking token that is renewed in its file while the job runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from mlflow_exec.runtime.job_order import SecretSource
from mlflow_exec.runtime.token_file import TokenFile, token_file, with_sign_in
from mlflow_exec.runtime.tracking_server import RequestError, TrackingServer
from mlflow_exec.testing.collecting import until
from tests.guarded_server import Guard, guarded, takes
from tests.unit.runtime.job_in_cluster import Cluster

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


def test_a_provider_that_the_job_is_told_stays_where_it_is_installed(
    file: Path, tmp_path: Path
) -> None:
    token = TokenFile(str(file), unmasked)
    for choice in ("mlflow-exec", "somebody-elses"):  # mlflow-exec is, in this environment
        told = {**os.environ, "MLFLOW_TRACKING_AUTH": choice}
        assert with_sign_in(told, token, str(tmp_path), str(tmp_path)) == told


@pytest.fixture
def without_plugin(tmp_path: Path) -> dict[str, str]:
    """The variables of an environment that has all that this one has but mlflow-exec."""
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if "mlflow_exec" not in path.name:
            (packages / path.name).symlink_to(path)
    return {
        "PATH": f"{sys.base_prefix}/bin:/usr/bin:/bin",
        "PYTHONPATH": str(packages),
        "MLFLOW_TRACKING_AUTH": "mlflow-exec",
        "MLFLOW_EXEC_AUTH": "exec",
    }


_LOGS = "import mlflow\nwith mlflow.start_run(): mlflow.set_tag('by', 'the entry point')"


def test_a_job_without_the_plugin_signs_in_by_its_token_file_instead(
    cluster: Cluster, without_plugin: dict[str, str], file: Path
) -> None:
    renews = f"import pathlib; pathlib.Path({str(file)!r}).write_text({SECOND!r})"
    guard = guarded(lambda given: takes(file.read_text().strip())(given), cluster.server.url)
    with guard as server:
        order = cluster.order(f"{renews}\n{_LOGS}", tracking_uri=server.url)
        order["secrets"] = {"MLFLOW_TRACKING_TOKEN": {"file": str(file)}}
        finished = cluster.run(order, env=without_plugin)
    assert finished.code == 0, finished.text
    assert cluster.server.tags(order["run_id"])["by"] == "the entry point"


def test_a_job_that_would_go_on_without_a_credential_does_not_start(
    cluster: Cluster, without_plugin: dict[str, str]
) -> None:
    order = cluster.order(_LOGS)
    end = cluster.run(order, env=without_plugin).end
    assert end.category == "invalid_config"
    assert "the job's environment has mlflow without mlflow-exec" in end.message
    assert "'secrets': {MLFLOW_TRACKING_TOKEN: {file: PATH}}" in end.hint
    assert "by" not in cluster.server.tags(order["run_id"])


@pytest.mark.parametrize(
    "changes",
    [
        {"MLFLOW_TRACKING_TOKEN": "x"},
        {"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"},
    ],
    ids=["token", "password"],
)
def test_what_mlflow_takes_before_a_provider_needs_none(
    cluster: Cluster, without_plugin: dict[str, str], changes: dict[str, str]
) -> None:
    assert cluster.run(cluster.order("print(1)"), env={**without_plugin, **changes}).code == 0


def test_a_job_without_mlflow_needs_no_provider(cluster: Cluster) -> None:
    env = {"PATH": f"{sys.base_prefix}/bin:/usr/bin:/bin", "MLFLOW_TRACKING_AUTH": "mlflow-exec"}
    assert cluster.run(cluster.order("print(1)"), env=env).code == 0

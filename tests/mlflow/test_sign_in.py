"""MLflow's client signs in by our provider: against its own server with users, and others."""

from __future__ import annotations

import ast
import base64
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.abstract_context import RunContextProvider
from mlflow.tracking.request_auth.abstract_request_auth_provider import RequestAuthProvider
from mlflow.tracking.request_header.abstract_request_header_provider import RequestHeaderProvider

from mlflow_exec.plugins.request_auth import ExecRequestAuthProvider
from mlflow_exec.plugins.request_header import ExecRequestHeaders
from mlflow_exec.plugins.run_context import ExecRunContext
from mlflow_exec.runs.diagnosis_sign_in import diagnose_sign_in
from tests.guarded_server import guarded, takes
from tests.servers import MlflowServer, mlflow_server

FIRST, SECOND = "first-password-of-the-test", "second-password-of-the-test"


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """MLflow's own server with users, one of which is `me`."""
    folder = tmp_path_factory.mktemp("users")
    ini = folder / "auth.ini"
    ini.write_text(
        "[mlflow]\ndefault_permission = MANAGE\n"
        f"database_uri = sqlite:///{folder}/users.db\n"
        f"admin_username = me\nadmin_password = {FIRST}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    env = {"MLFLOW_AUTH_CONFIG_PATH": str(ini), "MLFLOW_FLASK_SERVER_SECRET_KEY": "of-the-test"}
    with mlflow_server(folder, environment=env, app="basic-auth") as server:
        yield server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server that believes whoever it lets in."""
    with mlflow_server(tmp_path_factory.mktemp("open")) as found:
        yield found


@pytest.fixture
def signed_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """MLflow asks our provider; the test names the flow."""
    monkeypatch.setenv("MLFLOW_TRACKING_AUTH", "mlflow-exec")
    monkeypatch.setenv("MLFLOW_EXEC_AUTH_CONFIG", str(tmp_path / "auth.yaml"))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return monkeypatch


def use(patch: pytest.MonkeyPatch, url: str, flow: str, **settings: object) -> MlflowClient:
    patch.setenv("MLFLOW_TRACKING_URI", url)
    patch.setenv("MLFLOW_EXEC_AUTH", flow)
    for name, value in settings.items():
        patch.setenv(f"MLFLOW_EXEC_AUTH_{name.upper()}", str(value))
    return MlflowClient(url)


def test_a_password_that_is_changed_in_its_file_is_used_at_once(
    users: MlflowServer, signed_in: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    password = tmp_path / "password"
    password.write_text(FIRST)
    client = use(signed_in, users.url, "basic-file", username="me", password_file=password)
    experiment = client.create_experiment("signed in")
    run_id = client.create_run(experiment).info.run_id
    changed = requests.patch(
        f"{users.url}/api/2.0/mlflow/users/update-password",
        json={"username": "me", "current_password": FIRST, "password": SECOND}, auth=("me", FIRST),
    )  # fmt: skip
    assert changed.status_code == 200, changed.text
    with pytest.raises(MlflowException, match="401"):
        client.log_metric(run_id, "m", 1)
    password.write_text(SECOND)
    client.log_metric(run_id, "m", 2)
    assert client.get_run(run_id).data.metrics == {"m": 2}


def test_a_run_with_artifacts_goes_on_over_a_token_that_is_refused_in_between(
    server: MlflowServer, signed_in: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    token, file = tmp_path / "token", tmp_path / "artifact.bin"
    token.write_text("token-0")
    file.write_bytes(b"x" * 3_000_000)
    with guarded(takes("token-0"), server.url) as guard:
        client = use(signed_in, guard.url, "token-file", token_file=token)
        run_id = client.create_run("0").info.run_id
        for number in range(1, 4):
            # Each token is refused once the next one is there.
            before, now = f"Bearer token-{number - 1}", f"Bearer token-{number}"

            def accepts(given: str | None, before: str = before, now: str = now) -> bool:
                if given == before:
                    token.write_text(now.partition(" ")[2])
                return given == now

            guard.accepts = accepts
            client.log_artifact(run_id, str(file))
            client.log_metric(run_id, "m", number)
        assert client.list_artifacts(run_id)[0].file_size == 3_000_000
        assert client.get_run(run_id).data.metrics == {"m": 3}
        puts = [item for item in guard.seen if item.method == "PUT"]
        # The first refusal met the question for the run.
        assert [len(item.body) for item in puts] == [3_000_000] * 5
        assert None not in guard.sent


@pytest.mark.parametrize(
    ("flow", "says"),
    [
        ("", "MLFLOW_TRACKING_AUTH=mlflow-exec: sign-in: nothing is configured"),
        ("tokenfile", "MLFLOW_TRACKING_AUTH=mlflow-exec: MLFLOW_EXEC_AUTH: unknown flow"),
        ("token-file", "token_file: it is needed"),
    ],
)
def test_a_wrong_configuration_is_an_error_and_no_anonymous_request(
    signed_in: pytest.MonkeyPatch, flow: str, says: str
) -> None:
    with guarded(lambda _: True) as guard:
        client = use(signed_in, guard.url, flow)
        with pytest.raises(MlflowException, match=says):
            client.search_experiments()
        assert not guard.seen


def test_a_token_that_cannot_be_had_is_an_error_and_no_anonymous_request(
    signed_in: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with guarded(lambda _: True) as guard:
        client = use(signed_in, guard.url, "token-file", token_file=tmp_path / "none")
        with pytest.raises(MlflowException, match=r"token_file: .*/none: No such file"):
            client.search_experiments()
        assert not guard.seen


def test_importing_mlflow_imports_nothing_of_the_flows() -> None:
    program = (
        "import sys, mlflow, mlflow.tracking.request_auth.registry as r; "
        "import mlflow.tracking.request_header.registry, mlflow.tracking.context.registry; "
        "assert 'mlflow-exec' in [p.get_name() for p in r._request_auth_provider_registry]; "
        "print(sorted(m for m in sys.modules if m.startswith('mlflow_exec.')))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(ast.literal_eval(done.stdout)) <= {
        f"mlflow_exec.{name}" for name in (
            "auth", "auth.locks", "errors", "plugins", "plugins.artifacts",
            "plugins.bucket_artifacts", "plugins.file_plugin", "plugins.pace",
            "plugins.request_auth", "plugins.request_header", "plugins.run_context",
            "surroundings",
        )
    }  # fmt: skip


def test_the_provider_is_the_same_for_every_request(
    signed_in: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from mlflow.tracking.request_auth.registry import fetch_auth

    use(signed_in, "http://127.0.0.1:1", "token-file", token_file=tmp_path / "a")
    first = fetch_auth("mlflow-exec")
    assert fetch_auth("mlflow-exec") is first
    signed_in.setenv("MLFLOW_EXEC_AUTH_TOKEN_FILE", str(tmp_path / "b"))
    assert fetch_auth("mlflow-exec") is not first
    assert mlflow.get_tracking_uri() == "http://127.0.0.1:1"


# -- mlflow-exec doctor


def doctor() -> str:
    """Return what `mlflow-exec doctor` says; it may find something missing."""
    program = [sys.executable, "-c", "from mlflow_exec.cli import main; main()", "doctor", "yarn"]
    done = subprocess.run(program, capture_output=True, text=True)
    assert not done.stderr.startswith("Traceback"), done.stderr
    return done.stdout


def test_doctor_says_how_requests_are_signed(
    signed_in: pytest.MonkeyPatch, server: MlflowServer, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    claims = base64.urlsafe_b64encode(json.dumps({"exp": int(time.time()) + 3590}).encode())
    token.write_text(f"e30.{claims.decode().rstrip('=')}.c2ln")
    with guarded(takes(token.read_text()), server.url) as guard:
        use(signed_in, guard.url, "token-file", token_file=token)
        said = doctor()
        place = f"127.0.0.1:{guard.port}"
        assert (
            f"ok      sign-in: token-file from variable MLFLOW_EXEC_AUTH, for the tracking server "
            f"({place})\n" in said
        )
        assert f"ok      credential: from file {token}; it expires at " in said
        assert ", in 60 min\n" in said
        assert f"ok      tracking server: {guard.url}\n" in said
        assert token.read_text() not in said
        token.write_text("e30.eyJleHAiOiAxfQ.c2ln")  # {"exp": 1}
        assert f"MISSING credential: from file {token}; it has expired at 1970-01-01" in doctor()


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        (
            {"MLFLOW_TRACKING_AUTH": "mlflow_exec"},
            "no provider is registered as 'mlflow_exec', and MLflow sends its requests without a "
            "credential (did you mean 'mlflow-exec'?)",
        ),
        (
            {"MLFLOW_TRACKING_AUTH": "", "MLFLOW_EXEC_AUTH": "token-file"},
            "MLFLOW_EXEC_AUTH names a flow, and MLflow does not ask for it",
        ),
        ({"MLFLOW_TRACKING_AWS_SIGV4": "true"}, "MLflow then does not look at MLFLOW_TRACKING_"),
        ({"MLFLOW_EXEC_AUTH": "token-file"}, "token_file: it is needed"),
        (
            {"MLFLOW_EXEC_AUTH": "token-file", "MLFLOW_EXEC_AUTH_TOKEN_FILE": "/none"},
            "token_file: /none: No such file",
        ),
    ],
)
def test_doctor_says_what_is_wrong_with_a_sign_in(
    signed_in: pytest.MonkeyPatch, environment: dict[str, str], says: str
) -> None:
    signed_in.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    for name, value in environment.items():
        signed_in.setenv(name, value)
    (wrong,) = [finding for finding in diagnose_sign_in() if not finding.ok]
    assert says in f"{wrong.detail}; {wrong.way_on}"


# -- what a server is told of the place where its client runs


def test_new_runs_and_requests_tell_where_they_are_made(
    server: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with guarded(lambda _: True, server.url) as guard:
        mlflow.set_tracking_uri(guard.url)
        with mlflow.start_run() as run:
            pass
        tags = MlflowClient(guard.url).get_run(run.info.run_id).data.tags
        mlflow.set_tracking_uri(None)
    assert tags["mlflow_exec.slurm.job_id"] == "7"
    for request in guard.seen:
        assert request.headers["x-mlflow-exec-slurm-job-id"] == "7"
        assert "exec" not in request.headers["user-agent"]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (ExecRequestAuthProvider, RequestAuthProvider),
        (ExecRequestHeaders, RequestHeaderProvider),
        (ExecRunContext, RunContextProvider),
    ],
)
def test_every_abstract_method_is_there(ours: type, theirs: type) -> None:
    """MLflow does not refuse a class without one, and calls nothing in its place."""
    abstract = {
        name for name in dir(theirs)
        if getattr(getattr(theirs, name), "__isabstractmethod__", False)
    }  # fmt: skip
    assert abstract
    assert abstract <= set(vars(ours))
    ours()

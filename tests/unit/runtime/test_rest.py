"""Requests to the tracking server: credentials, workspaces, certificates and retries."""

from __future__ import annotations

import contextlib
import io
import socket
import subprocess
import time
from pathlib import Path

import pytest

from mlflow_exec.clients.ports import free_port
from mlflow_exec.runtime.rest import ArtifactRoot, RestRunStore
from mlflow_exec.runtime.tracking_server import RequestError, TrackingServer, redact
from tests.servers import MlflowServer, file_server

EMPTY = {"/api/2.0/mlflow/runs/get": (200, b"{}")}


@pytest.mark.parametrize(
    ("environ", "userinfo", "expected"),
    [
        ({}, "", None),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "", "Bearer t"),
        ({"MLFLOW_TRACKING_USERNAME": "u", "MLFLOW_TRACKING_PASSWORD": "p"}, "", "Basic dTpw"),
        ({}, "u:p@", "Basic dTpw"),
        ({"MLFLOW_TRACKING_TOKEN": "t"}, "u:p@", "Basic dTpw"),
    ],
)
def test_credentials_are_those_of_mlflows_client(
    environ: dict[str, str], userinfo: str, expected: str | None
) -> None:
    with file_server() as files:
        files.files.update(EMPTY)
        url = files.url.replace("http://", f"http://{userinfo}")
        TrackingServer(url, environ).api("GET", "runs/get?run_id=1")
        _, headers = files.requests[0]
    assert headers.get("Authorization") == expected


def test_the_workspace_is_sent() -> None:
    with file_server() as files:
        files.files.update(EMPTY)
        TrackingServer(files.url, {"MLFLOW_WORKSPACE": "team-a"}).api("GET", "runs/get?run_id=1")
        _, headers = files.requests[0]
    assert {name.upper(): value for name, value in headers.items()}[
        "X-MLFLOW-WORKSPACE"
    ] == "team-a"


def test_what_cannot_succeed_is_not_retried(tracking_server: MlflowServer) -> None:
    started = time.monotonic()
    with pytest.raises(RequestError, match="not found") as error:
        TrackingServer(tracking_server.url, {}).api("GET", f"runs/get?run_id={'0' * 32}")
    assert error.value.status == 404
    assert time.monotonic() - started < 60


def test_a_server_that_stays_away_is_given_up_in_time() -> None:
    server = TrackingServer(f"http://127.0.0.1:{free_port()}", {})
    started = time.monotonic()
    with server.patience(1), pytest.raises(RequestError, match="refused"):
        server.api("GET", "runs/get?run_id=1")
    assert time.monotonic() - started < 30


def test_a_server_that_is_only_busy_is_asked_again() -> None:
    with file_server() as files:
        files.files["/api/2.0/mlflow/runs/get"] = (503, b"busy")
        server = TrackingServer(files.url, {})
        with server.patience(1), pytest.raises(RequestError, match="HTTP 503 busy"):
            server.api("GET", "runs/get?run_id=1")
        assert len(files.requests) >= 2


@pytest.mark.parametrize(
    ("tracking", "artifact_uri", "expected"),
    [
        ("http://t:5000", "mlflow-artifacts:/1/r/artifacts", "http://t:5000{}/1/r/artifacts"),
        ("https://t/ml/", "mlflow-artifacts:/1/r", "https://t/ml{}/1/r"),
        ("http://t", "mlflow-artifacts://a:81/1/r", "http://a:81{}/1/r"),
        ("http://t", "http://a{}/1/r", "http://a{}/1/r"),
        ("http://t", "s3://bucket/1/r", None),
        ("http://t", "http://a/elsewhere", None),
        ("http://t", None, None),
    ],
)
def test_only_proxied_artifacts_have_a_root(
    tracking: str, artifact_uri: str | None, expected: str | None
) -> None:
    proxy = "/api/2.0/mlflow-artifacts/artifacts"
    uri = artifact_uri and artifact_uri.format(proxy)
    root = ArtifactRoot.of(TrackingServer(tracking, {}), uri)
    assert (root and root.url) == (expected and expected.format(proxy))


def test_artifacts_are_kept_listed_and_deleted(tracking_server: MlflowServer) -> None:
    info = tracking_server.create_run()
    root = ArtifactRoot.of(TrackingServer(tracking_server.url, {}), info["artifact_uri"])
    assert root
    assert root.list("some/folder", 5) == []
    root.put("some/folder/größe a.txt", io.BytesIO(b"0123456789"), 7, 5)
    assert root.list("some/folder", 5) == ["größe a.txt"]
    out = io.BytesIO(b"")
    root.get("some/folder/größe a.txt", out, 5)
    assert out.getvalue() == b"0123456"
    root.delete("some/folder/größe a.txt", 5)
    assert root.list("some/folder", 5) == []


def test_a_url_is_shown_without_its_secrets() -> None:
    assert redact("https://me:pw@host/a/b?signature=x#y") == "https://host/a/b"


def test_https_is_verified_unless_told_otherwise(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    subprocess.run([*argv, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    with file_server(certificate, key) as files:
        files.files.update(EMPTY)
        for environ in (
            {"MLFLOW_TRACKING_SERVER_CERT_PATH": str(certificate)},
            {"REQUESTS_CA_BUNDLE": str(certificate)},
            {"MLFLOW_TRACKING_INSECURE_TLS": "true"},
        ):
            assert TrackingServer(files.url, environ).api("GET", "runs/get?run_id=1") == {}
        server = TrackingServer(files.url, {})
        with server.patience(0), pytest.raises(RequestError, match="CERTIFICATE_VERIFY_FAILED"):
            server.api("GET", "runs/get?run_id=1")


def test_a_token_that_is_no_header_is_not_shown() -> None:
    server = TrackingServer("http://127.0.0.1:9", {"MLFLOW_TRACKING_TOKEN": "s3cret\nx"})
    with pytest.raises(RequestError) as error:
        server.api("GET", "runs/get?run_id=1")
    assert "s3cret" not in str(error.value)


def test_an_answer_of_something_else_than_mlflow_is_an_error() -> None:
    with file_server() as files:
        files.files["/api/2.0/mlflow/runs/get"] = (200, b"<html>Sign in</html>")
        server = TrackingServer(files.url, {})
        with pytest.raises(RequestError, match="not JSON"):
            server.api("GET", "runs/get?run_id=1")
        files.files.update(EMPTY)
        with pytest.raises(RequestError, match="not a run"):
            RestRunStore(server).read("1")


def test_a_certificate_that_is_not_there_is_named() -> None:
    with pytest.raises(ValueError, match="MLFLOW_TRACKING_SERVER_CERT_PATH"):
        TrackingServer("https://t", {"MLFLOW_TRACKING_SERVER_CERT_PATH": "/not/there.pem"})


def test_a_host_that_swallows_connections_is_asked_again_soon() -> None:
    """A listener whose queue is full answers no new connection, as behind a stale route."""
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(full.getsockname())
        server = TrackingServer(f"http://127.0.0.1:{full.getsockname()[1]}", {})
        started = time.monotonic()
        with server.patience(1), pytest.raises(RequestError, match="timed out"):
            server.api("GET", "runs/get?run_id=1")
        assert 4 < time.monotonic() - started < 60

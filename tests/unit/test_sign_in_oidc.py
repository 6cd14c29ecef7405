"""Tokens of an OpenID Connect issuer, which is a real one."""

from __future__ import annotations

import base64
import json
import re
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mlflow_exec.auth.oidc import Oidc
from mlflow_exec.auth.settings import OidcSettings
from mlflow_exec.clients.ports import free_port
from mlflow_exec.errors import ConfigError, MlflowExecError, SignInError, UnreachableError
from mlflow_exec.testing.collecting import until
from tests.answering_server import self_signed
from tests.oidc.issuer import RESOURCE, SECRET, TestIssuer, oidc_issuer
from tests.servers import FileServer, file_server


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestIssuer]:
    with oidc_issuer(tmp_path_factory.mktemp("issuer")) as found:
        yield found


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MLFLOW_EXEC_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def oidc(url: str, client: str = "machine", **more: Any) -> Oidc:
    given = {"client_secret": SECRET} if client == "machine" else {}
    return Oidc(OidcSettings(issuer=url, client_id=client, **{"patience_s": 0, **given, **more}))


def token_of(flow: Oidc) -> str:
    return flow.credential().secret.reveal()


def claims(jwt: str) -> dict[str, Any]:
    part = jwt.split(".")[1]
    found: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return found


def test_a_client_gets_a_token_and_keeps_it(issuer: TestIssuer) -> None:
    flow = oidc(issuer.url, scope="runs")
    found = flow.credential()
    assert issuer.knows(f"Bearer {found.secret.reveal()}")
    assert found.expires_at_s == pytest.approx(time.time() + 3600, abs=30)
    assert flow.credential() is found
    other = flow.instead_of(found)
    assert other is not None
    assert not other.is_as(found)
    assert flow.credential() is other


def test_a_token_is_for_the_resource_that_is_named(issuer: TestIssuer) -> None:
    assert claims(token_of(oidc(issuer.url, resource=RESOURCE)))["aud"] == RESOURCE


def test_a_file_with_an_assertion_stands_for_a_secret(issuer: TestIssuer, tmp_path: Path) -> None:
    file = tmp_path / "assertion"

    def write() -> None:
        names = {"iss": "asserting", "sub": "asserting", "aud": issuer.url}
        file.write_text(issuer.key.jwt(**names))

    write()
    flow = oidc(issuer.url, "asserting", assertion_file=str(file))
    found = flow.credential()
    assert issuer.knows(f"Bearer {found.secret.reveal()}")
    write()  # as the kubelet does; issuers take an assertion once
    assert flow.instead_of(found) is not None
    file.write_text(issuer.key.jwt(iss="asserting", sub="asserting", aud=issuer.url, exp=1))
    with pytest.raises(SignInError, match=r"it refuses: invalid_client .*'assertion_file'") as told:
        flow.instead_of(flow.credential())
    assert file.read_text() not in str(told.value)


def test_a_token_of_another_issuer_is_exchanged(issuer: TestIssuer, tmp_path: Path) -> None:
    subject, assertion = tmp_path / "subject", tmp_path / "assertion"
    subject.write_text(issuer.key.jwt(sub="system:serviceaccount:a:b", aud=issuer.url))
    assertion.write_text(issuer.key.jwt(iss="asserting", sub="asserting", aud=issuer.url))
    files = {"assertion_file": str(assertion), "subject_token_file": str(subject)}
    assert issuer.knows(
        "Bearer " + token_of(oidc(issuer.url, "asserting", grant="token_exchange", **files))
    )
    assertion.write_text(issuer.key.jwt(iss="asserting", sub="asserting", aud=issuer.url))
    subject.write_text(issuer.key.jwt(sub="system:serviceaccount:a:b", aud="others"))
    with pytest.raises(SignInError, match=r"invalid_grant .*; what was to be exchanged"):
        token_of(oidc(issuer.url, "asserting", grant="token_exchange", **files))


class Person:
    """Somebody who reads what the process says, and confirms the codes in it."""

    def __init__(self, issuer: TestIssuer, *, refuse: bool = False) -> None:
        self.codes: list[str] = []
        self._issuer = issuer
        self._refuse = refuse

    def write(self, text: str) -> int:
        found = re.search(r"open (\S+) and confirm the code (\S+) \(within 10 min\)", text)
        if found:
            assert found[1] == f"{self._issuer.url}/device?user_code={found[2]}"
            self.codes.append(found[2])
            self._issuer.confirm(found[2], refuse=self._refuse)
        return len(text)

    def flush(self) -> None:
        pass


def person(issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch, *, refuse: bool = False) -> Person:
    made = Person(issuer, refuse=refuse)
    monkeypatch.setattr(sys, "stderr", made)
    return made


def test_a_person_confirms_once_and_is_not_asked_again(
    issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    me = person(issuer, monkeypatch)
    first = oidc(issuer.url, "person", grant="device_code").credential()
    assert issuer.knows(f"Bearer {first.secret.reveal()}")
    (file,) = (home / "tokens").glob("*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700

    later = oidc(issuer.url, "person", grant="device_code")  # as another process
    assert later.credential().is_as(first)
    renewed = later.instead_of(later.credential())
    assert renewed is not None
    assert issuer.knows(f"Bearer {renewed.secret.reveal()}")
    assert len(me.codes) == 1

    issuer.revoke(json.loads(file.read_text())["refresh_token"], "person")
    assert later.instead_of(renewed) is not None
    assert len(me.codes) == 2

    file.chmod(0o644)
    with pytest.raises(MlflowExecError, match="others may read it"):
        oidc(issuer.url, "person", grant="device_code").credential()


def test_a_refreshed_token_is_for_the_resource_that_is_named_too(
    issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    person(issuer, monkeypatch)
    scope = "openid offline_access runs"
    flow = oidc(issuer.url, "person", grant="device_code", resource=RESOURCE, scope=scope)
    first = flow.credential()
    renewed = flow.instead_of(first)
    assert renewed is not None
    for found in (first, renewed):
        assert claims(found.secret.reveal())["aud"] == RESOURCE


def test_an_id_token_is_sent_where_that_is_asked_for(
    issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = person(issuer, monkeypatch)
    flow = oidc(issuer.url, "person", grant="device_code", send="id_token")
    assert claims(token_of(flow))["sub"] == "me"
    without = oidc(issuer.url, "person", grant="device_code", send="id_token", scope="runs")
    with pytest.raises(SignInError, match="its answer holds no id_token; ask for the scope"):
        without.credential()
    assert len(me.codes) == 2


def test_a_person_who_refuses(issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch) -> None:
    person(issuer, monkeypatch, refuse=True)
    with pytest.raises(SignInError, match=r"access_denied \(no\); who was asked has not agreed"):
        oidc(issuer.url, "person", grant="device_code").credential()


_OTHER_PROCESS = """
import sys
from mlflow_exec.auth.oidc import Oidc
from mlflow_exec.auth.settings import OidcSettings
given = OidcSettings(issuer=sys.argv[1], client_id="person", grant="refresh_token",
                     refresh_token={"env": "FIRST"})
for _ in range(5):
    flow = Oidc(given)
    assert flow.instead_of(flow.credential()) is not None
"""


def test_processes_take_turns_with_refresh_tokens_that_are_good_once(
    issuer: TestIssuer, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    person(issuer, monkeypatch)
    oidc(issuer.url, "person", grant="device_code").credential()
    (file,) = (home / "tokens").glob("*.json")
    monkeypatch.setenv("FIRST", json.loads(file.read_text())["refresh_token"])
    command = [sys.executable, "-c", _OTHER_PROCESS, issuer.url]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    said = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], said


# -- what goes wrong


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"client_secret": "wrong-secret"}, "invalid_client .*; correct 'client_id', and"),
        ({"client_id": "nobody"}, "invalid_client .*; correct 'client_id', and"),
        ({"scope": "openid"}, "invalid_scope .*; correct 'scope'"),
        ({"resource": "https://other.example"}, "invalid_target .*; correct 'resource'"),
    ],
)
def test_what_the_issuer_refuses_is_said_in_one_sentence(
    issuer: TestIssuer, more: dict[str, str], says: str
) -> None:
    given = {"client_id": "machine", "client_secret": SECRET, **more}
    with pytest.raises(SignInError, match=says) as told:
        Oidc(OidcSettings(issuer=issuer.url, **given)).credential()
    assert given["client_secret"] not in str(told.value)
    assert str(told.value).startswith(f"oidc: {issuer.url}: it refuses: ")


def test_an_issuer_that_is_away() -> None:
    port = free_port()
    with pytest.raises(UnreachableError, match=f"no answer from 127.0.0.1:{port} .*refused"):
        oidc(f"http://127.0.0.1:{port}").credential()


@pytest.fixture
def odd() -> Iterator[FileServer]:
    with file_server() as server:
        yield server


def discovery(server: FileServer, **more: object) -> None:
    found = {"issuer": server.url, "token_endpoint": f"{server.url}/token", **more}
    body = json.dumps(found).encode()
    server.files["/.well-known/openid-configuration"] = (200, body)


def test_an_issuer_that_comes_back_in_time_is_waited_for(odd: FileServer) -> None:
    path = "/.well-known/openid-configuration"
    odd.files[path] = (503, b"")
    failed: list[str] = []

    def ask() -> None:
        try:
            oidc(odd.url, patience_s=30).credential()
        except MlflowExecError as error:
            failed.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    until(lambda: len(odd.requests) > 1, "it is asked again")
    odd.files[path] = (200, b"{}")
    thread.join(30)
    assert failed == [f"oidc: {odd.url}: it calls itself 'None'; correct 'issuer'"]


@pytest.mark.parametrize(
    ("status", "body", "says"),
    [
        (404, b"{}", "openid-configuration: HTTP 404; correct 'issuer'"),
        (200, b"<html>", "HTTP 200, and the answer is no JSON object"),
        (200, b"[]", "HTTP 200, and the answer is no JSON object"),
        (200, b'{"issuer": "https://evil"}', "it calls itself 'https://evil'"),
        (302, b"{}", "HTTP 302; correct 'issuer'"),
    ],
)
def test_what_is_no_configuration(odd: FileServer, status: int, body: bytes, says: str) -> None:
    odd.files["/.well-known/openid-configuration"] = (status, body)
    with pytest.raises(SignInError, match=says):
        oidc(odd.url).credential()


def test_endpoints_over_plain_http_elsewhere_get_no_secret(odd: FileServer) -> None:
    discovery(odd, token_endpoint="http://mlflow.example/token")
    with pytest.raises(ConfigError, match=r"mlflow.example:80 is asked over plain http"):
        oidc(odd.url).credential()
    with pytest.raises(ConfigError, match=r"issuer.example:80 is asked over plain http"):
        oidc("http://issuer.example")


def test_a_grant_that_an_issuer_has_not(odd: FileServer) -> None:
    discovery(odd)
    with pytest.raises(SignInError, match="names no device_authorization_endpoint"):
        oidc(odd.url, "person", grant="device_code").credential()


def test_a_certificate_of_an_unknown_authority(tmp_path: Path) -> None:
    certificate, key = self_signed(tmp_path)
    with file_server(certificate, key) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        with pytest.raises(SignInError, match=r"TLS connection failed: .*; name the authority"):
            oidc(url).credential()
        with pytest.raises(SignInError, match="HTTP 404"):
            oidc(url, ca_cert=str(certificate)).credential()
    with pytest.raises(ConfigError, match="ca_cert: /none is not there"):
        oidc("https://localhost", ca_cert="/none")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "client_credentials: 'client_secret' or 'assertion_file' is needed"),
        ({"client_secret": "x", "assertion_file": "/x"}, "not both"),
        ({"client_secret": "x", "send": "id_token"}, "nobody an id_token would be of"),
        ({"grant": "refresh_token"}, "'refresh_token' belongs to the grant 'refresh_token'"),
        ({"grant": "device_code", "subject_token_file": "/x"}, "belongs to the grant"),
        ({"client_secret": {"env": "NOT_SET"}}, "the environment variable NOT_SET is not set"),
        ({"client_secret": {"value": "x"}}, "a text, {env: NAME} or {file: PATH} is needed"),
    ],
)
def test_settings_that_do_not_go_together(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        OidcSettings(issuer="https://a", client_id="b", **given)

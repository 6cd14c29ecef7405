"""Kerberos tickets for a server that asks a real key distribution centre's realm."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from mlflow_exec.auth.reading import find_sign_ins
from mlflow_exec.auth.request_auth import RequestAuth
from mlflow_exec.clients.ports import free_port
from mlflow_exec.errors import MlflowExecError
from tests.clusters.pytest_kubernetes import unavailable
from tests.clusters.yarn.kdc import Kdc
from tests.clusters.yarn.layout import Layout
from tests.guarded_server import Guard, guarded

try:
    import gssapi
except ModuleNotFoundError:  # built only where the system's library is
    gssapi = None


@pytest.fixture(scope="module")
def kdc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kdc]:
    if gssapi is None:
        unavailable("gssapi is not installed: pip install 'mlflow-exec[kerberos]'")
    if shutil.which("krb5kdc", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        unavailable("krb5kdc is missing: apt-get install krb5-kdc")
    folder = tmp_path_factory.mktemp("realm")
    for name in ("log", "processes", "tmp"):
        (folder / name).mkdir()
    found = Kdc(Layout(folder, "localhost", {"kdc": free_port()}))
    found.make(["me", "HTTP/localhost"])
    daemon = found.daemon()
    daemon.spawn()
    daemon.await_ready()
    yield found
    daemon.end(grace_s=5)


@pytest.fixture
def realm(kdc: Kdc, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Kdc:
    """This process uses the realm, and has no ticket."""
    monkeypatch.setenv("KRB5_CONFIG", str(kdc.krb5_conf))
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path}/tickets")
    monkeypatch.setenv("KRB5RCACHEDIR", str(tmp_path))
    return kdc


@pytest.fixture
def server(realm: Kdc) -> Iterator[Guard]:
    """Lets in whoever has a ticket for it."""
    store = {"keytab": str(realm.keytab("HTTP/localhost"))}

    def accepts(given: str | None) -> bool:
        if not (given or "").startswith("Negotiate "):
            return False
        credentials = gssapi.Credentials(usage="accept", store=store)
        context = gssapi.SecurityContext(creds=credentials, usage="accept")
        try:
            context.step(base64.b64decode(str(given).partition(" ")[2]))
        except gssapi.exceptions.GSSError:
            return False
        return str(context.initiator_name).startswith("me@")

    with guarded(accepts, visible_as="localhost") as guard:
        guard.challenge = "Negotiate"
        yield guard


def auth(server: Guard, **settings: str) -> RequestAuth:
    env = {f"MLFLOW_EXEC_AUTH_{name.upper()}": value for name, value in settings.items()}
    return RequestAuth(find_sign_ins({"MLFLOW_EXEC_AUTH": "kerberos", **env}), lambda: server.url)


def test_a_keytab_signs_in_with_the_first_request_and_each_has_its_own_authenticator(
    server: Guard, realm: Kdc
) -> None:
    given = auth(server, principal="me", keytab=str(realm.keytab("me")))
    for _ in range(3):
        assert requests.get(server.url, auth=given).status_code == 200
    assert len(set(server.sent)) == 3


def test_the_ticket_of_kinit_signs_in(
    server: Guard, realm: Kdc, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(MlflowExecError, match=r"no valid ticket: .*; run kinit"):
        requests.get(server.url, auth=auth(server))
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{realm.sign_in('me')}")
    assert requests.put(server.url, data=b"x", auth=auth(server)).status_code == 200
    (sign_in,) = auth(server)._sign_ins
    found = sign_in.flow().credential()
    assert found.source.startswith("Kerberos ticket of me@")
    assert found.expires_at_s is not None


def test_a_refused_ticket_is_tried_once_more_and_goes_to_no_other_host(
    server: Guard, realm: Kdc, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{realm.sign_in('you')}")
    assert requests.get(server.url, auth=auth(server)).status_code == 401
    assert len(set(server.sent)) == 2
    with guarded(lambda _: False) as other:
        server.redirects = {"/away": other.url}
        assert requests.get(f"{server.url}/away", auth=auth(server)).status_code == 401
        assert other.sent == [None]


def test_what_goes_wrong_is_one_sentence(server: Guard, realm: Kdc, tmp_path: Path) -> None:
    mine = {"principal": "me", "keytab": str(realm.keytab("me"))}
    with pytest.raises(MlflowExecError, match=r"no ticket for HTTP@nowhere: .* by 'service'"):
        requests.get(server.url, auth=auth(server, service="HTTP@nowhere", **mine))
    assert requests.get(
        server.url, auth=auth(server, service="HTTP@localhost", **mine)
    ).status_code == 200
    with pytest.raises(MlflowExecError, match="correct 'principal' and 'keytab'"):
        requests.get(server.url, auth=auth(server, principal="me", keytab=f"{tmp_path}/none"))
    assert len(server.seen) == 1

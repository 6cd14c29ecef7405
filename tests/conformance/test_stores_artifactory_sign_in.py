"""Who asks an Artifactory, what it is told of that, and what is said where it does not work."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlflow_exec.errors import ArtifactError, CredentialError
from mlflow_exec.storage.base import Entry, Store
from mlflow_exec.storage.opening import open_store
from mlflow_exec.testing.stores import content, put
from tests.artifactory_server import KEY, PASSWORD, TOKEN, USER, Fault, artifactory
from tests.artifactory_server import ArtifactoryServer as Server
from tests.servers import file_server
from tests.unit.tls_relay import Authority, TlsRelay

HOST = "MLFLOW_EXEC_ARTIFACTORY_HOST"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """One that this environment names, without a credential for it."""
    monkeypatch.setenv("ARTIFACTORY_NO_SSL", "true")
    monkeypatch.setenv(HOST, "127.0.0.1")
    with artifactory(tmp_path) as server:
        yield server


def opened(server: Server, monkeypatch: pytest.MonkeyPatch, **variables: str) -> Store:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return open_store(server.uri("m"))


def headers_of(server: Server) -> str:
    return str([headers for *_, headers in server.requests])


@pytest.mark.parametrize(
    "variables",
    [
        {"ARTIFACTORY_AUTH_TOKEN": TOKEN},
        {"ARTIFACTORY_AUTH_TOKEN": f"{TOKEN}\n"},
        {"ARTIFACTORY_USER": USER, "ARTIFACTORY_PASSWORD": PASSWORD},
        {"ARTIFACTORY_API_KEY": KEY},
    ],
    ids=["a token", "a token with its line end", "user and password", "a key"],
)
def test_who_signs_in_may_write_and_read(
    server: Server, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    store = opened(server, monkeypatch, **variables)
    put(store, "a", b"1")
    assert (content(store, "a"), store.entries("")) == (b"1", [Entry("a", False, 1)])


def test_a_password_in_the_uri_signs_in(server: Server) -> None:
    uri = server.uri("m").replace("//", f"//{USER}:{PASSWORD}@", 1)
    store = open_store(uri)
    put(store, "a", b"1")
    assert PASSWORD not in str(store.location)


def test_a_token_that_was_changed_in_its_file_counts_from_then_on(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    store = opened(server, monkeypatch, ARTIFACTORY_AUTH_TOKEN_FILE=str(file))
    put(store, "a", b"1")
    server.token = "the-next-token-nobody-may-see"
    file.write_text(server.token)
    assert content(store, "a") == b"1"


@pytest.mark.parametrize(("text", "why"), [("\n", "is empty"), ("a\nb-secret", "characters")])
def test_a_file_that_holds_no_token_is_an_error_that_does_not_show_it(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str, why: str
) -> None:
    (tmp_path / "token").write_text(text)
    variables = {"ARTIFACTORY_AUTH_TOKEN_FILE": str(tmp_path / "token")}
    store = opened(server, monkeypatch, **variables)
    with pytest.raises(CredentialError, match=f"token from file .*token: it .*{why}") as told:
        store.entries("")
    assert "b-secret" not in str(told.value)


def test_a_credential_goes_to_no_host_that_it_is_not_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HOST, "files.example")
    with pytest.raises(CredentialError, match=r"is for files\.example"):
        opened(server, monkeypatch, ARTIFACTORY_AUTH_TOKEN=TOKEN)


def test_a_credential_does_not_follow_a_download_to_another_host(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login someone password of-netrc-nobody-may-see\n")
    monkeypatch.setenv("NETRC", str(netrc))
    store = opened(server, monkeypatch, ARTIFACTORY_AUTH_TOKEN=TOKEN)
    put(store, "a", b"1" * 1000)
    server.redirects = True
    assert content(store, "a") == b"1" * 1000
    (there,) = [headers for _, path, headers in server.requests if "X-Amz-Signature" in path]
    assert "Authorization" not in there
    assert headers_of(server).count(TOKEN) == len(server.requests) - 1


@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
def test_nothing_but_a_download_is_redirected(
    server: Server, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    store = opened(server, monkeypatch, ARTIFACTORY_AUTH_TOKEN=TOKEN)
    put(store, "a", b"1")
    to = {"Location": f"http://{server.objects}/elsewhere?secret=1"}
    server.faults = [Fault(method, 307, headers=to, times=9)]
    actions: dict[str, Callable[[], object]] = {
        "PUT": lambda: put(store, "a", b"1"),
        "GET": lambda: store.entries(""),
        "DELETE": lambda: store.delete("a"),
    }
    with pytest.raises(ArtifactError, match=f"redirects to 'http://{server.objects}") as told:
        actions[method]()
    assert "elsewhere" not in str([path for _, path, _ in server.requests])
    assert "secret" not in str(told.value)


def test_a_wrong_token_is_one_sentence_that_names_its_source_and_does_not_show_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opened(server, monkeypatch, ARTIFACTORY_AUTH_TOKEN="wrong-token-nobody-may-see")
    actions: list[Callable[[], object]] = [
        lambda: put(store, "a", b"1"), lambda: store.entries(""),
    ]  # fmt: skip
    for action in actions:
        with pytest.raises(ArtifactError, match="401 Unauthorized: Bad credentials") as told:
            action()
        assert "environment variable ARTIFACTORY_AUTH_TOKEN" in str(told.value)
        assert "wrong-token" not in str(told.value)


def test_who_has_no_credential_is_told_how_to_give_one(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(HOST)
    store = open_store(server.uri("m"))
    with pytest.raises(ArtifactError, match="set ARTIFACTORY_AUTH_TOKEN and MLFLOW_EXEC_ARTIF"):
        put(store, "a", b"1")


def test_where_anonymous_users_may_read_and_write_they_list_without_file_list(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(HOST)
    server.is_open = True
    store = open_store(server.uri("m"))
    put(store, "d/a", b"1")
    assert store.entries("") == [Entry("d", True)]
    assert store.entries("d") == [Entry("d/a", False, 1)]
    assert len([path for path in server.asked("GET") if "?list" in path]) == 1


def test_requests_are_shown_where_that_is_switched_on_and_no_secrets(
    server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = opened(server, monkeypatch, ARTIFACTORY_AUTH_TOKEN=TOKEN, ARTIFACTORY_DEBUG="true")
    put(store, "a", b"1")
    assert "PUT /artifactory/ml-local/m/a: 201 in" in caplog.text
    assert TOKEN not in caplog.text


def test_tls_is_spoken_and_the_certificate_checked(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ARTIFACTORY_NO_SSL")
    authority = Authority.make(tmp_path / "tls", "127.0.0.1")
    relay = TlsRelay("127.0.0.1", int(server.host.partition(":")[2]), authority)
    uri = server.uri("m").replace(server.host, f"127.0.0.1:{relay.port}")
    monkeypatch.setenv("ARTIFACTORY_AUTH_TOKEN", TOKEN)
    with pytest.raises(ArtifactError, match=r"certificate is not accepted.*REQUESTS_CA_BUNDLE"):
        put(open_store(uri), "a", b"1")
    assert server.requests == []
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority.ca_cert)
    put(open_store(uri), "a", b"1")
    assert content(open_store(uri), "a") == b"1"
    server.redirects = True
    with pytest.raises(ArtifactError, match=f"redirects to '{server.objects}' without TLS"):
        content(open_store(uri), "a")
    relay.close()


def test_a_server_without_tls_is_asked_nothing_unless_that_is_wanted(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ARTIFACTORY_NO_SSL")
    store = opened(server, monkeypatch, ARTIFACTORY_AUTH_TOKEN=TOKEN)
    with pytest.raises(ArtifactError, match=r"no TLS .*ARTIFACTORY_NO_SSL=true"):
        store.entries("")
    assert server.requests == []


def test_a_page_to_sign_in_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTIFACTORY_NO_SSL", "true")
    with file_server() as page:
        for path in ("r", "r?list&deep=0&listFolders=1"):
            page.files[f"/artifactory/api/storage/{path}"] = (200, b"<html>Who are you?</html>")
        store = open_store(f"{page.url.replace('http:', 'artifactory:')}/artifactory/r")
        with pytest.raises(ArtifactError, match="is not one of Artifactory's"):
            store.entries("")


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlflow_exec.storage.artifactory_http.PATIENCE_S", 0.1)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        store = open_store(f"artifactory://127.0.0.1:{nobody.getsockname()[1]}/artifactory/r")
        with pytest.raises(ArtifactError, match=r"no answer: .*Connection refused"):
            store.put("a", io.BytesIO(b"1"))

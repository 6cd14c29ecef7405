"""Credentials on requests: fresh ones, once more after a refusal, and to no other host."""

from __future__ import annotations

import io
import logging
import os
import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from mlflow_exec.auth.reading import find_sign_ins
from mlflow_exec.auth.request_auth import RequestAuth
from mlflow_exec.errors import ConfigError, CredentialError
from tests.guarded_server import Guard, guarded, takes

FIRST, SECOND = "first-token-of-the-test", "second-token-of-the-test"


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(f"{FIRST}\n")
    return path


@pytest.fixture
def guard() -> Iterator[Guard]:
    with guarded(takes(FIRST)) as server:
        yield server


def auth_by(token: Path, tracking: str, **more: str) -> RequestAuth:
    env = {"MLFLOW_EXEC_AUTH": "token-file", "MLFLOW_EXEC_AUTH_TOKEN_FILE": str(token), **more}
    return RequestAuth(find_sign_ins(env), lambda: tracking)


def test_a_token_is_read_from_its_file_for_each_request(token: Path, guard: Guard) -> None:
    auth = auth_by(token, guard.url)
    assert requests.get(guard.url, auth=auth).status_code == 200
    guard.accepts = takes(SECOND)
    token.write_text(SECOND)
    assert requests.get(guard.url, auth=auth).status_code == 200
    assert guard.sent == [f"Bearer {FIRST}", f"Bearer {SECOND}"]


def test_a_token_file_that_is_away_or_no_token_is_an_error(token: Path, guard: Guard) -> None:
    auth = auth_by(token, guard.url)
    token.write_text("two\nlines\n")
    with pytest.raises(CredentialError, match=r"token_file: .*: one line of text is needed"):
        requests.get(guard.url, auth=auth)
    token.unlink()
    with pytest.raises(CredentialError, match=r"token_file: .*: No such file"):
        requests.get(guard.url, auth=auth)
    assert not guard.seen


def refuses_until_renewed(guard: Guard, token: Path) -> None:
    """Refuse the first token, which at that moment is replaced in its file."""

    def accepts(given: str | None) -> bool:
        token.write_text(SECOND)
        return given == f"Bearer {SECOND}"

    guard.accepts = accepts


def open_file(tmp_path: Path) -> io.BufferedReader:
    (tmp_path / "body").write_bytes(b"not sent" + b"x" * 100_000)
    file = (tmp_path / "body").open("rb")
    file.seek(len("not sent"))
    return file


@pytest.mark.parametrize(
    ("body", "sent"),
    [
        (lambda _: None, b""),
        (lambda _: b"bytes", b"bytes"),
        (lambda _: "text", b"text"),
        (lambda _: io.BytesIO(b"seekable"), b"seekable"),
        (open_file, b"x" * 100_000),
    ],
    ids=["none", "bytes", "text", "buffer", "file"],
)
def test_a_refused_request_is_sent_once_more_with_a_fresh_token_and_its_whole_body(
    token: Path, guard: Guard, tmp_path: Path, body: Callable[[Path], object], sent: bytes
) -> None:
    refuses_until_renewed(guard, token)
    data = body(tmp_path)
    answer = requests.put(guard.url, data=data, auth=auth_by(token, guard.url))  # type: ignore[arg-type]
    assert answer.status_code == 200
    assert [item.body for item in guard.seen] == [sent, sent]
    assert guard.sent == [f"Bearer {FIRST}", f"Bearer {SECOND}"]
    if isinstance(data, io.IOBase):
        data.close()


def test_a_body_that_cannot_be_rewound_is_not_sent_again(token: Path, guard: Guard) -> None:
    refuses_until_renewed(guard, token)
    answer = requests.put(guard.url, data=iter([b"once"]), auth=auth_by(token, guard.url))
    assert answer.status_code == 401
    assert len(guard.seen) == 1


def test_the_same_token_is_not_sent_again(
    token: Path, guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    guard.accepts = takes("another")
    with caplog.at_level(logging.WARNING):
        assert requests.get(guard.url, auth=auth_by(token, guard.url)).status_code == 401
    assert len(guard.seen) == 1
    assert f"refuses the credential from file {token} (401)" in caplog.text
    assert FIRST not in caplog.text


def test_a_second_refusal_stands(token: Path, guard: Guard) -> None:
    given = iter(range(10))

    def accepts(_: str | None) -> bool:
        token.write_text(f"another-{next(given)}")
        return False

    guard.accepts = accepts
    auth = auth_by(token, guard.url)
    assert requests.get(guard.url, auth=auth).status_code == 401
    assert len(guard.seen) == 2
    assert requests.get(guard.url, auth=auth).status_code == 401
    assert len(guard.seen) == 3, "another token has just been of no use"


@pytest.mark.parametrize("refuses", [False, True])
def test_a_redirect_to_another_host_gets_no_credential(
    token: Path, guard: Guard, refuses: bool
) -> None:
    with guarded(takes(FIRST), visible_as="localhost") as other:
        if refuses:
            refuses_until_renewed(other, token)
        else:
            other.accepts = lambda _: True
        guard.redirects = {"/away": f"{other.url}/secrets"}
        answer = requests.get(f"{guard.url}/away", auth=auth_by(token, guard.url))
        assert answer.url == f"{other.url}/secrets"
        assert other.sent == [None]
    assert guard.sent == [f"Bearer {FIRST}"]


def test_a_redirect_on_the_same_host_is_followed_with_the_credential(
    token: Path, guard: Guard
) -> None:
    refuses_until_renewed(guard, token)
    guard.redirects = {"/old": "/new"}
    answer = requests.put(f"{guard.url}/old", data=b"body", auth=auth_by(token, guard.url))
    assert answer.status_code == 200
    assert [(item.path, item.body) for item in guard.seen] == [
        ("/old", b"body"), ("/new", b"body"), ("/new", b"body"),
    ]  # fmt: skip


def test_another_host_is_asked_without_a_credential_and_that_is_said_once(
    token: Path, guard: Guard, caplog: pytest.LogCaptureFixture
) -> None:
    auth = auth_by(token, "https://mlflow.example")
    with caplog.at_level(logging.WARNING):
        requests.get(guard.url, auth=auth)
        requests.get(guard.url, auth=auth)
    assert guard.sent == [None, None]
    said = [record.getMessage() for record in caplog.records if "sign-in" in record.getMessage()]
    assert said == [
        f"sign-in: requests to 127.0.0.1:{guard.port} go without a credential, which is for "
        f"mlflow.example:443; name the host in 'hosts' if it may have it"
    ]


def test_named_hosts_get_the_credential_and_the_tracking_server_must_be_among_them(
    token: Path, guard: Guard
) -> None:
    hosts = {"MLFLOW_EXEC_AUTH_HOSTS": f"files.example, 127.0.0.1:{guard.port}"}
    assert requests.get(guard.url, auth=auth_by(token, "http://a", **hosts)).status_code == 200
    hosts = {"MLFLOW_EXEC_AUTH_HOSTS": "127.0.0.1"}
    assert requests.get(guard.url, auth=auth_by(token, "http://a", **hosts)).status_code == 200
    hosts = {"MLFLOW_EXEC_AUTH_HOSTS": "files.example"}
    with pytest.raises(ConfigError, match="no credential is configured for the tracking server"):
        requests.get(guard.url, auth=auth_by(token, guard.url, **hosts))
    assert guard.sent == [f"Bearer {FIRST}"] * 2


def test_plain_http_to_another_machine_is_refused_unless_it_is_allowed(token: Path) -> None:
    request = requests.Request("GET", "http://mlflow.example/x")
    with pytest.raises(ConfigError, match=r"mlflow.example:80 is asked over plain http"):
        requests.Session().prepare_request(
            requests.Request("GET", request.url, auth=auth_by(token, request.url or ""))
        )
    allowed = auth_by(token, "http://mlflow.example", MLFLOW_EXEC_AUTH_ALLOW_HTTP="true")
    signed = requests.Request("GET", request.url, auth=allowed).prepare()
    assert signed.headers["Authorization"] == f"Bearer {FIRST}"


def counting(tmp_path: Path, says: str) -> tuple[dict[str, str], Callable[[], int]]:
    """Return the variables of a command that prints something, and how often it has run."""
    runs = tmp_path / "runs"
    program = f"open({str(runs)!r}, 'a').write('x'); print({says})"
    words = shlex.join([sys.executable, "-c", program])
    return (
        {"MLFLOW_EXEC_AUTH": "exec", "MLFLOW_EXEC_AUTH_COMMAND": words},
        lambda: len(runs.read_text()) if runs.exists() else 0,
    )


def test_many_threads_wait_for_one_token(tmp_path: Path, guard: Guard) -> None:
    env, runs = counting(tmp_path, f"'{FIRST}'")
    auth = RequestAuth(find_sign_ins(env), lambda: guard.url)
    statuses = []
    threads = [
        threading.Thread(
            target=lambda: statuses.append(requests.get(guard.url, auth=auth).status_code)
        )
        for _ in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 16
    assert runs() == 1


def test_many_threads_that_are_refused_get_one_fresh_token(tmp_path: Path, guard: Guard) -> None:
    env, runs = counting(tmp_path, f"'token-' + str(len(open('{tmp_path}/runs').read()))")
    auth = RequestAuth(find_sign_ins(env), lambda: guard.url)
    guard.accepts = takes("token-1")
    requests.get(guard.url, auth=auth)
    guard.accepts = takes("token-2")
    statuses = []
    threads = [
        threading.Thread(
            target=lambda: statuses.append(requests.get(guard.url, auth=auth).status_code)
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 8
    assert runs() == 2


_FORKS = """
import os, sys, threading
from mlflow_exec.auth.locks import ProcessLock
lock = ProcessLock()
lock.acquire()
child = os.fork()
if child == 0:
    lock.acquire()
    os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_a_fork_in_the_middle_of_a_refresh_does_not_hang_the_child() -> None:
    assert subprocess.run([sys.executable, "-c", _FORKS], timeout=120).returncode == 0

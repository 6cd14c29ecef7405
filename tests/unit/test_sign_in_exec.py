"""Tokens that commands print."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

from mlflow_exec.auth.exec_command import ExecCommand
from mlflow_exec.auth.settings import ExecSettings
from mlflow_exec.errors import CredentialError
from mlflow_exec.testing.collecting import until

TOKEN = "a-token-that-nobody-may-see"


def jwt(expires_at_s: float) -> str:
    claims = base64.urlsafe_b64encode(json.dumps({"exp": expires_at_s}).encode()).decode()
    return f"e30.{claims.rstrip('=')}.c2ln"


def printing(text: str, folder: Path) -> ExecCommand:
    """Return the flow of a command that prints a text, and leaves a mark each time."""
    (folder / "text").write_text(text)
    program = (
        f"open({str(folder / 'runs')!r}, 'a').write('x'); "
        f"print(open({str(folder / 'text')!r}).read())"
    )
    return ExecCommand(ExecSettings(command=[sys.executable, "-c", program]))


def runs(folder: Path) -> int:
    return len((folder / "runs").read_text())


def iso(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


SOON = float(int(time.time()) + 3600)


@pytest.mark.parametrize(
    ("text", "expires_at_s"),
    [
        (json.dumps({"kind": "ExecCredential", "status": {
            "token": TOKEN, "expirationTimestamp": iso(SOON)}}), SOON),
        (json.dumps({"token": TOKEN}), None),
        (json.dumps({"id_token": TOKEN, "expirationTimestamp": iso(SOON)}), SOON),
        (TOKEN, None),
    ],
    ids=["kubectl", "plain", "id token", "text"],
)  # fmt: skip
def test_what_commands_print(tmp_path: Path, text: str, expires_at_s: float | None) -> None:
    flow = printing(text, tmp_path)
    found = flow.credential()
    assert found.secret.reveal() == TOKEN
    assert found.expires_at_s == (expires_at_s and pytest.approx(expires_at_s, abs=60))
    assert flow.credential() is found
    assert runs(tmp_path) == 1


def test_what_says_how_long_it_lives_expires_then(tmp_path: Path) -> None:
    now = time.time()
    found = printing(json.dumps({"access_token": TOKEN, "expires_in": 3600}), tmp_path).credential()
    assert found.secret.reveal() == TOKEN
    assert found.expires_at_s == pytest.approx(now + 3600, abs=60)


def test_a_bare_token_that_is_a_jwt_tells_when_it_expires(tmp_path: Path) -> None:
    assert printing(jwt(SOON), tmp_path).credential().expires_at_s == SOON


def test_a_token_is_got_anew_before_it_expires(tmp_path: Path) -> None:
    flow = printing(json.dumps({"token": TOKEN, "expirationTimestamp": iso(time.time() - 5)}),
                    tmp_path)  # fmt: skip
    first = flow.credential()
    assert first.renew_at_s is not None
    assert first.renew_at_s > time.time(), "by a wrong clock it is asked once a second, no more"
    hour = printing(json.dumps({"token": TOKEN, "expires_in": 3600}), tmp_path).credential()
    assert hour.expires_at_s is not None
    assert hour.renew_at_s == pytest.approx(hour.expires_at_s - 60)
    minute = printing(json.dumps({"token": TOKEN, "expires_in": 60}), tmp_path).credential()
    assert minute.expires_at_s is not None
    assert minute.renew_at_s == pytest.approx(minute.expires_at_s - 12)


def test_where_no_other_is_to_be_had_a_token_is_used_until_it_expires(tmp_path: Path) -> None:
    flow = printing(json.dumps({"token": TOKEN, "expires_in": 3}), tmp_path)
    first = flow.credential()
    (tmp_path / "text").write_text("[]")
    while time.time() < (first.expires_at_s or 0) - 0.5:
        assert flow.credential().is_as(first)
    assert runs(tmp_path) == 2, "who does not answer is not asked with each request"
    until(lambda: time.time() > (first.expires_at_s or 0), "it has expired")
    with pytest.raises(CredentialError, match="it does not print a JSON object"):
        flow.credential()


def test_a_command_knows_that_nobody_can_be_asked(tmp_path: Path) -> None:
    program = "import os, json; print(json.loads(os.environ['KUBERNETES_EXEC_INFO'])['kind'])"
    flow = ExecCommand(ExecSettings(command=[sys.executable, "-c", program]))
    assert flow.credential().secret.reveal() == "ExecCredential"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("/nowhere/get-token", "exec: /nowhere/get-token: FileNotFoundError"),
        ("import sys; sys.exit('sign in first')", "exit code 1: sign in first"),
        ("print('{}')", "it prints no token; looked for token, access_token"),
        ("print('two words')", "it does not print a JSON object"),
        (f"print('{{\"token\": \"{TOKEN}\\\\nx\"}}')", "what it gives is no token"),
        (f"print('[\"{TOKEN}\"]')", "it does not print a JSON object"),
        (f"print('{{\"token\": \"{TOKEN}\", \"expirationTimestamp\": \"x\"}}')", "JSON"),
    ],
)
def test_what_is_wrong_with_a_command_is_said_without_the_token(command: str, says: str) -> None:
    words = [command] if command.startswith("/") else [sys.executable, "-c", command]
    with pytest.raises(CredentialError) as told:
        ExecCommand(ExecSettings(command=words)).credential()
    assert says in str(told.value)
    assert TOKEN not in str(told.value)
    assert os.linesep not in str(told.value)

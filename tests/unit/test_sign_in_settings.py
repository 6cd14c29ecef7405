"""Which sign-in is configured, and what is said where that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_exec.auth.base import Bearer
from mlflow_exec.auth.hosts import Place
from mlflow_exec.auth.reading import find_sign_ins, given_by
from mlflow_exec.auth.request_auth import RequestAuth
from mlflow_exec.errors import ConfigError, CredentialError

SECRET = "a-secret-that-nobody-may-see"


@pytest.mark.parametrize(
    ("env", "says"),
    [
        ({}, r"nothing is configured: MLFLOW_EXEC_AUTH names no flow and .*auth.yaml is not there"),
        ({"": "token-fil"}, r"unknown flow 'token-fil' \(did you mean 'token-file'\?\)"),
        ({"_TOKEN_FILE": "/x"}, "it belongs to a flow, and MLFLOW_EXEC_AUTH names none"),
        ({"": "token-file"}, "MLFLOW_EXEC_AUTH=token-file: token_file: it is needed"),
        (
            {"": "token-file", "_TOKEN_FIL": "/x"},
            r"unknown variable 'MLFLOW_EXEC_AUTH_TOKEN_FIL' "
            r"\(did you mean 'MLFLOW_EXEC_AUTH_TOKEN_FILE'\?\)",
        ),
        ({"": "exec", "_COMMAND": " "}, "command: .*at least 1 item"),
        (
            {"": "token-file", "_TOKEN_FILE": "/x", "_HOSTS": "https://mlflow.example/"},
            "hosts: a host is needed, such as mlflow.example",
        ),
        (
            {"": "token-file", "_TOKEN_FILE": "/x", "_ALLOW_HTTP": "perhaps"},
            "allow_http: .*boolean",
        ),
        ({"": "basic-file", "_PASSWORD_FILE": "/x"}, "exactly one of 'username' and"),
    ],
)
def test_what_is_wrong_in_the_variables_is_said(
    tmp_path: Path, env: dict[str, str], says: str
) -> None:
    given = {f"MLFLOW_EXEC_AUTH{name}": value for name, value in env.items()}
    with pytest.raises(ConfigError, match=says):
        find_sign_ins({"MLFLOW_EXEC_AUTH_CONFIG": f"{tmp_path}/auth.yaml", **given})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "entries by their hosts are needed"),
        ("[a]", "entries by their hosts are needed"),
        (f"a: {{{SECRET}", "it is not YAML"),
        ("https://a: {flow: exec}", "a host is needed"),
        ("a: exec", "'flow' is needed"),
        ("a: {command: x}", "'flow' is needed"),
        ("a: {flow: kerberoz}", "unknown flow 'kerberoz'"),
        ("a: {flow: exec, comand: x}", r"unknown setting 'comand' \(did you mean 'command'\?\)"),
        ("a: {flow: exec, file: /x}", "unknown setting 'file'"),
        ("a: {flow: exec}", "entry 'a' of .*: command: it is needed"),
        (
            "a: {flow: exec, command: x, hosts: b}\nb: {flow: exec, command: x}",
            "entry 'b' of .*: b: an entry above is for it, too",
        ),
    ],
)
def test_what_is_wrong_in_the_file_is_said(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "auth.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=says) as told:
        find_sign_ins({"MLFLOW_EXEC_AUTH_CONFIG": str(file)})
    assert SECRET not in str(told.value)


def test_a_file_has_an_entry_for_each_host_and_one_with_a_port_is_the_nearer(
    tmp_path: Path,
) -> None:
    for name in ("all", "one", "v6"):
        (tmp_path / name).write_text(f"token-of-{name}")
    file = tmp_path / "auth.yaml"
    file.write_text(
        f"mlflow.example: {{flow: token-file, token_file: {tmp_path}/all, hosts: [c.example]}}\n"
        f"MLflow.example:5000: {{flow: token-file, token_file: {tmp_path}/one}}\n"
        f"'[2001:db8::1]': {{flow: token-file, token_file: {tmp_path}/v6}}\n"
    )
    auth = RequestAuth(
        find_sign_ins({"MLFLOW_EXEC_AUTH_CONFIG": str(file)}), lambda: "https://mlflow.example"
    )

    def sent_to(url: str) -> str | None:
        from requests import Request

        return Request("GET", url, auth=auth).prepare().headers.get("Authorization")

    assert sent_to("https://MLFLOW.example/x") == "Bearer token-of-all"
    assert sent_to("https://c.example/x") == "Bearer token-of-all"
    assert sent_to("https://mlflow.example:5000/x") == "Bearer token-of-one"
    assert sent_to("https://[2001:db8::1]/x") == "Bearer token-of-v6"
    assert sent_to("https://mlflow.example.evil/x") is None
    assert sent_to("https://evil/mlflow.example") is None
    assert sent_to("https://mlflow.example@evil/") is None
    assert sent_to("https://evil\\@mlflow.example/") is None


def test_variables_win_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "auth.yaml"
    file.write_text("a: {flow: exec, command: x}")
    env = {
        "MLFLOW_EXEC_AUTH_CONFIG": str(file), "MLFLOW_EXEC_AUTH": "exec",
        "MLFLOW_EXEC_AUTH_COMMAND": "get-token --for 'my server'",
    }  # fmt: skip
    (found,) = find_sign_ins(env)
    assert found.source == "variable MLFLOW_EXEC_AUTH"
    assert found.settings.command == ["get-token", "--for", "my server"]  # type: ignore[attr-defined]


def test_what_changes_in_the_configuration_counts_from_then_on(tmp_path: Path) -> None:
    file = tmp_path / "auth.yaml"
    env = {"MLFLOW_EXEC_AUTH_CONFIG": str(file)}
    away = given_by(env)
    file.write_text("a: {flow: exec, command: x}")
    there = given_by(env)
    assert away != there == given_by({**env, "HOME": "/elsewhere"})
    assert there != given_by({**env, "MLFLOW_EXEC_AUTH": "exec"})


def test_no_repr_shows_a_token() -> None:
    assert SECRET not in repr(Bearer.of(SECRET, "somewhere"))


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://a", True),
        ("http://a", False),
        ("http://localhost:5000", True),
        ("http://127.0.0.1", True),
        ("http://[::1]:80", True),
        ("http://localhost.example", False),
        ("spool+https://a", True),
    ],
)
def test_which_ways_are_safe(url: str, safe: bool) -> None:
    assert Place.of(url).is_safe is safe


SECRETS = "a: {flow: oidc, issuer: 'https://i', client_id: c, client_secret: %s}"


def test_a_file_that_others_may_read_holds_no_secret_and_none_that_they_may_write_is_read(
    tmp_path: Path,
) -> None:
    file = tmp_path / "auth.yaml"
    env = {"MLFLOW_EXEC_AUTH_CONFIG": str(file)}
    file.write_text(SECRETS % SECRET)
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="client_secret: others may read the file") as told:
        find_sign_ins(env)
    assert SECRET not in str(told.value)
    file.chmod(0o600)
    find_sign_ins(env)
    file.write_text(SECRETS % "{file: /run/secret}")
    file.chmod(0o644)
    find_sign_ins(env)
    file.chmod(0o664)
    with pytest.raises(ConfigError, match="others may write it, and it names commands"):
        find_sign_ins(env)


def test_secrets_come_by_variables_and_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").write_text(SECRET + "\n")
    given = {"MLFLOW_EXEC_AUTH": "oidc", "MLFLOW_EXEC_AUTH_ISSUER": "https://i",
             "MLFLOW_EXEC_AUTH_CLIENT_ID": "c"}  # fmt: skip
    by_variable = {"MLFLOW_EXEC_AUTH_CLIENT_SECRET": SECRET}
    by_file = {"MLFLOW_EXEC_AUTH_CLIENT_SECRET_FILE": f"{tmp_path}/secret"}
    monkeypatch.setenv("MLFLOW_EXEC_AUTH_CLIENT_SECRET", SECRET)
    for more in (by_variable, by_file):
        (found,) = find_sign_ins({**given, **more})
        assert found.settings.client_secret.reveal() == SECRET  # type: ignore[attr-defined]
        assert SECRET not in repr(found.settings)
    with pytest.raises(ConfigError, match="client_secret: it is given by a variable and by a file"):
        find_sign_ins({**given, **by_variable, **by_file})


@pytest.mark.parametrize("token", ["", "two words", "with\nline", "ünicode", "a\tb"])
def test_what_is_no_token_is_not_shown(token: str) -> None:
    with pytest.raises(CredentialError, match="somewhere: what it gives is no token") as told:
        Bearer.of(token, "somewhere")
    assert not token or token not in str(told.value)


@pytest.mark.parametrize("expires_at_s", [float("inf"), float("nan"), 1e30])
def test_a_time_that_is_none_is_not_known(expires_at_s: float) -> None:
    assert Bearer.of("token", "somewhere", expires_at_s).expires_at_s is None

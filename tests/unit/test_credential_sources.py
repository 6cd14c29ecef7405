"""Where the credentials of a location come from, and that nothing shows them."""

from __future__ import annotations

import json
import logging
import sys
import traceback
from pathlib import Path

import pytest

from mlflow_exec.credential_sources import NOTHING, find_credential
from mlflow_exec.credentials import hide
from mlflow_exec.errors import CredentialError
from mlflow_exec.uris import Location

SECRET = "a-password-that-nobody-may-see"
PLACE = Location.parse("postgresql://files.example/mlflow")
NAMED = Location.parse("postgresql://files.example/mlflow?cred=team-a")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "credentials.yaml"
    path.write_text(f"team-a: {{hosts: files.example, user: me, password: {SECRET}}}\n")
    path.chmod(0o600)
    return path


HOST = {"MLFLOW_EXEC_SQL_HOST": "files.example"}


def env_of(file: Path) -> dict[str, str]:
    return {"MLFLOW_EXEC_CREDENTIALS": str(file)}


def test_a_named_entry_wins_over_everything_else(file: Path) -> None:
    others = {**HOST, "MLFLOW_EXEC_SQL_USER": "other", "MLFLOW_EXEC_SQL_PASSWORD": "other"}
    found = find_credential(NAMED, {**env_of(file), **others})
    assert (found.get("user"), found.get("password")) == ("me", SECRET)
    assert found.source == f"entry 'team-a' of {file}"
    assert SECRET not in f"{found}"
    assert find_credential(PLACE, {**env_of(file), **others}).get("user") == "other"


def test_an_entry_that_refers_to_a_file_is_read_anew_when_that_changes(
    file: Path, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    file.write_text(
        f"team-a: {{hosts: files.example, token: {{file: {token}}}, user: {{env: WHO}}}}"
    )
    found = find_credential(NAMED, {**env_of(file), "WHO": "me"})
    assert (found.get("token"), found.get("user")) == ("first", "me")
    token.write_text("second\n")
    assert found.get("token") == "second"
    token.unlink()
    with pytest.raises(CredentialError, match="No such file"):
        found.get("token")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_may_read_is_refused(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(CredentialError, match="others may read it; chmod 600"):
        find_credential(NAMED, env_of(file))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("other: {user: me}", "there is no entry 'team-a'; known: other"),
        ("", "known: none"),
        (f"team-a: {{pasword: {SECRET}}}", "unknown field 'pasword'; known: hosts, user, password"),
        (f"team-a: {{password: [{SECRET}]}}", "password: a text, {env: NAME} or"),
        ("team-a: {token: {env: NOT_SET}}", "the variable NOT_SET is not set"),
        (f"team-a: {SECRET}", "fields are needed"),
        (f"team-a: {{exec: {SECRET}}}", "a list of words is needed"),
        (f"team-a: [{SECRET}", "it is not YAML"),
        (f"- {SECRET}", "entries by their names are needed"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_the_file_is_said_without_a_value(
    file: Path, text: str, says: str
) -> None:
    file.write_text(text)
    with pytest.raises(CredentialError) as told:
        find_credential(NAMED, env_of(file))
    assert says in str(told.value)
    assert SECRET not in str(told.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CredentialError, match="No such file"):
        find_credential(NAMED, env_of(tmp_path / "none.yaml"))


def test_variables_of_the_systems_own_tools_and_files_that_they_name(tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text(SECRET + "\n")
    env = {**HOST, "MLFLOW_EXEC_SQL_USER": "me", "MLFLOW_EXEC_SQL_PASSWORD_FILE": str(password)}
    found = find_credential(PLACE, env)
    assert (found.get("user"), found.get("password")) == ("me", SECRET)
    assert found.source == f"file {password}"


def test_a_mounted_secret(tmp_path: Path) -> None:
    (tmp_path / "..data").mkdir()  # as the kubelet has it
    (tmp_path / "hosts").write_text("other.example\nFiles.example:5432\n")
    (tmp_path / "user").write_text("me")
    (tmp_path / "password").write_text(SECRET)
    found = find_credential(PLACE, {"MLFLOW_EXEC_CREDENTIALS_DIR": str(tmp_path)})
    assert (found.get("user"), found.get("password")) == ("me", SECRET)
    with pytest.raises(CredentialError, match="No such file"):
        find_credential(PLACE, {"MLFLOW_EXEC_CREDENTIALS_DIR": str(tmp_path / "none")})


def mounted(folder: Path, **fields: str) -> dict[str, str]:
    for name, value in fields.items():
        (folder / name).write_text(value)
    return {"MLFLOW_EXEC_CREDENTIALS_DIR": str(folder)}


BUCKET = Location.parse("fsspec+s3://bucket/mlflow")
ENDPOINT = {"MLFLOW_S3_ENDPOINT_URL": "https://of-a-variable.example"}


def test_a_variable_without_a_secret_does_not_hide_a_mounted_one(tmp_path: Path) -> None:
    env = {**mounted(tmp_path, key_id="id", key_secret=SECRET), **ENDPOINT}
    found = find_credential(BUCKET, env)
    assert (found.get("key_id"), found.get("key_secret")) == ("id", SECRET)
    assert found.get("endpoint") == "https://of-a-variable.example"
    assert found.source == f"folder {tmp_path}"


def test_a_mounted_secret_goes_where_it_says_itself_before_where_variables_say(
    tmp_path: Path,
) -> None:
    env = mounted(tmp_path, key_secret=SECRET, endpoint="https://its-own.example")
    assert find_credential(BUCKET, {**env, **ENDPOINT}).get("endpoint") == "https://its-own.example"
    (tmp_path / "of-sql").mkdir()
    env = mounted(tmp_path / "of-sql", password=SECRET)
    assert find_credential(PLACE, {**env, **HOST}).get("password") == SECRET
    for hosts in ("other.example", ""):
        env = mounted(tmp_path / "of-sql", hosts=hosts)
        with pytest.raises(CredentialError, match=f"from folder {tmp_path}/of-sql is for") as told:
            find_credential(PLACE, {**env, **HOST})
        assert "by environment variable" not in str(told.value)


def test_what_is_named_or_says_where_it_belongs_is_whole(file: Path, tmp_path: Path) -> None:
    assert find_credential(NAMED, {**env_of(file), **HOST}).is_whole
    assert not find_credential(BUCKET, ENDPOINT).is_whole
    env = {**mounted(tmp_path, key_secret=SECRET), **ENDPOINT}
    assert not find_credential(BUCKET, env).is_whole
    mounted(tmp_path, endpoint="https://its-own.example")
    assert find_credential(BUCKET, env).is_whole


def test_secrets_of_variables_and_of_a_folder_are_never_mixed(tmp_path: Path) -> None:
    env = mounted(tmp_path, hosts="files.example", user="me")
    env["MLFLOW_EXEC_SQL_PASSWORD"] = SECRET
    with pytest.raises(CredentialError, match="MLFLOW_EXEC_SQL_PASSWORD is for no host"):
        find_credential(PLACE, env)
    found = find_credential(PLACE, {**mounted(tmp_path, token=SECRET), **env, **HOST})
    assert sorted(found.fields) == ["hosts", "password"]


def test_where_no_secret_is_given_that_is_said_of_the_source(tmp_path: Path) -> None:
    said = "MLFLOW_S3_ENDPOINT_URL, where no secret is; the SDK's own chain"
    assert said in find_credential(BUCKET, ENDPOINT).source
    env = {**mounted(tmp_path, user="mounted", hosts="files.example"), **HOST}
    assert find_credential(PLACE, {**env, "MLFLOW_EXEC_SQL_USER": "me"}).get("user") == "me"
    assert find_credential(PLACE, env).get("user") == "mounted"


def test_where_nothing_is_given_it_is_left_to_the_sdk() -> None:
    assert find_credential(PLACE, {}) is NOTHING
    assert not NOTHING.is_whole


def test_a_password_in_a_uri_is_used_with_a_warning_that_names_the_way_on(
    caplog: pytest.LogCaptureFixture, file: Path
) -> None:
    place = Location.parse(f"postgresql://me:{SECRET}@files.example/mlflow")
    with caplog.at_level(logging.WARNING):
        found = find_credential(place, env_of(file))
    assert (found.get("user"), found.get("password")) == ("me", SECRET)
    assert "use postgresql://me@files.example/mlflow?cred=NAME" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    "env", [{"MLFLOW_EXEC_STRICT": "1"}, {"_MLFLOW_SERVER_ARTIFACT_ROOT": "./mlruns"}]
)
def test_a_password_in_a_uri_is_refused_in_servers_and_where_that_is_wanted(
    env: dict[str, str],
) -> None:
    with pytest.raises(CredentialError, match="a password in a URI is refused here") as told:
        find_credential(Location.parse(f"postgresql://me:{SECRET}@h/a"), env)
    assert SECRET not in str(told.value)


def command(file: Path, program: str, *arguments: str) -> None:
    words = [sys.executable, "-c", program, *arguments]
    file.write_text(f"team-a: {{hosts: [files.example], exec: {json.dumps(words)}}}")


COUNTS = """
import json, pathlib, sys
count = pathlib.Path(sys.argv[1])
count.write_text(str(int(count.read_text()) + 1))
print(json.dumps({"status": {"token": "token-" + count.read_text(), **json.loads(sys.argv[2])}}))
"""


@pytest.mark.parametrize(
    ("expires", "second"),
    [({}, "token-1"), ({"expirationTimestamp": "2999-01-01T00:00:00Z"}, "token-1"),
     ({"expirationTimestamp": "2000-01-01T00:00:00Z"}, "token-3")],
)  # fmt: skip
def test_a_command_is_run_again_when_what_it_printed_has_expired(
    file: Path, tmp_path: Path, expires: dict[str, str], second: str
) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    command(file, COUNTS, str(count), json.dumps(expires))
    found = find_credential(NAMED, env_of(file))
    assert found.get("token") == ("token-1" if second == "token-1" else "token-2")
    assert found.get("token") == second


def test_a_command_is_run_once_for_all_who_open_a_location(file: Path, tmp_path: Path) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    command(file, COUNTS, str(count), "{}")
    assert [find_credential(NAMED, env_of(file)).get("token") for _ in range(3)] == ["token-1"] * 3


@pytest.mark.parametrize(
    ("program", "says"),
    [("import sys; sys.exit('vault is sealed')", "exit code 1: vault is sealed"),
     (f"print('{SECRET}')", "it does not print a JSON object"), ("print('[1]')", "JSON object")],
)  # fmt: skip
def test_a_command_that_fails(file: Path, program: str, says: str) -> None:
    command(file, program)
    with pytest.raises(CredentialError) as told:
        find_credential(NAMED, env_of(file))
    assert says in str(told.value)
    assert SECRET not in str(told.value)


def test_a_command_that_is_not_there(file: Path) -> None:
    file.write_text("team-a: {exec: [/no/such/command]}")
    with pytest.raises(CredentialError, match=r"exec: /no/such/command: FileNotFoundError"):
        find_credential(NAMED, env_of(file))


def test_a_command_that_takes_too_long_does_not_show_its_words(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mlflow_exec.exec_credentials._PATIENCE_S", 0.2)
    command(file, "import time; time.sleep(60)", SECRET)
    with pytest.raises(CredentialError) as told:
        find_credential(NAMED, env_of(file))
    assert SECRET not in "".join(traceback.format_exception(told.value))


@pytest.mark.parametrize("hosts", ["", "evil.example", "files.example:5433", "example"])
def test_a_credential_goes_to_no_host_that_it_is_not_for(hosts: str) -> None:
    env = {"MLFLOW_EXEC_SQL_PASSWORD": SECRET, "MLFLOW_EXEC_SQL_HOST": hosts}
    with pytest.raises(CredentialError, match=r"is for .*; if it may be sent there, name") as told:
        find_credential(PLACE, env)
    assert SECRET not in str(told.value)


def test_a_password_beside_a_name_is_refused_where_it_would_be_alone(file: Path) -> None:
    place = Location.parse(f"postgresql://me:{SECRET}@files.example/mlflow?cred=team-a")
    with pytest.raises(CredentialError, match="a password in a URI is refused here"):
        find_credential(place, {**env_of(file), "MLFLOW_EXEC_STRICT": "1"})
    assert find_credential(place, env_of(file)).source.startswith("entry 'team-a'")


def test_a_users_name_is_no_secret_to_hide(file: Path) -> None:
    file.write_text("team-a: {hosts: files.example, user: a-users-name}")
    assert find_credential(NAMED, env_of(file)).get("user") == "a-users-name"
    assert hide("a-users-name") == "a-users-name"

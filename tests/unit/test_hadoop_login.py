"""Who asks a Hadoop cluster."""

from __future__ import annotations

import getpass
import struct
import sys
from pathlib import Path

import pytest

from mlflow_exec.clients.hadoop_config import HadoopConfig
from mlflow_exec.clients.hadoop_login import Login, find_login, keytab_principals, short_name
from mlflow_exec.errors import ConfigError, MissingExtraError

SIMPLE = HadoopConfig(Path("/conf"), "a test", {})
SECURE = HadoopConfig(Path("/conf"), "a test", {"hadoop.security.authentication": "kerberos"})


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HADOOP_USER_NAME", "HADOOP_PROXY_USER"):
        monkeypatch.delenv(name, raising=False)


def keytab(*principals: str, hole: bool = False) -> bytes:
    """The bytes of a keytab with a key of each principal."""

    def counted(text: str) -> bytes:
        return struct.pack(">H", len(text)) + text.encode()

    content = b"\x05\x02"
    for principal in principals:
        name, _, realm = principal.partition("@")
        parts = name.split("/")
        entry = struct.pack(">h", len(parts)) + b"".join(map(counted, [realm, *parts]))
        entry += struct.pack(">IIBH", 1, 0, 1, 18) + counted("k" * 32)
        content += struct.pack(">i", len(entry)) + entry
        content += (struct.pack(">i", -7) + b"x" * 7) if hole else b""
    return content


def written(folder: Path, content: bytes) -> str:
    (folder / "my.keytab").write_bytes(content)
    return str(folder / "my.keytab")


# -- a name alone ---------------------------------------------------------------------------


def test_the_setting_wins_then_the_variable_then_this_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert find_login(SIMPLE) == Login(getpass.getuser())
    monkeypatch.setenv("HADOOP_USER_NAME", "of-variable")
    assert find_login(SIMPLE).user == "of-variable"
    assert find_login(SIMPLE, user="given").user == "given"


def test_a_proxy_user_of_the_environment_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HADOOP_USER_NAME", "me")
    monkeypatch.setenv("HADOOP_PROXY_USER", "you")
    login = find_login(SIMPLE)
    assert (login.user, login.proxy_user, login.effective_user) == ("me", "you", "you")
    assert find_login(SIMPLE, user="given").effective_user == "given"


def test_a_principal_is_refused_where_it_does_nothing() -> None:
    with pytest.raises(ConfigError, match=r"principal.*/conf does not sign in by Kerberos"):
        find_login(SIMPLE, principal="me@R")


# -- Kerberos -------------------------------------------------------------------------------


def test_a_keytab_needs_its_principal() -> None:
    with pytest.raises(ConfigError, match="'principal' is missing"):
        find_login(SECURE, keytab="/x")


@pytest.mark.parametrize("principal", ["me/host.x@REALM", "me/host.x"])
def test_a_keytab_gives_the_login(tmp_path: Path, principal: str) -> None:
    path = written(tmp_path, keytab("you@REALM", "me/host.x@REALM", hole=True))
    assert find_login(SECURE, principal=principal, keytab=path) == Login(
        "me", principal="me/host.x@REALM", keytab=path, kerberos=True
    )


def test_another_user_is_asked_for_with_kerberos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, keytab("me@R"))
    monkeypatch.setenv("HADOOP_USER_NAME", "nobody-listens-to-this")
    login = find_login(SECURE, user="you", principal="me@R", keytab=path)
    assert (login.user, login.proxy_user) == ("me", "you")
    assert find_login(SECURE, user="me", principal="me@R", keytab=path).proxy_user is None


def test_a_keytab_that_is_none_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, keytab("you@R", "they/x@R"))
    with pytest.raises(ConfigError, match=r"no key of 'me@R'; it holds those of you@R, they/x@R"):
        find_login(SECURE, principal="me@R", keytab=path)
    with pytest.raises(ConfigError, match=r"nosuch' cannot be read: No such file"):
        find_login(SECURE, principal="me@R", keytab=str(tmp_path / "nosuch"))
    for content in (b"", b"-----BEGIN", keytab("you@R")[:20]):
        with pytest.raises(ConfigError, match=r"is no keytab|holds no key"):
            find_login(SECURE, principal="me@R", keytab=written(tmp_path, content))


def test_a_keytab_names_each_principal_once() -> None:
    assert keytab_principals(keytab("a@R", "b/c@R", "a@R")) == ["a@R", "b/c@R"]


def test_the_user_is_the_first_part_of_a_principal() -> None:
    assert [short_name(name) for name in ("me@R", "me/host@R", "me")] == ["me", "me", "me"]


def test_without_the_python_packages_the_error_names_the_extra(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "gssapi", None)
    with pytest.raises(MissingExtraError, match=r"mlflow-exec\[yarn-kerberos\]"):
        find_login(SECURE)


def test_without_a_ticket_the_error_says_how_to_get_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gssapi")
    monkeypatch.setenv("KRB5CCNAME", f"FILE:{tmp_path}/nosuch")
    with pytest.raises(ConfigError, match="run kinit, or give 'principal' and 'keytab'"):
        find_login(SECURE)

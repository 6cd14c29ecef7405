"""Artifacts in a real OpenSSH server's files."""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage.folders import PART
from mlflow_exec.storage.sent import Sent
from mlflow_exec.storage.sftp import SftpStore
from mlflow_exec.testing.stores import StoreConformance, Stored
from mlflow_exec.uris import Location
from tests.conformance.cutting import assert_survives_cuts
from tests.file_servers import SshServer, ssh_server
from tests.unit.tcp_link import TcpLink


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def signed_in(server: SshServer, **changes: str) -> Credential:
    given = {"private_key": server.private_key, "host_key": server.host_key, **changes}
    return Credential(
        "the test", {name: Secret.of(value, "the test") for name, value in given.items() if value}
    )


def at(server: SshServer, name: str, port: int | None = None) -> Location:
    where = f"{server.user}@127.0.0.1:{port or server.port}"
    return Location.parse(f"fsspec+sftp://{where}{server.folder}/{name}")


class TestSftp(StoreConformance):
    @pytest.fixture
    def stored(self, server: SshServer) -> Stored:
        return Stored(lambda name: SftpStore(at(server, name), signed_in(server)))


def test_a_connection_that_breaks_in_the_middle_loses_nothing(server: SshServer) -> None:
    link = TcpLink("127.0.0.1", server.port)
    store = SftpStore(at(server, "cut", link.port), signed_in(server))
    assert_survives_cuts(store, link)
    assert [path.name for path in (server.folder / "cut").iterdir()] == ["d"], "no part is left"
    store.delete("")
    store.close()
    link.close()


def test_what_a_disk_has_garbled_is_noticed_where_files_are_read_back(
    server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SftpStore(at(server, "garbled"), signed_in(server))
    write, text = store._folders.write, random.randbytes(3_000_000)

    def garble(path: str, content: Sent) -> None:
        write(path, content)
        with open(path, "r+b") as file:
            file.seek(2_000_000)
            file.write(b"garbled")

    monkeypatch.setenv("MLFLOW_EXEC_READ_BACK", "1")
    store.put("a", io.BytesIO(text))
    assert b"".join(store.read("a")) == text
    monkeypatch.setattr(store._folders, "write", garble)
    with pytest.raises(ArtifactError, match="'b': what is there is not what was sent"):
        store.put("b", io.BytesIO(text))
    assert [path.name for path in (server.folder / "garbled").iterdir()] == ["a"]
    monkeypatch.undo()
    store.delete("")


def test_parts_of_who_was_killed_a_day_ago_are_removed_by_a_large_upload(
    server: SshServer,
) -> None:
    store = SftpStore(at(server, "swept"), signed_in(server))
    store.put("a", io.BytesIO(b"1"))
    folder = server.folder / "swept"
    for name, age_s in (("old", 25 * 3600), ("new", 3600)):
        (folder / f"{PART}{name}").write_bytes(b"half")
        then_s = time.time() - age_s
        os.utime(folder / f"{PART}{name}", (then_s, then_s))
    assert [entry.path for entry in store.entries("")] == ["a"]
    store.put("large", io.BytesIO(bytes(9_000_000)))
    assert sorted(path.name for path in folder.iterdir()) == [f"{PART}new", "a", "large"]
    store.delete("")
    assert not folder.exists()


def test_a_wrong_key_is_one_sentence(server: SshServer) -> None:
    store = SftpStore(at(server, "x"), signed_in(server, private_key=server.other_key))
    with pytest.raises(ArtifactError, match=r"Permission denied.*from the test") as told:
        store.entries("")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("known", ["no key", "another key"])
def test_a_machine_whose_key_is_not_known_is_not_spoken_to(
    server: SshServer, known: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    host_key = {"no key": "", "another key": server.other_host_key}[known]
    store = SftpStore(at(server, "x"), signed_in(server, host_key=host_key))
    with pytest.raises(ArtifactError, match="known_hosts"):
        store.entries("")


def test_a_server_that_is_not_there(server: SshServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.5)
    store = SftpStore(replace(at(server, "x"), port=9), signed_in(server))
    with pytest.raises(ArtifactError, match=r"(?i)connect call failed|refused"):
        store.entries("")

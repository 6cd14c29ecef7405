"""Artifacts in a real OpenSSH server's files."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage.sftp import SftpStore
from mlflow_exec.testing.stores import StoreConformance, Stored
from mlflow_exec.uris import Location
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
    text = random.randbytes(40_000_000)
    cuts = 0

    def cut() -> None:
        nonlocal cuts
        cuts += 1
        link.cut()
        threading.Timer(0.5, link.mend).start()

    class Cuts(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if cuts == 0 and self.tell() > 4_000_000:
                cut()
            return super().read(size)

    store.put("d/large", Cuts(text))
    read = b""
    for piece in store.read("d/large"):
        if cuts == 1 and len(read) > 4_000_000:
            cut()
        read += piece
    assert cuts == 2
    assert read == text
    assert [path.name for path in (server.folder / "cut").iterdir()] == ["d"], "no part is left"
    store.delete("")
    store.close()
    link.close()


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

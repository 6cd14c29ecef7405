"""Artifacts on a real WebDAV server."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage.webdav import WebdavStore
from mlflow_exec.testing.stores import StoreConformance, Stored
from mlflow_exec.uris import Location
from tests.databases import PASSWORD, USER
from tests.file_servers import FileServer, apache, wsgidav
from tests.unit.tcp_link import TcpLink


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    with apache(tmp_path_factory.mktemp("apache")) as server:
        yield server


def store_at(port: int, name: str, password: str = PASSWORD) -> WebdavStore:
    location = Location.parse(f"webdav://{USER}@127.0.0.1:{port}/artifacts/{name}")
    return WebdavStore(location, Credential("the test", {"password": Secret.of(password, "test")}))


class TestWebdav(StoreConformance):
    @pytest.fixture
    def stored(self, server: FileServer) -> Stored:
        return Stored(lambda name: store_at(server.port, name), replaces_at_once=False)


def test_a_connection_that_breaks_in_the_middle_loses_nothing(server: FileServer) -> None:
    link = TcpLink("127.0.0.1", server.port)
    store = store_at(link.port, "cut")
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
    assert [path.name for path in (server.folder / "artifacts/cut").iterdir()] == ["d"]
    store.delete("")
    store.close()
    link.close()


def test_a_wrong_password_is_one_sentence_without_it(server: FileServer) -> None:
    with pytest.raises(ArtifactError, match=r"401.*from the test") as told:
        store_at(server.port, "x", "another-password").entries("")
    assert "another-password" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.5)
    with pytest.raises(ArtifactError, match="refused"):
        store_at(9, "x").entries("")


def test_a_server_that_mistakes_a_name_is_noticed(tmp_path: Path) -> None:
    with wsgidav(tmp_path) as server:
        store = store_at(server.port, "x")
        store.put("a#b/100%/c", io.BytesIO(b"1"))
        assert b"".join(store.read("a#b/100%/c")) == b"1"
        with pytest.raises(ArtifactError, match="moved it to another name"):
            store.put("a?b", io.BytesIO(b"1"))
        store.close()

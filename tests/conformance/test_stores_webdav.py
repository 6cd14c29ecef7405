"""Artifacts on a real WebDAV server."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage.webdav import WebdavStore
from mlflow_exec.testing.stores import StoreConformance, Stored, tree
from mlflow_exec.uris import Location
from tests.conformance.cutting import assert_survives_cuts
from tests.conformance.small_disks import assert_says_that_it_is_full, small_disk
from tests.databases import PASSWORD, USER
from tests.file_servers import FileServer, apache, wsgidav
from tests.unit.tcp_link import TcpLink


@pytest.fixture(scope="module")
def server() -> Iterator[FileServer]:
    with apache() as server:
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
    assert_survives_cuts(store, link)
    assert [path.name for path in (server.folder / "artifacts/cut").iterdir()] == ["d"]
    store.delete("")
    store.close()
    link.close()


def test_a_disk_that_is_full_is_told_of_and_nothing_is_lost(server: FileServer) -> None:
    with small_disk(server.folder / "artifacts/full"):
        assert_says_that_it_is_full(store_at(server.port, "full/x"), "Insufficient Storage")


def test_what_is_larger_than_the_server_takes_says_where_that_is_set(server: FileServer) -> None:
    store = store_at(server.port, "limited")
    store.put("small", io.BytesIO(bytes(900_000)))
    with pytest.raises(ArtifactError, match=r"413 .* see its LimitRequestBody") as told:
        store.put("large", io.BytesIO(bytes(1_100_000)))
    assert "\n" not in str(told.value)
    assert tree(store) == ["small"]
    assert [path.name for path in (server.folder / "artifacts/limited").iterdir()] == ["small"]
    store.delete("")
    store.close()


def test_texts_that_the_server_would_compress_come_as_they_are(server: FileServer) -> None:
    store = store_at(server.port, "texts")
    for text in (b"text " * 1000, b"", b"a"):
        store.put("d/a.txt", io.BytesIO(text))
        assert b"".join(store.read("d/a.txt")) == text
    store.delete("")


def test_a_file_that_is_replaced_while_it_comes_is_never_mixed(server: FileServer) -> None:
    link = TcpLink("127.0.0.1", server.port)
    store, other = store_at(link.port, "mixed"), store_at(server.port, "mixed")
    ones, twos = b"1" * 20_000_000, b"2" * 20_000_000
    store.put("a", io.BytesIO(ones))
    pieces = store.read("a")
    begun = next(pieces)
    other.put("a", io.BytesIO(twos))
    link.cut()
    link.mend()
    assert begun == ones[: len(begun)]
    with pytest.raises(ArtifactError, match="was replaced while it was read"):
        list(pieces)
    store.delete("")
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
        with pytest.raises(ArtifactError, match=r"mistakes '\?' and ';'"):
            store.put("a?b", io.BytesIO(b"1"))
        store.close()

"""Artifacts in a file system of fsspec: that of FTP, against pyftpdlib."""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import NOTHING, Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError, LocationError
from mlflow_exec.schemes import BY_NAME
from mlflow_exec.storage.folders_fsspec import FsspecStore
from mlflow_exec.testing.stores import StoreConformance, Stored, content, put, tree
from mlflow_exec.uris import Location
from tests.conformance.cutting import assert_survives_cuts
from tests.databases import PASSWORD, USER
from tests.file_servers import FileServer, ftp
from tests.unit.tcp_link import TcpLink


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    with ftp(tmp_path_factory.mktemp("ftp")) as server:
        yield server


def signed_in(password: str = PASSWORD) -> Credential:
    fields = {"user": USER, "password": password}
    return Credential("the test", {n: Secret.of(value, "the test") for n, value in fields.items()})


def at(server: FileServer, name: str) -> Location:
    return Location.parse(f"fsspec+ftp://127.0.0.1:{server.port}/{name}")


def store_at(server: FileServer, name: str) -> FsspecStore:
    return FsspecStore(at(server, name), signed_in())


class TestFtp(StoreConformance):
    @pytest.fixture
    def stored(self, server: FileServer) -> Stored:
        return Stored(lambda name: store_at(server, name))


def test_a_connection_that_breaks_in_the_middle_loses_nothing(server: FileServer) -> None:
    link = TcpLink("127.0.0.1", server.port)
    store = FsspecStore(replace(at(server, "cut"), port=link.port), signed_in())
    assert_survives_cuts(store, link)
    assert [path.name for path in (server.folder / "cut").iterdir()] == ["d"], "no part is left"
    store.delete("")
    link.close()


def test_connections_that_the_server_has_closed_meanwhile_are_made_anew(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.1)
    link = TcpLink("127.0.0.1", server.port)
    store = FsspecStore(replace(at(server, "idle"), port=link.port), signed_in())
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: put(store, f"{i}", b"1"), range(32)))
    assert link.connections > 2
    for read in (lambda: content(store, "1"), lambda: put(store, "2", b"2")):
        link.cut()
        link.mend()
        read()
    assert content(store, "2") == b"2"
    store.delete("")
    link.close()


def test_a_download_that_is_not_read_to_its_end_leaves_nothing_behind(server: FileServer) -> None:
    store, text = store_at(server, "left"), random.randbytes(20_000_000)
    put(store, "a", text)
    for _ in range(3):
        pieces = store.read("a")
        assert text.startswith(next(pieces))
        pieces.close()  # type: ignore[attr-defined]
    assert content(store, "a") == text
    store.delete("")


@pytest.mark.parametrize("length_is_known", [True, False])
def test_an_upload_into_a_place_that_others_have_removed_is_whole(
    server: FileServer, length_is_known: bool
) -> None:
    store, text = store_at(server, "gone"), random.randbytes(5_000_000)
    put(store, "d/first", b"1")
    shutil.rmtree(server.folder / "gone")
    sent: BinaryIO = io.BytesIO(text)
    if not length_is_known:
        sent.seekable = lambda: False  # type: ignore[method-assign]
    store.put("d/second", sent)
    assert content(store, "d/second") == text
    store.delete("")


def test_what_looks_like_a_pattern_is_a_name(server: FileServer) -> None:
    store = store_at(server, "patterns")
    for name in ("*/a", "[ab]/a", "a", "b", "ab/c"):
        put(store, name, b"1")
    store.delete("*")
    store.delete("[ab]")
    assert tree(store) == ["a", "ab/", "ab/c", "b"]
    store.delete("")


def test_a_wrong_password_is_one_sentence_without_it(server: FileServer) -> None:
    store = FsspecStore(at(server, "x"), signed_in("not-the-right-one"))
    with pytest.raises(ArtifactError, match=r"530 .*with the credential from the test") as told:
        store.entries("")
    assert "\n" not in str(told.value)
    assert "not-the-right-one" not in str(told.value)


def test_who_has_no_credential_is_told_so(server: FileServer) -> None:
    with pytest.raises(ArtifactError, match=r"530 .*credential from nothing of ours"):
        FsspecStore(at(server, "x"), NOTHING).entries("")


def test_what_a_server_cannot_tell_now_is_not_taken_for_nothing(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "_FIRST_S", 0.01)
    store, busy = store_at(server, "busy"), server.folder.parent / "busy"
    put(store, "d/a", b"1")

    def refused(times: int) -> FsspecStore:
        busy.write_text(str(times))
        return store

    for times in (1, 2):
        assert [entry.path for entry in refused(times).entries("d")] == ["d/a"]
        assert not busy.exists()
    refused(1).delete("d")
    assert not busy.exists()
    assert not (server.folder / "busy" / "d").exists()
    store.delete("")


@pytest.mark.parametrize("knows_facts", [True, False])
def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(
    tmp_path: Path, knows_facts: bool
) -> None:
    with ftp(tmp_path, knows_facts=knows_facts) as server:
        store, folder = store_at(server, "closed"), server.folder / "closed" / "d"
        put(store, "d/a", b"1")
        folder.chmod(0o300)
        for action in (store.entries, store.delete):
            with pytest.raises(ArtifactError, match=r"550 .*Permission denied") as told:
                action("d")
            assert "\n" not in str(told.value)
        folder.chmod(0o700)
        assert [entry.path for entry in store.entries("d")] == ["d/a"]


def test_a_password_in_the_settings_of_fsspec_is_sent_nowhere(
    server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for_another = {"username": USER, "password": PASSWORD}
    monkeypatch.setitem(fsspec.config.conf, "ftp", for_another)
    with pytest.raises(ArtifactError, match=r"530 .*credential from nothing of ours"):
        FsspecStore(at(server, "settings"), NOTHING).entries("")


def test_a_server_that_is_not_there(server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.5)
    with pytest.raises(ArtifactError, match=r"FTP 127\.0\.0\.1:9/x: .*refused"):
        FsspecStore(replace(at(server, "x"), port=9), signed_in()).entries("")


def test_a_file_system_that_copies_instead_of_renaming_is_refused() -> None:
    assert MemoryFileSystem.mv is fsspec.AbstractFileSystem.mv
    scheme = replace(BY_NAME["fsspec+ftp"], name="fsspec+memory")
    with pytest.raises(LocationError, match="MemoryFileSystem moves a file by copying it"):
        FsspecStore(Location(scheme, ("x",), "files.example"), NOTHING)

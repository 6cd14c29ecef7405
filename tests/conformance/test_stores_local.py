"""Artifacts in a folder of this machine."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from mlflow_exec.credential_sources import NOTHING
from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage import local
from mlflow_exec.storage.base import Entry
from mlflow_exec.storage.local import LocalStore
from mlflow_exec.testing.stores import Random, StoreConformance, Stored, content, put
from mlflow_exec.uris import Location


def store_at(folder: Path) -> LocalStore:
    return LocalStore(Location.parse(f"file-plugin:{folder}"), NOTHING)


class TestLocal(StoreConformance):
    @pytest.fixture
    def stored(self, tmp_path: Path) -> Stored:
        return Stored(lambda name: store_at(tmp_path / name), by_sockets=False)


def test_nothing_is_made_before_something_is_kept(tmp_path: Path) -> None:
    store = store_at(tmp_path / "a")
    assert store.entries("") == []
    store.delete("")
    assert not (tmp_path / "a").exists()


def test_what_is_being_written_is_not_listed_and_not_left(tmp_path: Path) -> None:
    store = store_at(tmp_path)
    put(store, "d/a", b"1")
    seen: list[tuple[list[Entry], int]] = []

    class Looks(Random):
        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            seen.append((store.entries("d"), len(os.listdir(tmp_path / "d"))))
            return super().readinto(buffer)

    with pytest.raises(OSError, match="the disk is gone"):
        store.put("d/b", io.BufferedReader(Looks(2_000_000, breaks=True)))
    assert all(entries == [Entry("d/a", False, 1)] for entries, _ in seen)
    assert {count for _, count in seen} == {2}
    assert os.listdir(tmp_path / "d") == ["a"]


def test_a_folder_that_may_not_be_written_is_one_sentence() -> None:
    with pytest.raises(ArtifactError, match=r"^file-plugin:/proc/a: 'b/c': No such file or dir"):
        put(store_at(Path("/proc/a")), "b/c", b"1")


def test_what_is_read_back_and_differs_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_EXEC_READ_BACK", "1")
    store = store_at(tmp_path)
    put(store, "a", b"1" * 3_000_000)
    part_in = local._part_in

    class Damages(io.BufferedWriter):
        def write(self, piece: object) -> int:
            return super().write(b"2" * len(bytes(piece)))  # type: ignore[call-overload]

    monkeypatch.setattr(local, "_part_in", lambda folder: Damages(part_in(folder).detach()))  # type: ignore[attr-defined]
    with pytest.raises(ArtifactError, match="'b': what is there is not what was sent"):
        put(store, "b", b"1")
    assert store.entries("") == [Entry("a", False, 3_000_000)]


def test_what_stands_there_and_has_no_name_of_an_artifact_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "a\\b").write_text("1")
    (tmp_path / "c").write_text("1")
    store = store_at(tmp_path)
    assert store.entries("") == [Entry("c", False, 1)]
    assert content(store, "c") == b"1"

"""What every store of artifacts does, against the real system that it is for.

A test module inherits `StoreConformance` and has a fixture ``stored`` of type `Stored`.
"""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import pytest

from mlflow_exec.errors import ArtifactError, ArtifactNotFoundError, LocationError
from mlflow_exec.storage.base import Entry, Store
from mlflow_exec.testing import killed_uploads

ODD_NAMES = [
    "with blanks", "100%", "a%2fb", "a#b", "a?b=c&d", "ümlaut", "日本語", "a;b", "..a", "a'b",
    'a"b', "a+b", "a&b", "a=b", "[a]", "{a}", "$a", "~", ".hidden", "a" * 200,
]  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """One system that keeps artifacts.

    Attributes:
        store: Returns a store of its own at an empty place, the same one for the same name.
        replaces_at_once: Whether a file that is replaced is there all the time.
        has_folders: Whether a file and a folder of one name exclude each other.
        by_sockets: Whether contents pass sockets of Python's, where a test can count them.
    """

    store: Callable[[str], Store]
    replaces_at_once: bool = True
    has_folders: bool = True
    by_sockets: bool = True


class Random(io.RawIOBase):
    """Random content of a size; it may break off then, as when a disk is gone."""

    def __init__(
        self, size_bytes: int, digest: hashlib._Hash | None = None, *, breaks: bool = False
    ) -> None:
        self._left = size_bytes
        self._digest = digest
        self._breaks = breaks

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._left <= 0 and self._breaks:
            raise OSError("the disk is gone")
        count = min(len(buffer), self._left)
        buffer[:count] = random.randbytes(count)
        if self._digest is not None:
            self._digest.update(buffer[:count])
        self._left -= count
        return count


def content(store: Store, path: str) -> bytes:
    """Return what a store keeps as a file."""
    return b"".join(store.read(path))


def put(store: Store, path: str, text: bytes) -> None:
    """Keep a text as a file."""
    store.put(path, io.BytesIO(text))


def tree(store: Store, path: str = "") -> list[str]:
    """Return all paths below one, folders with a slash behind."""
    found = []
    for entry in store.entries(path):
        found += [f"{entry.path}/", *tree(store, entry.path)] if entry.is_folder else [entry.path]
    return found


class StoreConformance:
    """Each store keeps what it has acknowledged, whole, under the name that it was given."""

    @pytest.fixture
    def store(self, stored: Stored, request: pytest.FixtureRequest) -> Iterator[Store]:
        digest = hashlib.sha256(request.node.name.encode()).hexdigest()[:12]
        made = stored.store(f"t-{digest}")
        yield made
        made.delete("")
        assert made.entries("") == []
        made.close()

    @pytest.mark.parametrize("size_bytes", [0, 1, 1024 * 1024, 1024 * 1024 + 1, 5_000_000])
    def test_a_file_of_any_size_comes_back(self, store: Store, size_bytes: int) -> None:
        text = random.randbytes(size_bytes)
        put(store, "a/b.bin", text)
        assert content(store, "a/b.bin") == text
        assert store.entries("a") == [Entry("a/b.bin", False, size_bytes)]

    def test_odd_names_are_kept_as_they_are(self, store: Store) -> None:
        for name in ODD_NAMES:
            put(store, f"{name}/{name}", name.encode())
        assert [entry.path for entry in store.entries("")] == sorted(ODD_NAMES)
        for name in ODD_NAMES:
            assert content(store, f"{name}/{name}") == name.encode()
            assert store.entries(name) == [Entry(f"{name}/{name}", False, len(name.encode()))]

    def test_names_that_differ_in_case_only_are_two_files(self, store: Store) -> None:
        put(store, "d/Name", b"1")
        put(store, "d/name", b"2")
        assert (content(store, "d/Name"), content(store, "d/name")) == (b"1", b"2")
        assert [entry.path for entry in store.entries("d")] == ["d/Name", "d/name"]

    @pytest.mark.parametrize("path", ["../a", "/a", "a/../../b", "a\0", "a//b", "a\\b"])
    def test_paths_that_lead_elsewhere_are_refused(self, store: Store, path: str) -> None:
        for action in (
            lambda: put(store, path, b"1"), lambda: content(store, path),
            lambda: store.entries(path), lambda: store.delete(path),
        ):  # fmt: skip
            with pytest.raises(LocationError):
                action()

    def test_the_root_is_no_file(self, store: Store) -> None:
        with pytest.raises((ArtifactError, LocationError)):
            put(store, "", b"1")
        assert tree(store) == []

    def test_deep_paths(self, store: Store) -> None:
        path = "/".join(f"folder-{i}" for i in range(40)) + "/file"
        put(store, path, b"deep")
        assert content(store, path) == b"deep"
        assert tree(store)[-1] == path

    def test_listing_is_of_one_folder_and_of_no_neighbour(self, store: Store) -> None:
        for path in ("foo/a", "foo/b/c", "foobar/d", "foo.txt", "z"):
            put(store, path, b"1")
        assert [(e.path, e.is_folder) for e in store.entries("")] == [
            ("foo", True), ("foo.txt", False), ("foobar", True), ("z", False),
        ]  # fmt: skip
        assert [(e.path, e.is_folder) for e in store.entries("foo")] == [
            ("foo/a", False), ("foo/b", True),
        ]  # fmt: skip
        assert store.entries("foo.txt") == []
        assert store.entries("none") == []

    @pytest.mark.parametrize("count", [300, pytest.param(10_000, marks=pytest.mark.large)])
    def test_many_files_in_one_folder_are_all_listed(self, store: Store, count: int) -> None:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda i: put(store, f"many/{i:05}", b"%d" % i), range(count)))
        assert [e.path for e in store.entries("many")] == [f"many/{i:05}" for i in range(count)]

    def test_a_file_is_replaced_by_another_one(self, store: Store) -> None:
        put(store, "a", b"1" * 3_000_000)
        put(store, "a", b"22")
        assert content(store, "a") == b"22"
        assert store.entries("") == [Entry("a", False, 2)]

    def test_who_reads_while_a_file_is_replaced_sees_one_or_the_other(
        self, store: Store, stored: Stored
    ) -> None:
        texts = [b"1" * 3_000_000, b"2" * 2_500_000]
        put(store, "a", texts[0])

        def seen() -> bytes:
            try:
                return content(store, "a")
            except ArtifactNotFoundError:
                assert not stored.replaces_at_once
                return texts[0]

        with ThreadPoolExecutor(4) as pool:
            writes = [pool.submit(put, store, "a", texts[i % 2]) for i in range(6)]
            reads = [pool.submit(seen) for _ in range(6)]
            assert {found.result() for found in reads} <= set(texts)
            for written in writes:
                written.result()
        assert content(store, "a") in texts

    def test_of_many_writers_of_one_file_one_wins(self, store: Store) -> None:
        texts = {b"%d" % i * 400_000 for i in range(8)}
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda text: put(store, "d/a", text), texts))
        assert content(store, "d/a") in texts
        assert len(store.entries("d")) == 1

    @pytest.mark.parametrize("size_bytes", [0, 700_000, 3_000_000])
    def test_what_breaks_off_while_it_is_sent_is_not_there(
        self, store: Store, size_bytes: int
    ) -> None:
        put(store, "d/kept", b"before")
        for path in ("d/new", "d/kept"):
            broken: BinaryIO = io.BufferedReader(Random(size_bytes, breaks=True))
            with pytest.raises(OSError, match="the disk is gone"):
                store.put(path, broken)
        assert [entry.path for entry in store.entries("d")] == ["d/kept"]
        assert content(store, "d/kept") == b"before"

    def test_an_upload_whose_process_is_killed_leaves_what_was_kept_before(
        self, store: Store, stored: Stored
    ) -> None:
        killed_uploads.upload_and_be_killed(store, by_sockets=stored.by_sockets)
        assert tree(store) == ["d/", killed_uploads.PATH]
        assert content(store, killed_uploads.PATH) == killed_uploads.BEFORE
        put(store, killed_uploads.PATH, b"by another one")
        assert content(store, killed_uploads.PATH) == b"by another one"

    def test_a_file_that_is_not_there(self, store: Store) -> None:
        put(store, "d/a", b"1")
        for path in ("none", "d/none", "none/a", "d", "d/a/b"):
            with pytest.raises(ArtifactNotFoundError, match="there is no file"):
                content(store, path)

    def test_a_file_is_no_folder_and_a_folder_no_file(self, store: Store, stored: Stored) -> None:
        put(store, "a", b"1")
        put(store, "d/b", b"2")
        for path in ("a/b", "d"):
            if stored.has_folders:
                with pytest.raises(ArtifactError):
                    put(store, path, b"3")
            else:
                put(store, path, b"3")
                assert content(store, path) == b"3"
        there = ["a", "d/", "d/b"] if stored.has_folders else ["a", "a/", "a/b", "d", "d/", "d/b"]
        assert tree(store) == there

    def test_deleting_is_of_one_file_or_one_folder_with_all_in_it(self, store: Store) -> None:
        for path in ("foo/a", "foo/b/c", "foo/b/d/e", "foobar/d", "foo.txt"):
            put(store, path, b"1")
        store.delete("foo/a")
        assert [entry.path for entry in store.entries("foo")] == ["foo/b"]
        store.delete("foo")
        store.delete("foo")
        store.delete("none/at/all")
        assert tree(store) == ["foo.txt", "foobar/", "foobar/d"]
        put(store, "foo/a", b"2")
        assert tree(store) == ["foo/", "foo/a", "foo.txt", "foobar/", "foobar/d"]

    def test_another_store_of_the_same_place_sees_it_all(
        self, store: Store, stored: Stored
    ) -> None:
        put(store, "a/b", b"1")
        other = type(store)(store.location, store.credential)
        assert content(other, "a/b") == b"1"
        other.close()
        sibling = stored.store("t-other")
        assert sibling.entries("") == []
        sibling.close()

    @pytest.mark.parametrize(
        "size_bytes",
        [256 * 1024**2, pytest.param(5 * 1024**3, marks=pytest.mark.large)],
        ids=["256 MiB", "5 GiB"],
    )
    def test_a_large_file_passes_in_small_pieces(self, store: Store, size_bytes: int) -> None:
        sent, back, largest = hashlib.sha256(), hashlib.sha256(), 0
        store.put("large", io.BufferedReader(Random(size_bytes, sent), 1024 * 1024))
        assert store.entries("") == [Entry("large", False, size_bytes)]
        for piece in store.read("large"):
            back.update(piece)
            largest = max(largest, len(piece))
        assert back.hexdigest() == sent.hexdigest()
        assert largest <= 16 * 1024 * 1024

"""What goes wrong on the way to a bucket, held to each kind of bucket."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlflow_exec.clients import pauses
from mlflow_exec.errors import ArtifactError, RejectedError
from mlflow_exec.storage.base import Store
from mlflow_exec.storage.objects import ObjectStore
from mlflow_exec.storage.parts import PART_BYTES
from mlflow_exec.testing.stores import content, put
from tests.cloud_server import CHANGED, CUT, LOST, WHOLE, Answer, CloudServer, Fault, Request

ASKED_OF_S3 = {
    "part": ("PUT", "partNumber=2"), "end": ("POST", "uploadId="), "put": ("PUT", "faults/small"),
    "get large": ("GET", "faults/large"), "get small": ("GET", "faults/small"),
    "list": ("GET", "list-type"), "delete": ("POST", "delete"),
}  # fmt: skip
"""`Bucket.asked` of what speaks as S3 does."""
SMALL = b"some content" * 100  # so that its middle is not in what stands before it
LARGE = random.randbytes(PART_BYTES + 1_000_000)  # two parts


@dataclass(frozen=True)
class Bucket:
    """A bucket, and what stands before it.

    Attributes:
        server: What can be made to go wrong.
        store: Returns a store, by its name.
        asked: Method and target of the requests that send a part of ``large``, and make it of its
            parts, that send ``small``, read each of the two, list, and delete: ``part``, ``end``,
            ``put``, ``get large``, ``get small``, ``list``, ``delete``.
        unfinished: Returns the uploads in parts that were begun and neither ended nor removed.
        refusal: What is said of content that arrives changed, as a pattern, where it is noticed.
        knows_ended: Whether it tells again, to who asks again, that an upload was ended.
    """

    server: CloudServer
    store: Callable[[str], ObjectStore]
    asked: Mapping[str, tuple[str, str]]
    unfinished: Callable[[], Sized]
    refusal: str = ""
    knows_ended: bool = False

    def fault(self, request: str, kind: int, times: int = 1) -> Fault:
        """Return what lets one kind of request go wrong."""
        return Fault(*self.asked[request], kind, times)


def assert_pages_are_listed_and_deleted(store: Store, kept: Callable[[], dict[str, Any]]) -> None:
    """Have more below ``pages``, where a store is, than is told at a time.

    Args:
        store: Of a server of the tests.
        kept: Returns what that keeps, by key.
    """
    put(store, "a", b"1")
    one = kept()["pages/a"]
    kept().update({f"pages/many/{i:05}/{name}": one for i in range(2500) for name in "xy"})
    assert len(store.entries("many")) == 2500
    store.delete("many")
    assert [entry.path for entry in store.entries("")] == ["a"]
    store.delete("")


def assert_is_done_again(
    server: CloudServer, store: Store, fault: Fault, large: bytes = LARGE
) -> None:
    """Keep, read, list and delete ``large`` and ``small``, while a request for them goes wrong."""
    server.faults = [fault]
    put(store, "large", large)
    put(store, "small", SMALL)
    assert content(store, "large") == large
    assert content(store, "small") == SMALL
    assert len(store.entries("")) == 2
    store.delete("")
    assert store.entries("") == []
    assert fault.times == 0


def assert_a_folder_is_one_request(
    server: CloudServer, place: str, request: str, given: Mapping[str, bytes], folder: Path
) -> None:
    """Send a folder of files by MLflow, fetch it and delete it, each way by one request.

    Args:
        server: Of the tests.
        place: An artifact location there.
        request: What the target of a request has that gives names to files, or takes them.
        given: Files besides the small ones.
        folder: For files.
    """

    def requests(do: Callable[[], None]) -> int:
        before = len(server.asked)
        do()
        return sum(request in target for target in server.asked[before:])

    (folder / "given" / "d").mkdir(parents=True)
    for i in range(30):
        (folder / f"given/d/{i}").write_text(str(i))
    for name, content_ in given.items():
        (folder / "given" / name).write_bytes(content_)
    repository = get_artifact_repository(place)
    assert requests(lambda: repository.log_artifacts(str(folder / "given"), "model")) == 1
    assert len(repository.list_artifacts("model/d")) == 30
    got = Path(repository.download_artifacts("model", str(folder)))
    assert {name: (got / name).read_bytes() for name in given} == dict(given)
    assert [(got / f"d/{i}").read_text() for i in range(30)] == [str(i) for i in range(30)]
    assert requests(repository.delete_artifacts) == 1
    assert repository.list_artifacts() == []


class BucketFaults:
    """A test module inherits it, and has a fixture ``bucket`` of type `Bucket`."""

    @pytest.fixture(autouse=True)
    def soon(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """What fails is tried again soon."""
        monkeypatch.setattr(pauses, "_FIRST_S", 0.01)

    @pytest.fixture
    def faulty(self, bucket: Bucket) -> Iterator[ObjectStore]:
        store = bucket.store("faults")
        yield store
        bucket.server.faults = []
        store.delete("")
        assert store.entries("") == []

    @pytest.mark.parametrize(
        ("request_", "kind"),
        [("part", CUT), ("end", 503), ("put", 503), ("get large", CUT), ("get large", 429),
         ("list", CUT), ("delete", 503),
         ("put", LOST), ("part", LOST), ("end", LOST), ("delete", LOST)],
    )  # fmt: skip
    def test_what_fails_once_is_done_again(
        self, bucket: Bucket, faulty: ObjectStore, request_: str, kind: int
    ) -> None:
        before = len(bucket.unfinished())  # of the process that was killed
        assert_is_done_again(bucket.server, faulty, bucket.fault(request_, kind))
        assert len(bucket.unfinished()) == before

    @pytest.mark.parametrize("request_", ["put", "part", "end"])
    def test_a_system_that_is_full_is_told_of_at_once_and_nothing_is_lost(
        self, bucket: Bucket, faulty: ObjectStore, request_: str
    ) -> None:
        name = "small" if request_ == "put" else "large"
        put(faulty, name, b"before")
        bucket.server.faults = [bucket.fault(request_, 507, times=100)]
        with pytest.raises(ArtifactError, match="507") as told:
            put(faulty, name, LARGE if name == "large" else b"some content")
        assert isinstance(told.value.__cause__, RejectedError)
        assert [entry.path for entry in faulty.entries("")] == [name]
        assert content(faulty, name) == b"before"

    def test_of_a_server_that_takes_no_ranges_no_more_is_read_than_is_needed(
        self, bucket: Bucket, faulty: ObjectStore
    ) -> None:
        put(faulty, "large", LARGE)
        bucket.server.faults = [bucket.fault("get large", WHOLE, times=100)]
        assert content(faulty, "large") == LARGE

    def test_what_another_upload_has_replaced_before_it_was_asked_for_again_is_not_taken_for_ours(
        self, bucket: Bucket, faulty: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        answer = bucket.server.answer
        method, target = bucket.asked["end"]
        another, lost = bytes(len(LARGE)), 0

        def is_asked(request: Request) -> bool:
            sent = f"{request.target} {request.headers.get('Content-Range', '')}"
            return request.method == method and bool(re.search(target, sent))

        def losing(request: Request) -> Answer:
            nonlocal lost
            told = answer(request)
            if not lost and is_asked(request):
                lost += 1
                put(bucket.store("faults"), "large", another)
                raise ConnectionError("it is lost")
            return told

        monkeypatch.setattr(bucket.server, "answer", losing)
        with nullcontext() if bucket.knows_ended else pytest.raises(ArtifactError):
            put(faulty, "large", LARGE)
        assert lost == 1
        assert content(faulty, "large") == another

    def test_a_marker_of_a_folder_is_no_file(self, faulty: ObjectStore) -> None:
        put(faulty, "d/a", b"1")
        for key in ("faults/d/", "faults/empty/"):
            faulty._objects.put(key, b"")
        there = [(entry.path, entry.is_folder) for entry in faulty.entries("")]
        assert there == [("d", True), ("empty", True)]
        assert [entry.path for entry in faulty.entries("d")] == ["d/a"]
        assert faulty.entries("empty") == []


class ComparingFaults(BucketFaults):
    """Those of a bucket that compares what has arrived, and tells what it should be that comes."""

    @pytest.mark.parametrize("request_", ["part", "put", "get small"])
    def test_what_passes_changed_is_sent_again(
        self, bucket: Bucket, faulty: ObjectStore, request_: str
    ) -> None:
        assert_is_done_again(bucket.server, faulty, bucket.fault(request_, CHANGED))

    def test_what_comes_changed_is_noticed(self, bucket: Bucket, faulty: ObjectStore) -> None:
        put(faulty, "large", LARGE)
        bucket.server.faults = [bucket.fault("get large", CHANGED)]
        with pytest.raises(ArtifactError, match="what came is not what is kept"):
            content(faulty, "large")

    def test_what_always_arrives_changed_is_not_kept(
        self, bucket: Bucket, faulty: ObjectStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(pauses, "PATIENCE_S", 0.1)
        put(faulty, "small", b"before")
        bucket.server.faults = [bucket.fault("put", CHANGED, times=100)]
        with pytest.raises(ArtifactError, match=bucket.refusal):
            put(faulty, "small", b"some content")
        assert content(faulty, "small") == b"before"

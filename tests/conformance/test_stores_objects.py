"""Artifacts in S3 and in Azure's blobs, against gofakes3 and Azurite."""

from __future__ import annotations

import io
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from azure.core.pipeline.transport import RequestsTransport

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    ClusterError,
    ConflictError,
    LocationError,
    RejectedError,
)
from mlflow_exec.storage.kept import Object
from mlflow_exec.storage.objects import ObjectStore
from mlflow_exec.storage.objects_azure import AzureObjects, AzureStore
from mlflow_exec.storage.objects_s3 import S3Objects, S3Store
from mlflow_exec.storage.parts import READING, SENDING
from mlflow_exec.testing.stores import Random, StoreConformance, Stored, content, put
from mlflow_exec.uris import Location
from tests.answering_server import Answer, answering
from tests.cloud_server import serving
from tests.conformance.bucket_faults import ASKED_OF_S3, Bucket, BucketFaults
from tests.conformance.cutting import assert_survives_cuts
from tests.forwarding_server import ForwardingServer
from tests.object_servers import BUCKET, ObjectServer, azurite, gofakes3
from tests.unit.tcp_link import TcpLink

# Of those SDKs, when they are closed by the collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


def credential(**fields: str) -> Credential:
    return Credential("the test", {n: Secret.of(value, "the test") for n, value in fields.items()})


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with gofakes3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with azurite(tmp_path_factory.mktemp("azure")) as server:
        yield server


@pytest.fixture(scope="module")
def before_s3(s3: ObjectServer) -> Iterator[ForwardingServer]:
    with serving(server := ForwardingServer(s3.url)):
        yield server


@pytest.fixture(scope="module")
def before_azure(azure: ObjectServer) -> Iterator[ForwardingServer]:
    with serving(server := ForwardingServer(azure.url)):
        yield server


def in_s3(server: ObjectServer, name: str, bucket: str = BUCKET) -> S3Store:
    given = credential(
        endpoint=server.url, region="us-east-1", key_id="someone", key_secret="a-secret-key"
    )
    return S3Store(Location.parse(f"fsspec+s3://{bucket}/{name}"), given)


def in_azure(server: ObjectServer, name: str, bucket: str = BUCKET) -> AzureStore:
    given = credential(connection_string=server.connection_string)
    return AzureStore(Location.parse(f"fsspec+abfs://{bucket}/{name}"), given)


def begun_in(store: S3Store) -> list[Any]:
    """Return the uploads in parts that are neither ended nor removed."""
    objects = store._objects
    assert isinstance(objects, S3Objects)
    with suppress(ClusterError):  # gofakes3 knows of none before the first one
        return list(objects.call("list_multipart_uploads", "").get("Uploads", []))
    return []


class TestS3(StoreConformance):
    @pytest.fixture
    def stored(self, s3: ObjectServer) -> Stored:
        return Stored(lambda name: in_s3(s3, name), has_folders=False)


class TestAzure(StoreConformance):
    @pytest.fixture
    def stored(self, azure: ObjectServer) -> Stored:
        return Stored(lambda name: in_azure(azure, name), has_folders=False)


class TestFaultsOfS3(BucketFaults):
    @pytest.fixture
    def bucket(self, before_s3: ForwardingServer) -> Bucket:
        def store(name: str) -> S3Store:
            return in_s3(ObjectServer(before_s3.server_port), name)

        return Bucket(before_s3, store, ASKED_OF_S3, lambda: begun_in(store("")))


class TestFaultsOfAzure(BucketFaults):
    @pytest.fixture
    def bucket(self, before_azure: ForwardingServer) -> Bucket:
        asked = {
            "part": ("PUT", "comp=block&"), "end": ("PUT", "comp=blocklist"),
            "put": ("PUT", "faults/small"),
            "get large": ("GET", "faults/large"), "get small": ("GET", "faults/small"),
            "list": ("GET", "comp=list"), "delete": ("DELETE", "faults/"),
        }  # fmt: skip
        place = ObjectServer(before_azure.server_port)
        return Bucket(before_azure, lambda name: in_azure(place, name), asked, lambda: [])

    # The range is signed there.
    test_of_a_server_that_takes_no_ranges_no_more_is_read_than_is_needed = None  # type: ignore[assignment]


@pytest.mark.parametrize(("server", "store_in"), [("s3", in_s3), ("azure", in_azure)])
def test_a_connection_that_breaks_in_the_middle_loses_nothing(
    server: str, store_in: Callable[[ObjectServer, str], ObjectStore],
    request: pytest.FixtureRequest,
) -> None:  # fmt: skip
    link = TcpLink("127.0.0.1", request.getfixturevalue(server).port)
    store = store_in(ObjectServer(link.port), "cut")
    assert_survives_cuts(store, link)
    store.delete("")
    store.close()
    link.close()


def test_many_large_files_at_a_time_wait_for_memory_and_all_pass(s3: ObjectServer) -> None:
    store = in_s3(s3, "many-large")
    texts = [random.randbytes(20_000_000) for _ in range(3)]

    def there_and_back(number: int) -> bool:
        text = texts[number % 3]
        store.put(f"{number}", io.BytesIO(text))
        return b"".join(store.read(f"{number}")) == text

    with ThreadPoolExecutor(12) as pool:
        assert all(pool.map(there_and_back, range(12)))
    store.delete("")
    assert SENDING.is_free()
    assert READING.is_free()


@pytest.mark.large
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux how much memory is used")
def test_many_large_files_at_a_time_need_little_memory(s3: ObjectServer) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "tests.conformance.many_large_files", s3.url],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    up_bytes, down_bytes = map(int, ran.stdout.split())
    assert up_bytes < 150_000_000
    assert down_bytes < 150_000_000


def test_one_who_reads_many_files_in_turn_does_not_wait_for_himself(s3: ObjectServer) -> None:
    store = in_s3(s3, "in-turn")
    text = random.randbytes(20_000_000)
    for name in "abc":
        store.put(name, io.BytesIO(text))
    found: dict[str, bytes] = dict.fromkeys("abc", b"")
    for pieces in zip(*(store.read(name) for name in "abc"), strict=True):
        found = {name: found[name] + piece for name, piece in zip("abc", pieces, strict=True)}
    assert set(found.values()) == {text}
    store.delete("")
    assert READING.is_free()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_store_is_used_in_a_forked_process(s3: ObjectServer) -> None:
    store = in_s3(s3, "forked")
    store.put("a", io.BytesIO(b"1" * 10_000_000))
    before, child = store._objects, os.fork()
    if not child:
        with suppress(BaseException):
            assert store._objects is not before
            assert b"".join(store.read("a")) == b"1" * 10_000_000
            store.put("b", io.BytesIO(b"2" * 10_000_000))
            os._exit(0)
        os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert store._objects is before
    assert b"".join(store.read("b")) == b"2" * 10_000_000
    store.delete("")


def test_an_upload_that_another_one_replaced_at_once_was_right(s3: ObjectServer) -> None:
    class Replaced(S3Objects):
        def find(self, key: str) -> Object | None:
            self.put(key, b"another")
            return super().find(key)

    place = in_s3(s3, "replaced")
    store = ObjectStore(
        place.location, place.credential, lambda: Replaced(place.location, place.credential)
    )
    store.put("a", io.BytesIO(bytes(20_000_000)))
    assert b"".join(store.read("a")) == b"another"
    store.delete("")


def test_the_later_one_of_two_large_uploads_to_a_name_in_azure_is_told_so(
    azure: ObjectServer,
) -> None:
    store = in_azure(azure, "two")

    class Overtaken(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if 10_000_000 < self.tell() < 12_000_000:
                store.put("a", io.BytesIO(b"1" * 9_000_000))
            return super().read(size)

    with pytest.raises(ArtifactError, match="another upload to that name finished first") as told:
        store.put("a", Overtaken(b"2" * 20_000_000))
    assert isinstance(told.value.__cause__, ConflictError)
    assert b"".join(store.read("a")) == b"1" * 9_000_000
    store.delete("")


def test_a_file_in_azure_that_is_replaced_between_its_ranges_is_read_again(
    azure: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = in_azure(azure, "between")
    put(store, "a", bytes(6_000_000))
    send, replaced = RequestsTransport.send, False

    def replacing(self: Any, request: Any, **options: Any) -> Any:
        nonlocal replaced
        if not replaced and request.headers.get("x-ms-range", "").startswith("bytes=4194304-"):
            replaced = True
            put(in_azure(azure, "between"), "a", bytes([1]) * 6_000_000)
        return send(self, request, **options)

    monkeypatch.setattr(RequestsTransport, "send", replacing)
    assert content(store, "a") == bytes([1]) * 6_000_000
    assert replaced
    store.delete("")


def test_a_store_in_azure_that_is_closed_leaves_the_others_their_connections(
    azure: ObjectServer,
) -> None:
    store = in_azure(azure, "closed")
    put(store, "a", b"1")

    def size_bytes(client: Any) -> int:
        in_azure(azure, "closed").close()
        return int(client.get_blob_client("closed/a").get_blob_properties().size)

    objects = store._objects
    assert isinstance(objects, AzureObjects)
    assert objects.ask("a", size_bytes) == 1
    store.delete("")


def test_an_upload_that_breaks_off_leaves_no_parts_in_s3(s3: ObjectServer) -> None:
    store = in_s3(s3, "broken")
    before = begun_in(store)
    with pytest.raises(OSError, match="the disk is gone"):
        store.put("a", io.BufferedReader(Random(20_000_000, breaks=True)))
    assert begun_in(store) == before


def test_a_bucket_that_is_not_there_is_no_missing_file(
    s3: ObjectServer, azure: ObjectServer
) -> None:
    stores = (in_s3(s3, "x", bucket="none"), in_azure(azure, "x", bucket="none"))
    actions: tuple[Callable[[ObjectStore], object], ...] = (
        lambda store: store.put("a", io.BytesIO(b"1")), lambda store: list(store.read("a")),
        lambda store: store.put("a", io.BytesIO(bytes(9_000_000))),
        lambda store: store.entries(""), lambda store: store.size_bytes("a"),
    )  # fmt: skip
    for store in stores:
        for action in actions:
            with pytest.raises(ArtifactError, match=r"none: .*(bucket|container) does not") as told:
                action(store)
            assert not isinstance(told.value, ArtifactNotFoundError)
            assert "\n" not in str(told.value)


@pytest.mark.parametrize("uri", ["fsspec+s3://user:pw@bucket", "fsspec+abfs://c@account.net/x"])
def test_a_user_of_a_bucket_is_refused(uri: str) -> None:
    kind = S3Store if "s3" in uri else AzureStore
    with pytest.raises(LocationError, match="before '@' is not used for a bucket") as told:
        kind(Location.parse(uri), credential(account="a"))
    assert "pw" not in str(told.value)


def test_a_page_that_does_not_tell_the_next_one_is_refused() -> None:
    page = (
        '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        "<IsTruncated>true</IsTruncated></ListBucketResult>"
    )
    with (
        answering(lambda asked: Answer(page)) as url,
        pytest.raises(ArtifactError, match="the answer has no NextContinuationToken"),
    ):
        in_s3(ObjectServer(int(url.rpartition(":")[2])), "x").entries("")


def test_a_connection_string_of_azure_that_is_none_is_refused_at_once() -> None:
    given = credential(connection_string="AccountName=someone;foo")
    store = AzureStore(Location.parse(f"fsspec+abfs://{BUCKET}/x"), given)
    with pytest.raises(ArtifactError, match="Connection string is either blank or") as told:
        store.entries("")
    assert isinstance(told.value.__cause__, RejectedError)


def test_a_credential_of_azure_takes_nothing_from_the_environment(
    azure: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.5)
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", azure.connection_string)
    given = credential(account="account-of-team-a.invalid", key_secret="c29tZSBrZXk=")
    with pytest.raises(ArtifactError, match="account-of-team-a"):
        AzureStore(Location.parse(f"fsspec+abfs://{BUCKET}/x"), given).entries("")


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.5)
    with pytest.raises(ArtifactError, match=r"(?i)connect"):
        in_s3(ObjectServer(9), "x").entries("")

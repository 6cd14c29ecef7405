"""Artifacts in S3 and in Azure's blobs, against gofakes3 and Azurite."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage.base import Entry
from mlflow_exec.storage.objects import _BUDGET, PART_BYTES
from mlflow_exec.storage.objects_fsspec import AzureStore
from mlflow_exec.storage.objects_s3 import S3Objects, S3Store
from mlflow_exec.testing.stores import Random, StoreConformance, Stored
from mlflow_exec.uris import Location
from tests.conformance.cutting import assert_survives_cuts
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


def in_s3(server: ObjectServer, name: str, bucket: str = BUCKET) -> S3Store:
    given = credential(
        endpoint=server.url, region="us-east-1", key_id="someone", key_secret="a-secret-key"
    )
    return S3Store(Location.parse(f"fsspec+s3://{bucket}/{name}"), given)


def in_azure(server: ObjectServer, name: str) -> AzureStore:
    given = credential(connection_string=server.connection_string)
    return AzureStore(Location.parse(f"fsspec+abfs://{BUCKET}/{name}"), given)


class TestS3(StoreConformance):
    @pytest.fixture
    def stored(self, s3: ObjectServer) -> Stored:
        return Stored(lambda name: in_s3(s3, name), has_folders=False)


class TestAzure(StoreConformance):
    @pytest.fixture
    def stored(self, azure: ObjectServer) -> Stored:
        return Stored(lambda name: in_azure(azure, name), has_folders=False)


def test_a_connection_that_breaks_in_the_middle_loses_nothing(s3: ObjectServer) -> None:
    link = TcpLink("127.0.0.1", s3.port)
    store = in_s3(ObjectServer(link.port), "cut")
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
    assert _BUDGET.take_now(8 * PART_BYTES), "all was given back"
    _BUDGET.give_back(8 * PART_BYTES)


def test_an_upload_that_breaks_off_leaves_no_parts_in_s3(s3: ObjectServer) -> None:
    store = in_s3(s3, "broken")
    objects = store._objects
    assert isinstance(objects, S3Objects)
    with pytest.raises(OSError, match="the disk is gone"):
        store.put("a", io.BufferedReader(Random(20_000_000, breaks=True)))
    assert objects.call("list_multipart_uploads", "").get("Uploads", []) == []


def test_a_marker_of_a_folder_is_no_file(s3: ObjectServer) -> None:
    store = in_s3(s3, "marked")
    store.put("d/a", io.BytesIO(b"1"))
    for key in ("marked/d/", "marked/empty/"):
        store._objects.put(key, b"")
    assert store.entries("") == [Entry("d", True), Entry("empty", True)]
    assert store.entries("d") == [Entry("d/a", False, 1)]
    assert store.entries("empty") == []
    store.delete("")
    assert store.entries("") == []


def test_a_bucket_that_is_not_there(s3: ObjectServer) -> None:
    with pytest.raises(ArtifactError, match="bucket does not exist"):
        in_s3(s3, "x", bucket="none").put("a", io.BytesIO(b"1"))


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.5)
    with pytest.raises(ArtifactError, match=r"(?i)connect"):
        in_s3(ObjectServer(9), "x").entries("")

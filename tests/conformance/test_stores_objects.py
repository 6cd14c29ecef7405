"""Artifacts in S3 and in Azure's blobs, against gofakes3 and Azurite."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage.base import Entry
from mlflow_exec.storage.objects_fsspec import AzureStore
from mlflow_exec.storage.objects_s3 import S3Store
from mlflow_exec.testing.stores import StoreConformance, Stored
from mlflow_exec.uris import Location
from tests.object_servers import BUCKET, ObjectServer, azurite, gofakes3

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

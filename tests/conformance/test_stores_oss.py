"""Artifacts in Alibaba Cloud OSS, by its SDK, against a server of the tests: no account was had."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import NOTHING, Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError, ArtifactNotFoundError, CredentialError
from mlflow_exec.storage.opening import open_store
from mlflow_exec.storage.oss import OssStore
from mlflow_exec.testing.stores import StoreConformance, Stored, content, put
from mlflow_exec.uris import Location
from tests.cloud_server import Answer, CloudServer, Request, serving
from tests.conformance.bucket_faults import (
    ASKED_OF_S3,
    Bucket,
    ComparingFaults,
    assert_pages_are_listed_and_deleted,
)
from tests.oss_server import BUCKET, KEY_ID, KEY_SECRET, REGION, TOKEN, OssServer


@pytest.fixture(scope="module")
def server() -> Iterator[OssServer]:
    with serving(server := OssServer()):
        yield server
    server.objects.clear()


def store_at(server: OssServer, name: str, bucket: str = BUCKET, **changed: str) -> OssStore:
    fields = {
        "endpoint": server.url, "region": REGION, "key_id": KEY_ID, "key_secret": KEY_SECRET,
        "session_token": TOKEN, **changed,
    }  # fmt: skip
    secrets = {n: Secret.of(value, "the test") for n, value in fields.items() if value}
    return OssStore(Location.parse(f"oss://{bucket}/{name}"), Credential("the test", secrets))


class TestOss(StoreConformance):
    @pytest.fixture
    def stored(self, server: OssServer) -> Stored:
        return Stored(lambda name: store_at(server, name), has_folders=False)


class TestFaults(ComparingFaults):
    @pytest.fixture
    def bucket(self, server: OssServer) -> Bucket:
        return Bucket(
            server, lambda name: store_at(server, name), ASKED_OF_S3,
            lambda: server.uploads, r"400 InvalidDigest.*request 5C3D",
        )  # fmt: skip


def test_more_than_fit_on_a_page_are_listed_and_deleted(server: OssServer) -> None:
    assert_pages_are_listed_and_deleted(store_at(server, "pages"), lambda: server.objects)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [("key_id", "another", "InvalidAccessKeyId"), ("key_secret", "a-wrong-secret", "Signature"),
     ("session_token", "an-old-token", "SecurityTokenExpired"), ("region", "cn-beijing", "Sign")],
)  # fmt: skip
def test_a_wrong_credential_is_one_sentence_without_it(
    server: OssServer, field: str, value: str, told: str
) -> None:
    with pytest.raises(ArtifactError, match=rf"403 {told}.*from the test") as error:
        store_at(server, "x", **{field: value}).entries("")
    assert "\n" not in str(error.value)
    assert KEY_SECRET not in str(error.value)
    assert field == "region" or value not in str(error.value)


def test_a_bucket_that_is_not_there(server: OssServer) -> None:
    store = store_at(server, "x", bucket="none")
    for action in (lambda: put(store, "a", b"1"), lambda: store.entries("")):
        with pytest.raises(ArtifactNotFoundError, match="bucket does not exist"):
            action()


def test_a_server_that_is_not_there(server: OssServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.1)
    with pytest.raises(ArtifactError, match=r"no answer.*refused"):
        store_at(server, "x", endpoint="http://127.0.0.1:9").entries("")


def test_the_region_is_that_of_the_endpoint_or_asked_for(server: OssServer) -> None:
    endpoint = "oss-cn-hangzhou-internal.aliyuncs.com"
    store = store_at(server, "x", endpoint=endpoint, region="")
    assert store._objects._client._client._options.region == "cn-hangzhou"  # type: ignore[attr-defined]
    with pytest.raises(CredentialError, match="OSS_REGION"):
        store_at(server, "x", region="")
    with pytest.raises(CredentialError, match="OSS_REGION"):
        OssStore(Location.parse("oss://bucket/x"), NOTHING)


class KeysServer(CloudServer):
    """Gives temporary keys, as Alibaba's tools for logging in on a machine do."""

    def answer(self, request: Request) -> Answer:
        told = {
            "Code": "Success", "AccessKeyId": KEY_ID, "AccessKeySecret": KEY_SECRET,
            "SecurityToken": TOKEN, "Expiration": "2099-01-01T00:00:00Z",
        }  # fmt: skip
        return Answer(200, json.dumps(told).encode())


def test_keys_come_from_alibabas_own_chain_where_none_are_given(
    server: OssServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alibabacloud_credentials.utils import auth_util

    with serving(keys := KeysServer()):
        # They read the environment when they are imported.
        monkeypatch.setattr(auth_util, "environment_credentials_uri", keys.url)
        monkeypatch.setattr(auth_util, "environment_ecs_metadata_disabled", "true")
        monkeypatch.setenv("OSS_ENDPOINT", server.url)
        monkeypatch.setenv("OSS_REGION", REGION)
        store = open_store(f"oss://{BUCKET}/chain")
        store.put("a", io.BytesIO(b"1"))
        assert content(store, "a") == b"1"
        store.delete("")
    assert len(keys.asked) == 1

"""A credential that is named is whole: what it does not say is not taken from the environment."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import azure.identity
import pytest
from alibabacloud_credentials.utils import auth_util
from huggingface_hub import constants

from mlflow_exec.clients import pauses
from mlflow_exec.errors import ArtifactError, CredentialError
from mlflow_exec.storage.base import Store
from mlflow_exec.storage.opening import open_store
from tests.answering_server import Answer, Asked, answering

# Of those SDKs, when they are closed by the collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")
SECRET = "a-secret-of-the-environment"
PLACES = [
    "fsspec+gs://bucket/x", "fsspec+s3://bucket/x", "hf://buckets/team/bucket/x",
    "hf://datasets/team/artifacts/x", "oss://bucket/x",
]  # fmt: skip


@pytest.fixture
def asked() -> list[Asked]:
    return []


@pytest.fixture
def url(asked: list[Asked]) -> Iterator[str]:
    """Of a server that refuses everybody."""

    def keep(request: Asked) -> Answer:
        asked.append(request)
        return Answer({"error": "who are you?"}, 403)

    with answering(keep) as url:
        yield url


@pytest.fixture(autouse=True)
def environment(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that SDKs look at says who somebody is, and where he usually goes."""
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.1)
    monkeypatch.setattr(constants, "ENDPOINT", url)  # as HF_ENDPOINT says when it is imported
    monkeypatch.setattr(auth_util, "environment_access_key_id", SECRET)
    monkeypatch.setattr(auth_util, "environment_access_key_secret", SECRET)
    (tmp_path / ".oci").mkdir()
    (tmp_path / ".oci/config").write_text("[DEFAULT]\nregion=eu-frankfurt-1\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_ENDPOINT_URL", url)
    for name in (
        "HF_TOKEN", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "CLOUDSDK_AUTH_ACCESS_TOKEN",
        "OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "AZURE_STORAGE_ACCOUNT_KEY",
    ):  # fmt: skip
        monkeypatch.setenv(name, SECRET)


def named(uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **fields: str) -> Store:
    """Open a location by a credential with these fields."""
    file = folder / "credentials.yaml"
    file.write_text(json.dumps({"team": fields}))
    file.chmod(0o600)
    monkeypatch.setenv("MLFLOW_EXEC_CREDENTIALS", str(file))
    return open_store(f"{uri}?cred=team")


@pytest.mark.parametrize("uri", PLACES)
def test_who_names_an_endpoint_and_no_secret_is_nobody_there(
    uri: str, url: str, asked: list[Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = named(uri, tmp_path, monkeypatch, endpoint=url, region="eu-west-1")
    with pytest.raises(ArtifactError, match=r"403|Forbidden") as told:
        store.entries("")
    assert "\n" not in str(told.value)
    assert asked
    for request in asked:
        assert "authorization" not in request.headers
        assert SECRET not in str(request)


@pytest.mark.parametrize("uri", ["fsspec+s3://bucket/x", "oss://bucket/x"])
def test_who_names_no_key_signs_no_urls(
    uri: str, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = named(uri, tmp_path, monkeypatch, endpoint=url, region="eu-west-1")
    assert store.urls is None
    keys = {"key_id": "someone", "key_secret": "a-key"}
    store = named(uri, tmp_path, monkeypatch, endpoint=url, region="eu-west-1", **keys)
    assert store.urls is not None


def test_who_names_no_endpoint_goes_where_the_service_is(
    url: str, asked: list[Asked], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"key_id": "someone", "key_secret": "a-key", "region": "eu-west-1"}
    s3: Any = named("fsspec+s3://bucket/x", tmp_path, monkeypatch, **keys)
    assert s3._objects._client().meta.endpoint_url == "https://s3.eu-west-1.amazonaws.com"
    hub: Any = named("hf://datasets/team/artifacts/x", tmp_path, monkeypatch, token="a-token")
    assert hub._objects._endpoint == "https://huggingface.co"
    assert asked == []


def test_who_names_an_account_of_azure_and_no_secret_is_nobody_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def chain(*_: Any, **__: Any) -> None:
        raise AssertionError("the chain of Azure is asked")

    monkeypatch.setattr(azure.identity, "DefaultAzureCredential", chain)
    store: Any = named("fsspec+abfs://container/x", tmp_path, monkeypatch, account="someone")
    assert store._objects._client().credential is None


def test_who_names_nobody_at_oracle_is_told_so(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CredentialError, match="neither private_key nor principal") as told:
        named("oci://bucket@namespace/x", tmp_path, monkeypatch, endpoint=url)
    assert "\n" not in str(told.value)

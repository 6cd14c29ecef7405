"""MLflow's server sends its clients to the bucket itself, by URLs that it signs."""

from __future__ import annotations

import json
import random
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.entities.multipart_upload import MultipartUploadCredential
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

from mlflow_exec.plugins.bucket_artifacts import ExecBucketRepository
from tests.object_servers import BUCKET, ObjectServer, gofakes3
from tests.servers import MlflowServer, mlflow_server

ROOT = f"fsspec+s3://{BUCKET}/of-the-server"
MIB = 1024 * 1024


def signed_in(bucket: ObjectServer) -> dict[str, str]:
    return {
        "MLFLOW_S3_ENDPOINT_URL": bucket.url,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "a-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with gofakes3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def server(
    bucket: ObjectServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(folder, environment=signed_in(bucket), destination=ROOT) as server:
        yield server


@pytest.fixture
def repository(bucket: ObjectServer, monkeypatch: pytest.MonkeyPatch) -> ExecBucketRepository:
    for name, value in signed_in(bucket).items():
        monkeypatch.setenv(name, value)
    found = get_artifact_repository(ROOT)
    assert isinstance(found, ExecBucketRepository)
    return found


def test_a_client_of_the_server_puts_the_parts_of_a_large_file_into_the_bucket(
    server: MlflowServer,
    bucket: ObjectServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mlflow.set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "true")
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(6 * MIB))
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE", str(5 * MIB))
    send, sent = HttpArtifactRepository._upload_part, []

    def counted(credential: MultipartUploadCredential, **arguments: Any) -> Any:
        sent.append(credential.url.partition("?")[0])
        return send(credential, **arguments)

    monkeypatch.setattr(HttpArtifactRepository, "_upload_part", staticmethod(counted))
    (tmp_path / "large").write_bytes(random.randbytes(12 * MIB))
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(tmp_path / "large"), "d")
    path = f"{run.info.experiment_id}/{run.info.run_id}/artifacts/d/large"
    assert sent == [f"{bucket.url}/{BUCKET}/of-the-server/{path}"] * 3
    (tmp_path / "back").mkdir()
    back = MlflowClient().download_artifacts(run.info.run_id, "d/large", str(tmp_path / "back"))
    assert Path(back).read_bytes() == (tmp_path / "large").read_bytes()
    with urllib.request.urlopen(
        f"{server.url}/api/2.0/mlflow-artifacts/presigned/{path}"
    ) as answer:
        signed = json.load(answer)
    assert signed["file_size"] == 12 * MIB
    with urllib.request.urlopen(signed["url"]) as content:
        assert content.read() == (tmp_path / "large").read_bytes()


def test_a_file_is_put_by_a_signed_url(repository: ExecBucketRepository) -> None:
    signed = repository.create_presigned_upload_url("put/a b%.txt")
    request = urllib.request.Request(
        signed.presigned_url, data=b"text", method="PUT", headers=signed.headers
    )
    urllib.request.urlopen(request).close()
    assert [(f.path, f.file_size) for f in repository.list_artifacts("put")] == [
        ("put/a b%.txt", 4)
    ]
    url = repository.get_download_presigned_url("put/a b%.txt").url
    with urllib.request.urlopen(url) as content:
        assert content.read() == b"text"


def test_an_upload_in_parts_that_is_given_up_leaves_nothing(
    repository: ExecBucketRepository,
) -> None:
    begun = repository.create_multipart_upload("/somewhere/large", 2, "given-up")
    assert [credential.part_number for credential in begun.credentials] == [1, 2]
    repository.abort_multipart_upload("/somewhere/large", begun.upload_id, "given-up")
    with pytest.raises(MlflowException):
        repository.complete_multipart_upload("/somewhere/large", begun.upload_id, [], "given-up")
    assert repository.list_artifacts("given-up") == []


@pytest.mark.parametrize("path", ["../elsewhere", "/elsewhere", "a/../../b", ""])
def test_nothing_is_signed_outside_of_the_root(
    repository: ExecBucketRepository, path: str
) -> None:
    for sign in (repository.create_presigned_upload_url, repository.get_download_presigned_url):
        with pytest.raises(MlflowException):
            sign(path)


def test_what_is_not_there_is_not_signed(repository: ExecBucketRepository) -> None:
    with pytest.raises(MlflowException, match="there is no file 'none'"):
        repository.get_download_presigned_url("none")


def test_urls_are_signed_as_all_regions_accept(repository: ExecBucketRepository) -> None:
    begun = repository.create_multipart_upload("/somewhere/large", 1, "signed")
    put = repository.create_presigned_upload_url("signed/a")
    for url in (begun.credentials[0].url, put.presigned_url):
        assert "X-Amz-Algorithm=AWS4-HMAC-SHA256" in url
    repository.abort_multipart_upload("/somewhere/large", begun.upload_id, "signed")


@pytest.mark.parametrize("num_parts", [0, 10_001, 10**9])
def test_more_parts_than_an_upload_can_have_are_not_signed(
    repository: ExecBucketRepository, num_parts: int
) -> None:
    with pytest.raises(MlflowException, match="an upload has 1 to 10000 parts") as told:
        repository.create_multipart_upload("/somewhere/large", num_parts, "many")
    assert told.value.error_code == "INVALID_PARAMETER_VALUE"

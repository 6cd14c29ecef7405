"""MLflow's server sends its clients to the bucket itself, by URLs that it signs."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import mlflow
import pytest
import requests
from azure.storage.blob import AccountSasPermissions, ResourceTypes, generate_account_sas
from mlflow import MlflowClient
from mlflow.entities.multipart_upload import MultipartUploadCredential, MultipartUploadPart
from mlflow.exceptions import MlflowException
from mlflow.store.artifact import http_artifact_repo
from mlflow.store.artifact.artifact_repo import MultipartUploadMixin
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

from mlflow_exec.credentials import hide
from mlflow_exec.plugins.artifacts import ExecArtifactRepository
from mlflow_exec.plugins.bucket_artifacts import ExecBucketRepository
from mlflow_exec.testing.collecting import until
from tests import gcs_server, oss_server
from tests.cloud_server import serving
from tests.gcs_server import GcsServer
from tests.object_servers import ACCOUNT, ACCOUNT_KEY, BUCKET, azurite, gofakes3
from tests.oss_server import OssServer
from tests.servers import MlflowServer, mlflow_server

# Of Azure's SDK, when it is closed by the collector.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

MIB = 1024 * 1024
S3_SECRET = "a-secret-key-of-s3"


@dataclass(frozen=True)
class Place:
    """A bucket of some system.

    Attributes:
        root: As an artifact location.
        url: The same, as it is reached.
        environment: How it is signed in.
        secret: What has to stay here.
        signed: What shows in a URL that it is signed.
        knows_uploads: Whether parts are removed with their upload; else they are only blocks,
            which are gone in time, and of which all have to be named.
        cannot_sign: Another way to sign in, which does not allow to sign URLs; if there is one.
    """

    root: str
    url: str
    environment: dict[str, str]
    secret: str
    signed: str
    knows_uploads: bool = True
    cannot_sign: dict[str, str] = field(default_factory=dict)


@contextmanager
def in_s3(folder: Path) -> Iterator[Place]:
    with gofakes3(folder) as server:
        environment = {
            "MLFLOW_S3_ENDPOINT_URL": server.url, "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": S3_SECRET, "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip
        yield Place(
            f"fsspec+s3://{BUCKET}/of-the-server", f"{server.url}/{BUCKET}/of-the-server",
            # Version 2, which old regions are signed with by default, is refused there now.
            environment, S3_SECRET, "X-Amz-Algorithm=AWS4-HMAC-SHA256",
        )  # fmt: skip


@contextmanager
def in_oss(folder: Path) -> Iterator[Place]:
    with serving(server := OssServer()):
        environment = {
            "MLFLOW_OSS_ENDPOINT_URL": server.url, "OSS_REGION": oss_server.REGION,
            "MLFLOW_OSS_KEY_ID": oss_server.KEY_ID, "MLFLOW_OSS_KEY_SECRET": oss_server.KEY_SECRET,
            "OSS_SESSION_TOKEN": oss_server.TOKEN,
        }  # fmt: skip
        yield Place(
            f"oss://{oss_server.BUCKET}/of-the-server",
            f"{server.url}/{oss_server.BUCKET}/of-the-server",
            environment, oss_server.KEY_SECRET, "x-oss-signature-version=OSS4-HMAC-SHA256",
        )  # fmt: skip
        assert server.uploads == {}


@contextmanager
def in_gcs(folder: Path) -> Iterator[Place]:
    with serving(server := GcsServer()):
        def named(name: str, **secret: str) -> dict[str, str]:
            file = folder / name
            file.write_text(json.dumps({"team": {"endpoint": server.url, **secret}}))
            file.chmod(0o600)
            return {"MLFLOW_EXEC_CREDENTIALS": str(file)}

        secret = json.loads(server.account)["private_key"]
        yield Place(
            f"fsspec+gs://{gcs_server.BUCKET}/of-the-server?cred=team",
            f"{server.url}/{gcs_server.BUCKET}/of-the-server",
            named("key.yaml", private_key=server.account), secret,
            "X-Goog-Algorithm=GOOG4-RSA-SHA256",
            cannot_sign=named("token.yaml", token=gcs_server.TOKEN),
        )  # fmt: skip
        assert server.uploads == {}


@contextmanager
def in_azure(folder: Path) -> Iterator[Place]:
    with azurite(folder) as server:
        token = generate_account_sas(
            ACCOUNT, ACCOUNT_KEY, ResourceTypes(container=True, object=True),
            AccountSasPermissions(read=True, write=True, list=True, create=True),
            datetime.now(timezone.utc) + timedelta(hours=1),
        )  # fmt: skip
        by_token = f"BlobEndpoint={server.url}/{ACCOUNT};SharedAccessSignature={token}"
        yield Place(
            f"fsspec+abfs://{BUCKET}/of-the-server",
            f"{server.url}/{ACCOUNT}/{BUCKET}/of-the-server",
            {"AZURE_STORAGE_CONNECTION_STRING": server.connection_string},
            ACCOUNT_KEY, "sig=", knows_uploads=False,
            cannot_sign={"AZURE_STORAGE_CONNECTION_STRING": by_token},
        )  # fmt: skip


@pytest.fixture(scope="module", params=[in_s3, in_oss, in_gcs, in_azure])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    with request.param(tmp_path_factory.mktemp("bucket")) as place:
        yield place


@pytest.fixture(scope="module")
def server(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(folder, environment=place.environment, destination=place.root) as server:
        yield server


def opened(place: Place, monkeypatch: pytest.MonkeyPatch, **further: str) -> Any:
    for name, value in {**place.environment, **further}.items():
        monkeypatch.setenv(name, value)
    return get_artifact_repository(place.root)


@pytest.fixture
def repository(place: Place, monkeypatch: pytest.MonkeyPatch) -> ExecBucketRepository:
    found = opened(place, monkeypatch)
    assert isinstance(found, ExecBucketRepository)
    return found


def put_part(credential: MultipartUploadCredential, content: bytes) -> MultipartUploadPart:
    """Do what MLflow's client does."""
    told = requests.put(credential.url, data=content, headers=credential.headers)
    told.raise_for_status()
    etag = told.headers.get("ETag", "")
    return MultipartUploadPart(credential.part_number, etag, credential.url)


# A server takes its time to start, and two show it.
@pytest.mark.parametrize(
    "place",
    [in_s3, in_oss, *(pytest.param(kind, marks=pytest.mark.large) for kind in (in_gcs, in_azure))],
    indirect=True, scope="module",
)  # fmt: skip
def test_a_client_of_the_server_puts_the_parts_of_a_large_file_into_the_bucket_and_gets_them(
    server: MlflowServer, place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow.set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "true")
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "true")
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(6 * MIB))
    for way in ("UPLOAD", "DOWNLOAD"):
        monkeypatch.setenv(f"MLFLOW_MULTIPART_{way}_CHUNK_SIZE", str(5 * MIB))
    send, fetch = HttpArtifactRepository._upload_part, http_artifact_repo.download_chunk
    asked: list[str] = []

    def sent(credential: MultipartUploadCredential, **arguments: Any) -> Any:
        asked.append(credential.url.partition("?")[0])
        return send(credential, **arguments)

    def fetched(http_uri: str, **arguments: Any) -> Any:
        asked.append(http_uri.partition("?")[0])
        return fetch(http_uri=http_uri, **arguments)

    monkeypatch.setattr(HttpArtifactRepository, "_upload_part", staticmethod(sent))
    monkeypatch.setattr(http_artifact_repo, "download_chunk", fetched)
    (tmp_path / "large").write_bytes(random.randbytes(12 * MIB))
    with mlflow.start_run() as run:
        mlflow.log_artifact(str(tmp_path / "large"), "d")
    (tmp_path / "back").mkdir()
    back = MlflowClient().download_artifacts(run.info.run_id, "d/large", str(tmp_path / "back"))
    assert Path(back).read_bytes() == (tmp_path / "large").read_bytes()
    path = f"{run.info.experiment_id}/{run.info.run_id}/artifacts/d/large"
    assert asked == [f"{place.url}/{path}"] * 6
    log = (server.dir / "server.log").read_text()
    assert place.signed not in log
    assert place.secret not in log


def test_a_file_is_put_by_a_signed_url(repository: ExecBucketRepository) -> None:
    signed = repository.create_presigned_upload_url("put/a b%.txt")
    requests.put(signed.presigned_url, data=b"text", headers=signed.headers).raise_for_status()
    assert [(f.path, f.file_size) for f in repository.list_artifacts("put")] == [
        ("put/a b%.txt", 4)
    ]
    url = repository.get_download_presigned_url("put/a b%.txt").url
    assert requests.get(url).content == b"text"


# gofakes3 takes every signature for right.
@pytest.mark.parametrize("place", [in_oss, in_gcs, in_azure], indirect=True, scope="module")
def test_a_url_is_good_for_one_object_one_way_and_not_for_long(
    place: Place, repository: ExecBucketRepository, tmp_path: Path
) -> None:
    (tmp_path / "one").write_text("text")
    (tmp_path / "two").write_text("text")
    repository.log_artifacts(str(tmp_path), "one-way")
    get = repository.get_download_presigned_url("one-way/one").url
    put = repository.create_presigned_upload_url("one-way/one")
    begun = repository.create_multipart_upload("one", 1, "one-way")
    assert requests.get(get).text == "text"
    assert requests.get(get.replace("one-way/one", "one-way/two")).status_code == 403
    assert requests.put(get, data=b"1", headers=put.headers).status_code == 403
    assert requests.delete(put.presigned_url).status_code == 403
    other = put.presigned_url.replace("one-way/one", "one-way/two")
    assert requests.put(other, data=b"1", headers=put.headers).status_code == 403
    other = begun.credentials[0].url.replace("one-way/one", "one-way/two")
    assert requests.put(other, data=b"1").status_code == 403
    soon = repository.get_download_presigned_url("one-way/one", 2).url
    until(lambda: requests.get(soon).status_code == 403, "the URL has ended")
    assert requests.get(get).text == "text"
    repository.abort_multipart_upload("one", begun.upload_id, "one-way")


def test_no_secret_is_in_a_url_and_no_url_in_what_is_shown(
    place: Place, repository: ExecBucketRepository
) -> None:
    signed = repository.urls.put_url("a", 60)
    assert place.secret not in unquote(signed.url)
    assert signed.url not in repr(signed)
    (signature,) = re.findall(r"(?i)[?&-]sig(?:nature)?=([^&]+)", signed.url)
    assert len(signature) > 30
    assert signature not in hide(f"no answer from {signed.url}")


def test_an_upload_in_parts_that_is_given_up_leaves_nothing(
    place: Place, repository: ExecBucketRepository
) -> None:
    begun = repository.create_multipart_upload("/somewhere/large", 2, "given-up")
    assert [credential.part_number for credential in begun.credentials] == [1, 2]
    part = put_part(begun.credentials[0], b"1")
    repository.abort_multipart_upload("/somewhere/large", begun.upload_id, "given-up")
    assert repository.list_artifacts("given-up") == []
    if place.knows_uploads:
        with pytest.raises(MlflowException):
            repository.complete_multipart_upload(
                "/somewhere/large", begun.upload_id, [part], "given-up"
            )
    assert repository.list_artifacts("given-up") == []


def test_a_file_is_made_of_the_parts_that_have_come_and_of_no_others(
    place: Place, repository: ExecBucketRepository
) -> None:
    content = random.randbytes(5 * MIB)
    begun = repository.create_multipart_upload("large", 3, "parts")
    first, second = (put_part(c, content) for c in begun.credentials[:2])
    missing = MultipartUploadPart(3, first.etag, begun.credentials[2].url)
    refused = [[], [second], [first, first], [first, second, missing]]
    for parts in refused if place.knows_uploads else [*refused, [first]]:
        with pytest.raises(MlflowException) as told:
            repository.complete_multipart_upload("large", begun.upload_id, parts, "parts")
        assert "\n" not in str(told.value)
    with pytest.raises(MlflowException):
        repository.complete_multipart_upload("other", begun.upload_id, [first, second], "parts")
    assert repository.list_artifacts("parts") == []
    # In another order, as who asks may have them.
    repository.complete_multipart_upload("large", begun.upload_id, [second, first], "parts")
    (found,) = repository.list_artifacts("parts")
    assert (found.path, found.file_size) == ("parts/large", 2 * len(content))
    url = repository.get_download_presigned_url("parts/large").url
    assert requests.get(url).content == content * 2


def test_the_end_of_an_upload_whose_answer_was_lost_can_be_asked_for_again(
    repository: ExecBucketRepository,
) -> None:
    begun = repository.create_multipart_upload("large", 1, "lost")
    parts = [put_part(begun.credentials[0], b"1")]
    for _ in range(2):
        repository.complete_multipart_upload("large", begun.upload_id, parts, "lost")
        assert [(f.path, f.file_size) for f in repository.list_artifacts("lost")] == [
            ("lost/large", 1)
        ]
    repository.delete_artifacts("lost/large")  # gofakes3 leaves its metadata to the next one
    signed = repository.create_presigned_upload_url("lost/large")
    requests.put(signed.presigned_url, data=b"new", headers=signed.headers).raise_for_status()
    with pytest.raises(MlflowException):
        repository.complete_multipart_upload("large", begun.upload_id, parts, "lost")
    assert [found.file_size for found in repository.list_artifacts("lost")] == [3]


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


def test_urls_are_signed_in_the_way_that_is_not_out_of_date(
    place: Place, repository: ExecBucketRepository
) -> None:
    begun = repository.create_multipart_upload("/somewhere/large", 1, "signed")
    put = repository.create_presigned_upload_url("signed/a")
    for url in (begun.credentials[0].url, put.presigned_url):
        assert place.signed in url
    repository.abort_multipart_upload("/somewhere/large", begun.upload_id, "signed")


@pytest.mark.parametrize("life_s", [-1, 0, 604_801])
def test_a_url_that_would_live_for_years_is_not_signed(
    repository: ExecBucketRepository, life_s: int
) -> None:
    for sign in (repository.create_presigned_upload_url, repository.get_download_presigned_url):
        with pytest.raises(MlflowException, match="a URL lives for 1 to 604800 seconds") as told:
            sign("a", life_s)
        assert told.value.error_code == "INVALID_PARAMETER_VALUE"


@pytest.mark.parametrize("num_parts", [0, 10_001, 10**9])
def test_more_parts_than_an_upload_can_have_are_not_signed(
    repository: ExecBucketRepository, num_parts: int
) -> None:
    with pytest.raises(MlflowException, match="an upload has 1 to 10000 parts") as told:
        repository.create_multipart_upload("/somewhere/large", num_parts, "many")
    assert told.value.error_code == "INVALID_PARAMETER_VALUE"


# Every credential of the others signs.
@pytest.mark.parametrize("place", [in_gcs, in_azure], indirect=True, scope="module")
def test_what_cannot_sign_is_not_said_to_and_clients_go_through_the_server(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = opened(place, monkeypatch, **place.cannot_sign)
    assert isinstance(repository, ExecArtifactRepository)
    assert not isinstance(repository, MultipartUploadMixin)
    (tmp_path / "a").write_text("text")
    repository.log_artifact(str(tmp_path / "a"), "unsigned")
    assert [found.path for found in repository.list_artifacts("unsigned")] == ["unsigned/a"]

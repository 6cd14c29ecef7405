"""Artifacts in Google Cloud Storage, against fake-gcs-server and, for what it lacks, our own."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import NOTHING, Credential, find_credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    CredentialError,
    LocationError,
    MlflowExecError,
)
from mlflow_exec.storage.base import Store
from mlflow_exec.storage.gcs import GcsObjects, GcsStore
from mlflow_exec.storage.gcs_signing import identity
from mlflow_exec.storage.parts import PART_BYTES
from mlflow_exec.testing.stores import Random, StoreConformance, Stored, content, put
from mlflow_exec.uris import Location
from tests.answering_server import Answer, answering
from tests.cloud_server import CHANGED, CUT, Fault, serving
from tests.conformance.bucket_faults import (
    Bucket,
    BucketFaults,
    assert_is_done_again,
    assert_pages_are_listed_and_deleted,
)
from tests.conformance.cutting import assert_survives_cuts
from tests.gcs_server import BUCKET, TOKEN, GcsServer
from tests.object_servers import ObjectServer, fake_gcs
from tests.unit.tcp_link import TcpLink

LARGE = random.randbytes(2 * PART_BYTES + 1)


@pytest.fixture(scope="module")
def fake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with fake_gcs(tmp_path_factory.mktemp("gcs")) as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[GcsServer]:
    with serving(server := GcsServer()):
        yield server
    server.objects.clear()


def place(name: str, bucket: str = BUCKET) -> Location:
    return Location.parse(f"fsspec+gs://{bucket}/{name}")


def credential(**fields: str) -> Credential:
    return Credential("the test", {n: Secret.of(value, "the test") for n, value in fields.items()})


def in_fake(server: ObjectServer, name: str, bucket: str = BUCKET) -> GcsStore:
    return GcsStore(place(name, bucket), credential(endpoint=server.url))


def store_at(server: GcsServer, name: str, token: str = TOKEN, bucket: str = BUCKET) -> GcsStore:
    return GcsStore(place(name, bucket), credential(endpoint=server.url, token=token))


class TestGcs(StoreConformance):
    @pytest.fixture
    def stored(self, fake: ObjectServer) -> Stored:
        return Stored(lambda name: in_fake(fake, name), has_folders=False)

    # That server hashes with each part all that has come before; our own gets larger ones.
    @pytest.mark.parametrize("size_bytes", [64 * 1024**2])
    def test_a_large_file_passes_in_small_pieces(self, store: Store, size_bytes: int) -> None:
        super().test_a_large_file_passes_in_small_pieces(store, size_bytes)


class TestGcsApi(StoreConformance):
    @pytest.fixture
    def stored(self, server: GcsServer) -> Stored:
        return Stored(lambda name: store_at(server, name), has_folders=False)


def test_a_connection_that_breaks_in_the_middle_loses_nothing(server: GcsServer) -> None:
    link = TcpLink("127.0.0.1", server.server_port)
    given = credential(endpoint=f"http://127.0.0.1:{link.port}", token=TOKEN)
    store = GcsStore(place("cut"), given)
    assert_survives_cuts(store, link)
    store.delete("")
    link.close()


class TestFaults(BucketFaults):
    @pytest.fixture
    def bucket(self, server: GcsServer) -> Bucket:
        asked = {
            "part": ("PUT", r"upload_id=.* bytes 0-"), "end": ("PUT", r"upload_id=.*/\d+$"),
            "put": ("POST", "uploadType=multipart"), "get large": ("GET", "faults%2Flarge"),
            "get small": ("GET", "faults%2Fsmall"), "list": ("GET", "delimiter"),
            "delete": ("DELETE", "faults"),
        }  # fmt: skip
        return Bucket(
            server, lambda name: store_at(server, name), asked, lambda: server.unfinished,
            knows_ended=True,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("method", "target", "kind"),
    [("POST", "uploadType=resumable", 503), ("POST", "multipart", CHANGED),
     ("GET", "faults%2Fsmall", CHANGED)],
)  # fmt: skip
def test_what_fails_once_is_done_again(
    server: GcsServer, method: str, target: str, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "_FIRST_S", 0.01)
    assert_is_done_again(server, store_at(server, "faults"), Fault(method, target, kind), LARGE)


@pytest.mark.parametrize("size_bytes", [2 * PART_BYTES, 2 * PART_BYTES + 1])
def test_an_upload_goes_on_from_where_its_beginning_ended(
    server: GcsServer, size_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "_FIRST_S", 0.01)
    store, text = store_at(server, "short"), random.randbytes(size_bytes)
    server.short, server.faults = 2, [Fault("PUT", "upload_id", 503, times=2)]
    put(store, "a", text)
    assert server.short == 0
    assert content(store, "a") == text
    store.delete("")


def test_an_upload_of_which_nothing_comes_to_stay_is_given_up(
    server: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "_FIRST_S", 0.01)
    store = store_at(server, "lost")
    server.faults = [Fault("PUT", "upload_id", CUT, times=100)]  # with content; without, it tells
    with pytest.raises(ArtifactError, match="no answer"):
        put(store, "a", LARGE)
    server.faults.clear()
    assert store.entries("") == []


def test_a_large_file_that_arrives_changed_is_not_kept(server: GcsServer) -> None:
    store = store_at(server, "changed")
    server.faults = [Fault("PUT", "upload_id", CHANGED)]
    with pytest.raises(ArtifactError, match=r"400 .*doesn't match calculated CRC32C.*request ABg5"):
        put(store, "a", LARGE)
    assert store.entries("") == []


def test_what_a_server_has_changed_unasked_is_removed(
    fake: ObjectServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = in_fake(fake, "garbled")
    send, sent = GcsObjects.send, 0

    def garble(self: GcsObjects, at: str, what: str, part: memoryview, headers: dict[str, str]):  # type: ignore[no-untyped-def]
        nonlocal sent
        sent += 1
        return send(self, at, what, memoryview(bytes(len(part))) if sent == 1 else part, headers)

    monkeypatch.setattr(GcsObjects, "send", garble)
    with pytest.raises(ArtifactError, match="what came is not what was sent, and was removed"):
        put(store, "a", LARGE)
    assert store.entries("") == []


def test_what_comes_changed_is_noticed(server: GcsServer) -> None:
    store = store_at(server, "changed")
    put(store, "large", LARGE)
    server.faults = [Fault("GET", "changed%2Flarge", CHANGED)]
    with pytest.raises(ArtifactError, match="what came is not what is kept"):
        content(store, "large")
    store.delete("")


def test_an_upload_that_breaks_off_is_removed(server: GcsServer) -> None:
    before = server.unfinished
    store = store_at(server, "broken")
    with pytest.raises(OSError, match="the disk is gone"):
        store.put("a", io.BufferedReader(Random(20_000_000, breaks=True)))
    assert server.unfinished == before


def test_more_than_fit_on_a_page_are_listed_and_deleted(server: GcsServer) -> None:
    assert_pages_are_listed_and_deleted(store_at(server, "pages"), lambda: server.objects)


def test_a_marker_of_a_folder_is_no_file(fake: ObjectServer) -> None:
    store = in_fake(fake, "marked")
    put(store, "d/a", b"1")
    for key in ("marked/d/", "marked/empty/"):
        store._objects.put(key, b"")
    assert [(e.path, e.is_folder) for e in store.entries("")] == [("d", True), ("empty", True)]
    assert [e.path for e in store.entries("d")] == ["d/a"]
    store.delete("")
    assert store.entries("") == []


def test_a_bucket_that_is_not_there_is_no_missing_file(
    fake: ObjectServer, server: GcsServer
) -> None:
    actions: tuple[Callable[[GcsStore], object], ...] = (
        lambda store: put(store, "a", b"1"), lambda store: content(store, "a"),
        lambda store: put(store, "a", bytes(9_000_000)),
        lambda store: store.entries(""), lambda store: store.size_bytes("a"),
    )  # fmt: skip
    for store in (in_fake(fake, "x", "none"), store_at(server, "x", bucket="none")):
        for action in actions:
            with pytest.raises(ArtifactError, match="the bucket 'none' is not there") as told:
                action(store)
            assert not isinstance(told.value, ArtifactNotFoundError)
            assert "\n" not in str(told.value)


def test_a_file_that_is_kept_compressed_is_refused(fake: ObjectServer) -> None:
    store = in_fake(fake, "compressed")
    at = f"{fake.url}/upload/storage/v1/b/{BUCKET}/o?uploadType=media&name=compressed/a"
    requests.post(f"{at}&contentEncoding=gzip", data=b"text").raise_for_status()
    with pytest.raises(ArtifactError, match="it is kept compressed"):
        content(store, "a")
    store.delete("")


# -- who asks -------------------------------------------------------------------------------------


def test_a_key_of_a_service_account_is_changed_for_a_token(server: GcsServer) -> None:
    server.asked.clear()
    given = credential(endpoint=server.url, private_key=server.account)
    store = GcsStore(place("keyed"), given)
    put(store, "a", b"1")
    assert content(store, "a") == b"1"
    store.delete("")
    assert server.asked.count("POST /token") == 1


def test_the_file_of_google_application_credentials_is_read(
    server: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow_exec.storage import gcs_signing

    (tmp_path / "key.json").write_text(server.account)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.setattr(gcs_signing, "_GOOGLE", server.url)
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    store = GcsStore(place("chain"), find_credential(place("chain")))
    put(store, "a", b"1")
    assert content(store, "a") == b"1"
    assert store.urls is not None
    assert requests.get(store.urls.get_url("chain/a", 60).url).content == b"1"
    store.delete("")


@pytest.mark.parametrize("key", ["none", '{"type": "authorized_user"}'])
def test_what_is_no_key_of_a_service_account_signs_no_urls(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "key.json").write_text(key)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    assert GcsStore(place("x", f"of-{tmp_path.name}"), NOTHING).urls is None


@pytest.mark.parametrize("token", ["", TOKEN])
def test_nothing_of_the_environment_or_of_googles_chain_goes_to_another_endpoint(
    server: GcsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    monkeypatch.setenv("CLOUDSDK_AUTH_ACCESS_TOKEN", token)
    (tmp_path / "key.json").write_text(server.account)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", server.url.partition("//")[2])
    server.asked.clear()
    with pytest.raises(ArtifactError, match=r"401 .*Invalid Credentials.*without a credential"):
        GcsStore(place("x"), find_credential(place("x"))).entries("")
    assert "POST /token" not in server.asked


@pytest.mark.parametrize(
    ("endpoint", "is_shown"),
    [("https://storage.googleapis.com", True),
     ("https://storage.me-central2.rep.googleapis.com", True),
     ("http://storage.googleapis.com", False), ("storage.googleapis.com", False),
     ("https://googleapis.com.example", False), ("https://storage-googleapis.com", False)],
)  # fmt: skip
def test_what_googles_chain_finds_goes_to_google_only_and_by_tls(
    endpoint: str, is_shown: bool
) -> None:
    of_environment = replace(credential(endpoint=endpoint), is_whole=False)
    _, signed_by = identity(place("x"), of_environment)
    assert ("token" in signed_by.fields) == is_shown
    with_token = {**of_environment.fields, "token": Secret.of(TOKEN, "a variable")}
    _, signed_by = identity(place("x"), replace(of_environment, fields=with_token))
    assert (signed_by.get("token") == TOKEN) == is_shown


def test_no_credential_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GOOGLE_APPLICATION_CREDENTIALS", "STORAGE_EMULATOR_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    other = place("x", "another")  # the bucket above has a client that is signed in
    with pytest.raises(ArtifactError, match="set GOOGLE_APPLICATION_CREDENTIALS, or") as told:
        GcsStore(other, find_credential(other)).entries("")
    assert "\n" not in str(told.value)


def test_a_wrong_or_old_token_is_one_sentence_without_it(server: GcsServer) -> None:
    with pytest.raises(ArtifactError, match=r"401 .*Invalid Credentials.*from the test") as told:
        store_at(server, "x", token="ya29.of-yesterday").entries("")
    assert "\n" not in str(told.value)
    assert "yesterday" not in str(told.value)


@pytest.mark.parametrize("key", ["none", "[]", "{}", '{"private_key": "-----BEGIN"}'])
def test_a_key_that_is_none_is_refused_unseen(key: str) -> None:
    with pytest.raises(CredentialError, match="the test is no service account's key") as told:
        GcsStore(place("x"), credential(private_key=key))
    assert "BEGIN" not in str(told.value)


@pytest.mark.parametrize(
    "endpoint",
    ["ftp://host", "http://host/path", "https://", "https://a:b@host",
     "https://a\\.googleapis.com"],
)
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(MlflowExecError, match="is none; give http"):
        GcsStore(place("x"), credential(endpoint=endpoint))


def test_a_key_that_google_knows_no_more(
    server: GcsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.1)
    refused = json.dumps({"error": "invalid_grant", "error_description": "Account not found"})
    with answering(lambda _: Answer(refused, status=400)) as url:
        key = json.loads(server.account) | {"token_uri": f"{url}/token"}
        store = GcsStore(place("x"), credential(endpoint=server.url, private_key=json.dumps(key)))
        with pytest.raises(ArtifactError, match=r"no access token: .*Account not found"):
            store.entries("")


def test_a_user_of_a_bucket_is_refused() -> None:
    with pytest.raises(LocationError, match="before '@' is not used for a bucket"):
        GcsStore(Location.parse("fsspec+gs://someone@bucket/x"), credential(token="a-token"))


def test_a_server_that_is_none_of_google(monkeypatch: pytest.MonkeyPatch) -> None:
    with answering(lambda _: Answer("<html>")) as url:
        store = GcsStore(place("x"), credential(endpoint=url))
        with pytest.raises(ArtifactError, match="is no JSON; is the endpoint one of Google Cloud"):
            store.entries("")
        with pytest.raises(ArtifactError, match="no place for an upload"):
            put(store, "a", LARGE)


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.1)
    with pytest.raises(ArtifactError, match=r"no answer.*refused"):
        GcsStore(place("x"), credential(endpoint="http://127.0.0.1:9")).entries("")

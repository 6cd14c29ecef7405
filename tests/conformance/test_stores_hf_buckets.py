"""Artifacts in buckets of Hugging Face: a server of the tests, and hf_xet's own storage behind."""

from __future__ import annotations

import gc
import logging
import random
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hf_xet
import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError, ArtifactNotFoundError, MissingExtraError
from mlflow_exec.storage import huggingface_buckets
from mlflow_exec.storage.base import Store
from mlflow_exec.storage.huggingface_buckets import HfBucketStore
from mlflow_exec.storage.opening import open_store
from mlflow_exec.testing.stores import StoreConformance, Stored, content, put
from mlflow_exec.uris import Location
from tests.cloud_server import CHANGED, CUT, LOST, WHOLE, Answer, Fault, Request, serving
from tests.conformance.bucket_faults import (
    assert_a_folder_is_one_request,
    assert_is_done_again,
    assert_pages_are_listed_and_deleted,
)
from tests.conformance.small_disks import small_disk
from tests.hf_bucket_server import BUCKET, HfBucketServer
from tests.hf_server import TOKEN
from tests.unit.tls_relay import Authority, TlsRelay

LARGE = random.randbytes(20_000_000)


@pytest.fixture(scope="module")
def server() -> Iterator[HfBucketServer]:
    with serving(server := HfBucketServer()):
        yield server
    server.files.clear()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is tried again soon, by the clients, too."""
    from huggingface_hub.utils import _http

    monkeypatch.setattr(pauses, "_FIRST_S", 0.01)
    monkeypatch.setitem(_http.http_backoff.__kwdefaults__, "base_wait_time", 0.01)


def store_at(
    server: HfBucketServer, name: str, bucket: str = BUCKET, token: str = TOKEN
) -> HfBucketStore:
    secrets = {"endpoint": server.url, "token": token}
    given = {name: Secret.of(value, "the test") for name, value in secrets.items()}
    location = Location.parse(f"hf://buckets/{bucket}/{name}")
    return HfBucketStore(location, Credential("the test", given))


@pytest.fixture
def storage_of_another_process(server: HfBucketServer) -> Iterator[None]:
    with server.storage_of_another_process():
        yield
    huggingface_buckets._BUCKETS._begin()  # which would send to it


class TestHfBuckets(StoreConformance):
    @pytest.fixture
    def stored(self, server: HfBucketServer) -> Stored:
        return Stored(
            lambda name: store_at(server, name), has_folders=False, by_sockets=False
        )

    @pytest.mark.usefixtures("storage_of_another_process")
    def test_an_upload_whose_process_is_killed_leaves_what_was_kept_before(
        self, store: Store, stored: Stored
    ) -> None:
        super().test_an_upload_whose_process_is_killed_leaves_what_was_kept_before(store, stored)


@pytest.mark.parametrize(
    ("method", "target", "kind"),
    [("GET", "/xet-write-token", 503), ("GET", "/xet-write-token", CUT), ("POST", "/batch", 429),
     ("POST", "/batch", CUT), ("POST", "/batch", LOST), ("POST", "/paths-info", 503),
     ("GET", "/resolve/", 503), ("GET", "/xet-bridge/", CUT), ("GET", "/tree/", CUT)],
)  # fmt: skip
def test_what_fails_once_is_done_again(
    server: HfBucketServer, method: str, target: str, kind: int
) -> None:
    huggingface_buckets._BUCKETS._begin()  # which knows no token to write yet
    assert_is_done_again(server, store_at(server, "faults"), Fault(method, target, kind), LARGE)


def test_of_a_server_that_takes_no_ranges_no_more_is_read_than_is_needed(
    server: HfBucketServer,
) -> None:
    store = store_at(server, "whole")
    put(store, "large", LARGE)
    server.faults = [Fault("GET", "/xet-bridge/", WHOLE, times=100)]
    assert content(store, "large") == LARGE
    server.faults = []
    store.delete("")


@pytest.mark.parametrize("size_bytes", [12, 20_000_000])
def test_what_comes_changed_is_noticed(server: HfBucketServer, size_bytes: int) -> None:
    store = store_at(server, "changed")
    put(store, "a", LARGE[:size_bytes])
    server.faults = [Fault("GET", "/xet-bridge/", CHANGED, times=10)]
    with pytest.raises(ArtifactError, match="what came is not what is kept"):
        content(store, "a")
    server.faults = []
    store.delete("")


def test_a_signature_of_the_storage_is_in_no_message_log_or_traceback(
    server: HfBucketServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="mlflow_exec")
    store = store_at(server, "signed")
    put(store, "a", b"1")
    server.faults = [Fault("GET", "/xet-bridge/", 503, times=10)]
    with pytest.raises(ArtifactError, match="503") as told:
        content(store, "a")
    server.faults = []
    assert "trying again" in caplog.text
    shown = "".join(traceback.format_exception(told.value)) + caplog.text
    assert "of-the-storage" not in shown
    store.delete("")


def test_a_name_for_what_is_not_there_is_refused(server: HfBucketServer) -> None:
    store = store_at(server, "sent")
    server.faults = [Fault("POST", "/batch", CHANGED)]  # a digit of the hash
    with pytest.raises(ArtifactError, match=r"sent/a: Xet hash not found \(request Root=1-5C3D\)"):
        put(store, "a", b"1")
    assert store.entries("") == []


def test_what_is_sent_again_is_only_what_is_new(server: HfBucketServer) -> None:
    store = store_at(server, "again")
    put(store, "large", LARGE)
    before = server.storage_bytes()
    put(store, "large", LARGE[:10_000_000] + b"something new" + LARGE[10_000_000:])
    assert server.storage_bytes() - before < 2_000_000
    store.delete("")


@pytest.mark.parametrize(("fresh_s", "times"), [(3600, 1), (30, 3)])
def test_leave_to_write_is_asked_for_again_before_it_ends(
    server: HfBucketServer, monkeypatch: pytest.MonkeyPatch, fresh_s: int, times: int
) -> None:
    monkeypatch.setattr(server, "fresh_s", fresh_s)
    huggingface_buckets._BUCKETS._begin()  # which has none yet
    before = len(server.asked)
    store = store_at(server, "leave")
    for name in "abc":
        put(store, name, b"1")
    assert sum("/xet-write-token" in target for target in server.asked[before:]) == times
    store.delete("")
    huggingface_buckets._BUCKETS._begin()


def test_a_folder_of_files_is_one_batch(
    server: HfBucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    place = f"hf://buckets/{BUCKET}/folder"
    assert_a_folder_is_one_request(server, place, "/batch", {"large": LARGE}, tmp_path)


def test_of_many_batches_one_that_fails_is_sent_again_and_no_other(
    server: HfBucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, batches, answer = store_at(server, "batches"), 0, server.answer

    def failing_second(request: Request) -> Answer:
        nonlocal batches
        batches += request.path.endswith("/batch")
        return server.failure(503) if batches == 2 else answer(request)

    monkeypatch.setattr(server, "answer", failing_second)
    with store.together() as lent:
        put(lent, "one", b"1")
        held: Any = lent._objects  # type: ignore[attr-defined]
        (sent,) = held._held.values()
        for number in range(2500):
            held.hold(f"batches/many/{number:04}", sent)
    assert len(store.entries("many")) == 2500
    assert batches == 4
    store.delete("")


def test_content_that_has_no_room_to_wait_in_is_one_sentence(
    server: HfBucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(server, "full")
    put(store, "large", LARGE)
    with small_disk(tmp_path / "full"):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
        with pytest.raises(ArtifactError, match=r"full: No space left .* by TMPDIR") as told:
            content(store, "large")
        assert "\n" not in str(told.value)
        monkeypatch.undo()
        del told
        gc.collect()
        assert list((tmp_path / "full").iterdir()) == []
    store.delete("")


def test_of_files_sent_together_one_that_breaks_off_takes_no_other_with_it(
    server: HfBucketServer,
) -> None:
    store = store_at(server, "together")
    with store.together() as lent:
        put(lent, "whole", LARGE)
        broken = lent._objects.upload("together/broken")  # type: ignore[attr-defined]
        broken.write(LARGE[:9_000_000])
        broken.abort()
        put(lent, "small", b"1")
        assert store.entries("") == []
    assert [entry.path for entry in store.entries("")] == ["small", "whole"]
    assert content(store, "whole") == LARGE
    store.delete("")


def test_a_folder_whose_batch_fails_is_not_kept_and_says_so(
    server: HfBucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "a").write_text("1")
    repository = get_artifact_repository(f"hf://buckets/{BUCKET}/failing")
    server.faults = [Fault("POST", "/batch", 403)]
    with pytest.raises(MlflowException, match=r"403.*environment variable HF_TOKEN"):
        repository.log_artifacts(str(tmp_path))
    assert repository.list_artifacts() == []


def test_more_than_fit_on_a_page_are_listed_and_deleted(server: HfBucketServer) -> None:
    assert_pages_are_listed_and_deleted(store_at(server, "pages"), lambda: server.files)


def test_what_somebody_else_has_deleted_is_fine(
    server: HfBucketServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(server, "deleted")
    put(store, "a", b"1")

    def late(operations: Sequence[dict[str, Any]]) -> None:
        server.files.clear()
        batch(operations)

    bucket = store._objects
    assert isinstance(bucket, huggingface_buckets.HfBucketObjects)
    batch = bucket._batch
    monkeypatch.setattr(bucket, "_batch", late)
    store.delete("a")
    assert store.entries("") == []


def test_a_wrong_token_is_one_sentence_without_it(server: HfBucketServer) -> None:
    store = store_at(server, "x", token="hf_expired-long-ago")
    for action in (lambda: store.entries(""), lambda: put(store, "a", b"1")):
        with pytest.raises(ArtifactError, match=r"401.*Root=1-5C3D.*from the test") as told:
            action()
        assert "\n" not in str(told.value)
        assert "expired-long-ago" not in str(told.value)


def test_a_bucket_that_is_not_there(server: HfBucketServer) -> None:
    store = store_at(server, "x", "team/none")
    for action in (lambda: put(store, "a", b"1"), lambda: store.entries("")):
        with pytest.raises(ArtifactNotFoundError, match="404: Repository not found"):
            action()


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.1)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ArtifactError, match=r"no answer.*refused"):
        open_store(f"hf://buckets/{BUCKET}/x").entries("")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """hf_xet does not try again, and keeps nothing, as in another process."""
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.1)
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_BASE_DELAY", "10ms")
    huggingface_buckets._session.cache_clear()
    huggingface_buckets._BUCKETS._begin()
    yield
    huggingface_buckets._session.cache_clear()
    huggingface_buckets._BUCKETS._begin()


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("text", [b"1", LARGE], ids=["small", "large"])
def test_a_storage_that_is_not_there_or_refuses(
    server: HfBucketServer, monkeypatch: pytest.MonkeyPatch, text: bytes
) -> None:
    for storage, said in (
        ("http://127.0.0.1:9", "no answer: Network error"),
        (f"{server.url}/storage-without-access", "401 Unauthorized.*from the test"),
    ):
        monkeypatch.setattr(server, "storage", storage)
        huggingface_buckets._BUCKETS._begin()
        store = store_at(server, "lost")
        with pytest.raises(ArtifactError, match=said) as told:
            put(store, "a", text)
        assert "\n" not in str(told.value)
        assert store.entries("") == []


@pytest.mark.usefixtures("impatient")
def test_a_storage_is_trusted_by_the_authority_that_is_told(
    server: HfBucketServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = Authority.make(tmp_path / "ca", "127.0.0.1")
    relay = TlsRelay("127.0.0.1", server.server_port, authority)
    monkeypatch.setattr(server, "storage", f"https://127.0.0.1:{relay.port}/storage")
    store = store_at(server, "trusted")
    with pytest.raises(ArtifactError, match="no answer: Network error"):
        put(store, "a", b"1")
    monkeypatch.setenv("SSL_CERT_FILE", authority.ca_cert)
    huggingface_buckets._session.cache_clear()
    with pytest.raises(ArtifactError, match="401 Unauthorized"):
        put(store, "a", b"1")
    relay.close()


def test_without_hf_xet_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, huggingface_buckets.__name__)
    monkeypatch.setitem(sys.modules, hf_xet.__name__, None)
    with pytest.raises(MissingExtraError, match=r"'hf_xet' is not installed.*mlflow-exec\[hf\]"):
        open_store(f"hf://buckets/{BUCKET}/x")

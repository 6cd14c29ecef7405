"""Artifacts in repositories of Hugging Face, by its client, against a server of the tests."""

from __future__ import annotations

import base64
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import Credential, find_credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError, ArtifactNotFoundError
from mlflow_exec.storage.huggingface import HfStore
from mlflow_exec.testing.stores import StoreConformance, Stored, content, put
from mlflow_exec.uris import Location
from tests.cloud_server import CHANGED, CUT, LOST, WHOLE, Fault, serving
from tests.conformance.bucket_faults import (
    assert_a_folder_is_one_request,
    assert_is_done_again,
    assert_pages_are_listed_and_deleted,
)
from tests.conformance.small_disks import small_disk
from tests.hf_server import REPOSITORY, TOKEN, HfServer

LARGE = random.randbytes(20_000_000)
# Of its client, which calls another one as that was called before.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


@pytest.fixture(scope="module")
def server() -> Iterator[HfServer]:
    with serving(server := HfServer()):
        yield server
    server.commits.clear()
    server.lfs.clear()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails is tried again soon, by the client, too."""
    from huggingface_hub.utils import _http

    monkeypatch.setattr(pauses, "_FIRST_S", 0.01)
    monkeypatch.setitem(_http.http_backoff.__kwdefaults__, "base_wait_time", 0.01)


def store_at(
    server: HfServer, name: str, repository: str = f"datasets/{REPOSITORY}", token: str = TOKEN
) -> HfStore:
    secrets = {"endpoint": server.url, "token": token}
    given = {name: Secret.of(value, "the test") for name, value in secrets.items()}
    return HfStore(Location.parse(f"hf://{repository}/{name}"), Credential("the test", given))


class TestHf(StoreConformance):
    @pytest.fixture
    def stored(self, server: HfServer) -> Stored:
        return Stored(lambda name: store_at(server, name))


@pytest.mark.parametrize(
    ("method", "target", "kind"),
    [("PUT", "number=2", CUT), ("PUT", "number=2", 503),
     ("POST", "/preupload/", 503), ("POST", "/commit/", 412), ("POST", "/commit/", CUT),
     ("POST", "/commit/", LOST),
     ("POST", "/paths-info/", 429), ("GET", "/cdn/", CUT), ("GET", "resolve.*small", CHANGED),
     ("GET", "/tree/", CUT)],
)  # fmt: skip
def test_what_fails_once_is_done_again(
    server: HfServer, method: str, target: str, kind: int
) -> None:
    large = random.randbytes(20_000_000)  # of a hash that is not there yet
    fault = Fault(method, target, kind)
    assert_is_done_again(server, store_at(server, "faults"), fault, large)


def test_of_a_server_that_takes_no_ranges_no_more_is_read_than_is_needed(
    server: HfServer,
) -> None:
    store = store_at(server, "whole")
    put(store, "large", LARGE)
    server.faults = [Fault("GET", "/cdn/", WHOLE, times=100)]
    assert content(store, "large") == LARGE
    server.faults = []
    store.delete("")


def test_content_that_has_no_room_to_wait_in_is_one_sentence(
    server: HfServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_at(server, "full")
    with small_disk(tmp_path / "full"):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "full"))
        with pytest.raises(ArtifactError, match=r"full: No space left .* by TMPDIR") as told:
            put(store, "large", LARGE)
        assert "\n" not in str(told.value)
        assert list((tmp_path / "full").iterdir()) == []
    assert store.entries("") == []


def test_what_comes_changed_is_noticed(server: HfServer) -> None:
    store = store_at(server, "changed")
    put(store, "large", LARGE)
    server.faults = [Fault("GET", "/cdn/", CHANGED)]
    with pytest.raises(ArtifactError, match="what came is not what is kept"):
        content(store, "large")
    store.delete("")


def test_what_the_repository_ignores_is_kept(server: HfServer) -> None:
    root, store = store_at(server, ""), store_at(server, "ignored")
    put(root, ".gitignore", b"*.log\n")
    put(store, "a.log", b"some content")
    assert content(store, "a.log") == b"some content"
    root.delete("")


def test_what_arrives_changed_is_noticed(server: HfServer) -> None:
    store = store_at(server, "sent")
    server.faults = [Fault("PUT", "number=1", CHANGED)]
    with pytest.raises(ArtifactError, match=r"400: The content is not that of the SHA-256"):
        put(store, "large", random.randbytes(20_000_000))
    assert store.entries("") == []
    server.faults = [Fault("POST", "/commit/", CHANGED)]  # a letter of the content in it
    with pytest.raises(ArtifactError, match="small: what is there is not what was sent"):
        put(store, "small", base64.b64decode("BBBB" * 1000))
    store.delete("")


def test_a_folder_of_files_is_one_commit(
    server: HfServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    place = f"hf://datasets/{REPOSITORY}/folder"
    given = {"large": LARGE, "README.md": b"# A model"}
    assert_a_folder_is_one_request(server, place, "/commit/", given, tmp_path)


def test_a_folder_whose_commit_fails_is_not_kept_and_says_so(
    server: HfServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    (tmp_path / "a").write_text("1")
    repository = get_artifact_repository(f"hf://datasets/{REPOSITORY}/failing")
    server.faults = [Fault("POST", "/commit/", 403)]
    with pytest.raises(MlflowException, match=r"403.*environment variable HF_TOKEN"):
        repository.log_artifacts(str(tmp_path))
    assert repository.list_artifacts() == []


def test_more_than_fit_on_a_page_are_listed_and_deleted(server: HfServer) -> None:
    assert_pages_are_listed_and_deleted(store_at(server, "pages"), lambda: server.tree)


def test_what_the_hub_itself_needs_is_left_in_a_repository(server: HfServer) -> None:
    store = store_at(server, "", f"models/{REPOSITORY}")
    put(store, ".gitattributes", b"*.bin filter=lfs")
    put(store, "a/b", b"1")
    assert [e.path for e in store.entries("")] == ["a"]
    store.delete("")
    assert list(server.tree) == [".gitattributes"]
    server.tree.clear()


def test_a_wrong_token_is_one_sentence_without_it(server: HfServer) -> None:
    with pytest.raises(ArtifactError, match=r"401.*\(request Root=1-5C3D\).*from the test") as told:
        store_at(server, "x", token="hf_expired-long-ago").entries("")
    assert "\n" not in str(told.value)
    assert "expired-long-ago" not in str(told.value)


def test_a_repository_or_revision_that_is_not_there(server: HfServer) -> None:
    for repository in ("datasets/team/none", f"datasets/{REPOSITORY}@none"):
        store = store_at(server, "x", repository)
        for action in (lambda: put(store, "a", b"1"), lambda: store.entries("")):  # noqa: B023
            with pytest.raises(ArtifactNotFoundError, match=r"404: (Repository|Invalid rev)"):
                action()


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.1)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    location = Location.parse(f"hf://{REPOSITORY}/x")
    with pytest.raises(ArtifactError, match=r"no answer.*refused"):
        HfStore(location, find_credential(location)).entries("")


def test_the_token_is_where_hugging_faces_own_tools_have_put_it(
    server: HfServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    location = Location.parse(f"hf://datasets/{REPOSITORY}/x")
    HfStore(location, find_credential(location)).entries("")

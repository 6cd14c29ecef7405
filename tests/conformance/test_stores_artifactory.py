"""Artifacts in Artifactory: a server for tests that follows its REST documentation."""

from __future__ import annotations

import hashlib
import io
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from mlflow_exec.credential_sources import NOTHING, Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    LocationError,
    UnreachableError,
)
from mlflow_exec.storage.artifactory import ArtifactoryStore
from mlflow_exec.storage.base import Entry
from mlflow_exec.testing.stores import Random, StoreConformance, Stored, content, put
from mlflow_exec.uris import Location
from tests.artifactory_server import REPOSITORY, TOKEN, Fault, artifactory
from tests.artifactory_server import ArtifactoryServer as Server
from tests.conformance.cutting import assert_survives_cuts
from tests.unit.tcp_link import TcpLink

SIGNED_IN = Credential("the test", {"token": Secret.of(TOKEN, "the test")})


@pytest.fixture(autouse=True)
def without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARTIFACTORY_NO_SSL", "true")


@pytest.fixture(scope="module")
def pro(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with artifactory(tmp_path_factory.mktemp("pro")) as server:
        yield server


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One that has no File List, and redirects downloads without naming their hash."""
    with artifactory(tmp_path_factory.mktemp("cloud")) as server:
        server.is_pro, server.redirects, server.names_hashes = False, True, False
        yield server


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with artifactory(tmp_path) as server:
        yield server


@pytest.fixture
def store(server: Server) -> ArtifactoryStore:
    return store_of(server)


def store_of(server: Server, credential: Credential = SIGNED_IN, at: str = "m") -> ArtifactoryStore:
    return ArtifactoryStore(Location.parse(server.uri(at)), credential)


class TestPro(StoreConformance):
    @pytest.fixture
    def stored(self, pro: Server) -> Stored:
        return Stored(lambda name: store_of(pro, at=name))


class TestWithoutProAndWithRedirects(StoreConformance):
    @pytest.fixture
    def stored(self, cloud: Server) -> Stored:
        return Stored(lambda name: store_of(cloud, at=name))


class Once(io.BytesIO):
    """A stream that can be read once only, like what a server receives."""

    def seekable(self) -> bool:
        return False


LARGE = random.Random(1).randbytes(12_000_000)
as_a_file_or_a_stream = pytest.mark.parametrize("kind", [io.BytesIO, Once])


def sent_bytes(server: Server) -> int:
    """Return how much was sent in bodies whose size was known."""
    puts = [headers for method, _, headers in server.requests if method == "PUT"]
    return sum(int(headers.get("Content-Length", 0)) for headers in puts)


@as_a_file_or_a_stream
@pytest.mark.parametrize("status", [400, 403, 404, 409, 413, 500, 507])
def test_an_upload_that_is_refused_fails_with_what_was_said(
    server: Server, store: ArtifactoryStore, kind: type[io.BytesIO], status: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("mlflow_exec.storage.artifactory_http.PATIENCE_S", 0.1)
    put(store, "d/a", b"before")
    server.faults = [Fault("PUT", status, times=9)]
    said = rf"{status} .*as the test wants it \(request \w+\)"
    with pytest.raises(ArtifactError, match=said) as told:
        store.put("d/a", kind(LARGE))
    assert type(told.value) is ArtifactError
    assert content(store, "d/a") == b"before"


@pytest.mark.parametrize("method", ["PUT", "GET", "DELETE"])
def test_a_server_that_is_busy_is_asked_again(
    server: Server, store: ArtifactoryStore, method: str
) -> None:
    server.faults = [
        Fault(method, 429, headers={"Retry-After": "1"}), Fault(method, 503), Fault(method, 502),
    ]  # fmt: skip
    put(store, "a", b"1")
    assert (content(store, "a"), store.entries("")) == (b"1", [Entry("a", False, 1)])
    store.delete("a")
    assert [fault.times for fault in server.faults] == [0, 0, 0]


def test_who_is_asked_to_wait_for_long_is_told_so(server: Server, store: ArtifactoryStore) -> None:
    server.faults = [Fault("GET", 429, headers={"Retry-After": "3600"})]
    with pytest.raises(ArtifactError, match="429"):
        store.entries("")


@pytest.mark.parametrize("cut_at_byte", [0, 1, 1_000_000, 11_999_999])
def test_an_upload_whose_connection_breaks_is_sent_again(
    server: Server, store: ArtifactoryStore, cut_at_byte: int
) -> None:
    server.faults = [Fault("PUT", cut_at_byte=cut_at_byte, times=4)]
    put(store, "d/a", LARGE)
    assert content(store, "d/a") == LARGE


def test_connections_that_break_at_random_bytes_lose_nothing(server: Server) -> None:
    link = TcpLink("127.0.0.1", int(server.host.partition(":")[2]))
    uri = server.uri("cut").replace(server.host, f"127.0.0.1:{link.port}")
    assert_survives_cuts(ArtifactoryStore(Location.parse(uri), SIGNED_IN), link)
    link.close()


def test_a_stream_whose_connection_breaks_is_an_error_and_leaves_what_was_there(
    server: Server, store: ArtifactoryStore
) -> None:
    put(store, "d/a", b"before")
    server.faults = [Fault("PUT", cut_at_byte=9_000_000)]
    with pytest.raises(ArtifactError, match="no answer"):
        store.put("d/a", Once(LARGE))
    assert content(store, "d/a") == b"before"


def test_a_stream_that_breaks_off_after_much_was_sent_is_not_there(
    server: Server, store: ArtifactoryStore
) -> None:
    put(store, "d/a", b"before")
    with pytest.raises(OSError, match="the disk is gone"):
        store.put("d/a", io.BufferedReader(Random(20_000_000, breaks=True)))
    assert "PUT" in [method for method, *_ in server.requests[1:]]
    assert content(store, "d/a") == b"before"


def test_a_file_that_becomes_shorter_while_it_is_sent_is_an_error(
    server: Server, store: ArtifactoryStore, tmp_path: Path
) -> None:
    file = tmp_path / "shrinks"
    file.write_bytes(LARGE)

    class Shrinks(io.FileIO):
        def seek(self, position: int, whence: int = 0) -> int:
            with file.open("r+b") as shorter:
                shorter.truncate(1_000_000)
            return super().seek(position, whence)

    with Shrinks(file) as shrinks, pytest.raises(ArtifactError, match="shorter"):
        store.put("a", shrinks)
    assert store.entries("") == []


def test_what_was_kept_though_the_answer_was_lost_is_not_sent_again(
    server: Server, store: ArtifactoryStore
) -> None:
    server.faults = [Fault("PUT", loses_answer=True, with_body=True)]
    put(store, "a", LARGE)
    assert content(store, "a") == LARGE
    assert sent_bytes(server) == len(LARGE)


def test_a_content_that_the_server_has_is_not_sent(server: Server, store: ArtifactoryStore) -> None:
    put(store, "a", LARGE)
    put(store, "copies/b", LARGE)
    assert content(store, "copies/b") == LARGE
    assert sent_bytes(server) == len(LARGE)


@pytest.mark.parametrize("heeds_hashes", [True, False])
def test_a_proxy_that_drops_the_header_of_a_deploy_makes_no_empty_file(
    server: Server, store: ArtifactoryStore, heeds_hashes: bool
) -> None:
    server.heeds_deploys, server.heeds_hashes = False, heeds_hashes
    put(store, "a", LARGE)
    assert content(store, "a") == LARGE


def test_what_does_not_arrive_as_it_was_sent_is_an_error(
    server: Server, store: ArtifactoryStore
) -> None:
    put(store, "a", b"before")
    server.faults = [Fault("PUT", corrupts=True, times=9)]
    with pytest.raises(ArtifactError, match=r"409 .*Checksum policy"):
        put(store, "a", LARGE)
    assert content(store, "a") == b"before"
    with pytest.raises(ArtifactError, match="did not arrive as it was sent"):
        store.put("a", Once(LARGE))
    assert store.entries("") == []


def test_an_answer_that_does_not_say_what_was_kept_is_an_error(
    server: Server, store: ArtifactoryStore
) -> None:
    server.faults = [Fault("PUT", 200)]
    with pytest.raises(ArtifactError, match="does not say the SHA-256"):
        put(store, "a", b"1")


@pytest.mark.parametrize("redirects", [False, True])
def test_a_download_goes_on_where_its_connection_broke(
    server: Server, store: ArtifactoryStore, redirects: bool
) -> None:
    put(store, "a", LARGE)
    server.redirects = redirects
    digest = hashlib.sha256(LARGE).hexdigest()
    server.faults = [
        Fault("GET", cut_at_byte=at, only=digest if redirects else "")
        for at in (1_500_000, 0, 100_000)
    ]  # fmt: skip
    assert content(store, "a") == LARGE
    starts = [h["Range"] for method, _, h in server.requests if method == "GET" and "Range" in h]
    assert len(starts) == 6 if redirects else 3
    assert all(1_400_000 < int(start[6:-1]) < 1_600_000 for start in starts)


def test_a_download_whose_connection_breaks_behind_the_last_byte_is_whole(
    server: Server, store: ArtifactoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "a", LARGE)
    pieces, broken = store._pieces, []

    def breaks(answer: requests.Response, start: int) -> Iterator[bytes]:
        yield from pieces(answer, start)
        broken.append(start)
        raise UnreachableError("as if the last chunk had not come")

    monkeypatch.setattr(store, "_pieces", breaks)
    assert content(store, "a") == LARGE
    assert broken == [0]


def test_a_download_goes_on_where_the_server_sends_all_of_it_again(
    server: Server, store: ArtifactoryStore
) -> None:
    put(store, "a", LARGE)
    server.heeds_ranges = False
    server.faults = [Fault("GET", cut_at_byte=1_500_000)]
    assert content(store, "a") == LARGE


def test_a_file_that_is_replaced_while_a_download_is_resumed_is_an_error(
    server: Server, store: ArtifactoryStore
) -> None:
    put(store, "a", LARGE)
    server.faults = [Fault("GET", cut_at_byte=2_000_000)]
    pieces = store.read("a")
    next(pieces)
    put(store, "a", LARGE[::-1])
    with pytest.raises(ArtifactError, match="was replaced while it was read"):
        list(pieces)


def test_a_download_that_is_not_what_was_kept_is_an_error(
    server: Server, store: ArtifactoryStore
) -> None:
    put(store, "a", b"1" * 1000)
    server.faults = [Fault("GET", corrupts=True)]
    with pytest.raises(ArtifactError, match="its hash differs"):
        content(store, "a")


def test_a_folder_is_no_file_though_there_is_a_page_that_lists_it(
    server: Server, store: ArtifactoryStore
) -> None:
    put(store, "d/a", b"1")
    with pytest.raises(ArtifactNotFoundError, match="there is no file 'd'"):
        content(store, "d")


def test_names_that_artifactory_refuses_are_kept_and_shown_as_they_are(
    server: Server, store: ArtifactoryStore
) -> None:
    names = ["a:b", 'q"?*<>|', "a%3Ab", "a%253Ab", "%", "a;p=1", "a%2525"]
    for name in names:
        put(store, f"d/{name}", name.encode())
    assert [entry.path for entry in store.entries("d")] == sorted(f"d/{name}" for name in names)
    for name in names:
        assert content(store, f"d/{name}") == name.encode()
    assert f"{REPOSITORY}/m/d/a%3Ab" in server.nodes


def test_a_repository_is_emptied_and_not_removed(server: Server) -> None:
    store = ArtifactoryStore(Location.parse(server.uri("")), SIGNED_IN)
    put(store, "a/b", b"1")
    put(store, "c", b"1")
    store.delete("")
    assert server.nodes == {REPOSITORY: ""}
    assert f"/artifactory/{REPOSITORY}" not in server.asked("DELETE")


def test_deletions_can_be_switched_off(
    server: Server, store: ArtifactoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "a", b"1")
    monkeypatch.setenv("ARTIFACTORY_ARTIFACTS_DELETE_SKIP", "true")
    store.delete("a")
    assert store.entries("") == [Entry("a", False, 1)]
    monkeypatch.setenv("ARTIFACTORY_ARTIFACTS_DELETE_SKIP", "false")
    store.delete("a")
    assert store.entries("") == []


@pytest.mark.parametrize(
    "path", ["artifactory/api/security", "access/api/v1", "artifactory/ui/x", "a/b"]
)
def test_a_location_names_a_repository_and_no_other_part_of_the_server(path: str) -> None:
    with pytest.raises(LocationError, match="the name of a repository"):
        ArtifactoryStore(Location.parse(f"artifactory://h/{path}"), NOTHING)

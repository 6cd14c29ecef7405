"""Artifacts on a share of a real Samba."""

from __future__ import annotations

import io
from collections.abc import Iterator

import pytest

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage.smb import SmbStore
from mlflow_exec.testing.stores import StoreConformance, Stored
from mlflow_exec.uris import Location
from tests.conformance.cutting import assert_survives_cuts
from tests.conformance.small_disks import assert_says_that_it_is_full, small_disk
from tests.databases import PASSWORD
from tests.file_servers import SAMBA_USER, FileServer, samba
from tests.unit.tcp_link import TcpLink


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FileServer]:
    with samba(tmp_path_factory.mktemp("samba")) as server:
        yield server


def store_at(port: int, name: str, password: str = PASSWORD) -> SmbStore:
    location = Location.parse(f"smb://{SAMBA_USER}@127.0.0.1:{port}/share/{name}")
    return SmbStore(location, Credential("the test", {"password": Secret.of(password, "test")}))


class TestSmb(StoreConformance):
    @pytest.fixture
    def stored(self, server: FileServer) -> Stored:
        return Stored(lambda name: store_at(server.port, name))


# smbprotocol's, of handles whose connection is gone.
@pytest.mark.filterwarnings("ignore:unclosed SMB handle:ResourceWarning")
def test_a_connection_that_breaks_in_the_middle_loses_nothing(server: FileServer) -> None:
    link = TcpLink("127.0.0.1", server.port)
    store = store_at(link.port, "cut")
    assert_survives_cuts(store, link)
    assert [path.name for path in (server.folder / "cut").iterdir()] == ["d"], "no part is left"
    store.delete("")
    store.close()
    link.close()


def test_a_disk_that_is_full_is_told_of_and_nothing_is_lost(server: FileServer) -> None:
    with small_disk(server.folder / "full"):
        assert_says_that_it_is_full(store_at(server.port, "full/x"), "(?i)disk.*full")


def test_names_that_windows_does_not_allow_are_kept_as_macos_and_linux_do(
    server: FileServer,
) -> None:
    store = store_at(server.port, "odd")
    for name in ("a:b|c*<d>", "ends with.", "ends with "):
        store.put(name, io.BytesIO(name.encode()))
    assert sorted(entry.path for entry in store.entries("")) == [
        "a:b|c*<d>", "ends with ", "ends with.",
    ]  # fmt: skip
    assert "a\uf022b\uf027c\uf021\uf023d\uf024" in {
        path.name for path in (server.folder / "odd").iterdir()
    }
    store.delete("")


def test_a_wrong_password_is_one_sentence_without_it(server: FileServer) -> None:
    with pytest.raises(ArtifactError, match=r"(?i)logon.*from the test") as told:
        store_at(server.port, "x", "another-password").entries("")
    assert "another-password" not in str(told.value)
    assert "\n" not in str(told.value)


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.5)
    with pytest.raises(ArtifactError, match="refused"):
        store_at(9, "x").entries("")

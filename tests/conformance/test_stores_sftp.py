"""Artifacts in a real OpenSSH server's files."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import io
import os
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, cast

import asyncssh
import pytest

from mlflow_exec.clients import pauses
from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage.base import Entry
from mlflow_exec.storage.event_loop import EventLoop
from mlflow_exec.storage.folders import PART
from mlflow_exec.storage.sent import Sent
from mlflow_exec.storage.sftp import SftpStore
from mlflow_exec.testing.stores import StoreConformance, Stored
from mlflow_exec.uris import Location
from tests.conformance.cutting import assert_survives_cuts
from tests.conformance.small_disks import assert_says_that_it_is_full, small_disk
from tests.file_servers import SshServer, ssh_server
from tests.unit.tcp_link import TcpLink


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("sshd")) as server:
        yield server


def signed_in(server: SshServer, **changes: str) -> Credential:
    given = {"private_key": server.private_key, "host_key": server.host_key, **changes}
    return Credential(
        "the test", {name: Secret.of(value, "the test") for name, value in given.items() if value}
    )


def at(server: SshServer, name: str, port: int | None = None) -> Location:
    where = f"{server.user}@127.0.0.1:{port or server.port}"
    return Location.parse(f"fsspec+sftp://{where}{server.folder}/{name}")


class Stream(io.RawIOBase):
    """What can be read once."""

    def __init__(self, text: bytes) -> None:
        self._text = io.BytesIO(text)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._text.readinto(buffer)


class TestSftp(StoreConformance):
    @pytest.fixture
    def stored(self, server: SshServer) -> Stored:
        return Stored(lambda name: SftpStore(at(server, name), signed_in(server)))


def test_a_connection_that_breaks_in_the_middle_loses_nothing(server: SshServer) -> None:
    link = TcpLink("127.0.0.1", server.port)
    store = SftpStore(at(server, "cut", link.port), signed_in(server))
    assert_survives_cuts(store, link)
    assert [path.name for path in (server.folder / "cut").iterdir()] == ["d"], "no part is left"
    store.delete("")
    store.close()
    link.close()


def test_a_disk_that_is_full_is_told_of_and_nothing_is_lost(server: SshServer) -> None:
    with small_disk(server.folder / "full"):
        store = SftpStore(at(server, "full/x"), signed_in(server))
        assert_says_that_it_is_full(store, "no space left")


@pytest.mark.parametrize("size_bytes", [0, 20, 5_000_000])
def test_an_upload_into_a_place_that_others_have_removed_is_whole(
    server: SshServer, size_bytes: int
) -> None:
    store, other = (SftpStore(at(server, "gone"), signed_in(server)) for _ in range(2))
    text = random.randbytes(size_bytes)
    for content in (io.BytesIO(text), cast(BinaryIO, Stream(text))):
        store.put("first", io.BytesIO(b"1"))
        other.delete("")
        store.put("d/second", content)
        assert b"".join(store.read("d/second")) == text
    store.delete("")


def test_a_link_is_removed_and_not_what_it_leads_to(server: SshServer) -> None:
    store = SftpStore(at(server, "linked"), signed_in(server))
    store.put("a", io.BytesIO(b"1"))
    outside = server.folder / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    for name in ("link", "file"):
        (server.folder / "linked" / name).symlink_to(outside / ("kept" if name == "file" else ""))
    (server.folder / "linked" / "nowhere").symlink_to(outside / "nothing")
    found = {entry.path: (entry.is_folder, entry.size_bytes) for entry in store.entries("")}
    assert (found["link"], found["file"]) == ((True, None), (False, 4))
    assert [entry.path for entry in store.entries("link")] == ["link/kept"]
    store.delete("link")
    assert "link" not in {entry.path for entry in store.entries("")}
    store.delete("")
    assert [path.name for path in outside.iterdir()] == ["kept"]


def test_a_store_of_before_a_fork_works_in_the_child(server: SshServer) -> None:
    store = SftpStore(at(server, "forked"), signed_in(server))
    store.put("parent", io.BytesIO(b"parent"))
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            store.put("child", io.BytesIO(b"child"))
            code = int(b"".join(store.read("parent")) != b"parent")
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert b"".join(store.read("child")) == b"child"
    store.delete("")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_fork_while_another_thread_begins_something_does_not_hang_the_child() -> None:
    loop = EventLoop("forked")
    with loop._lock:
        child = os.fork()
        if not child:
            signal.alarm(10)
            os._exit(loop.wait(asyncio.sleep(0, 3)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 3


def test_a_size_that_is_told_before_all_is_written_is_asked_for_again(tmp_path: Path) -> None:
    class Early(asyncssh.SFTPServer):
        def fstat(self, file_obj: object) -> asyncssh.SFTPAttrs:
            return asyncssh.SFTPAttrs(size=0)

    loop, key = EventLoop("early"), asyncssh.generate_private_key("ssh-ed25519")
    (tmp_path / "keys").write_bytes(key.export_public_key())
    listener = loop.wait(
        asyncssh.listen(
            "127.0.0.1", 0, server_host_keys=[key], authorized_client_keys=str(tmp_path / "keys"),
            sftp_factory=Early,
        )
    )  # fmt: skip
    private, public = key.export_private_key().decode(), key.export_public_key().decode()
    early = SshServer(
        listener.get_port(), getpass.getuser(), private, "", public, "", folder=tmp_path
    )
    store = SftpStore(at(early, "d"), signed_in(early))
    store.put("a", io.BytesIO(b"all of it"))
    assert (tmp_path / "d" / "a").read_bytes() == b"all of it"
    loop.call(listener.close)


def test_closing_one_store_leaves_the_others_their_connection(server: SshServer) -> None:
    one, other = (SftpStore(at(server, name), signed_in(server)) for name in ("one", "other"))

    class Closes(Stream):
        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            other.close()
            return super().readinto(buffer)

    one.put("a", cast(BinaryIO, Closes(bytes(5_000_000))))
    assert one.entries("") == [Entry("a", False, 5_000_000)]
    one.delete("")


def test_what_a_disk_has_garbled_is_noticed_where_files_are_read_back(
    server: SshServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SftpStore(at(server, "garbled"), signed_in(server))
    write, text = store._folders.write, random.randbytes(3_000_000)

    def garble(path: str, content: Sent) -> int:
        size_bytes = write(path, content)
        with open(path, "r+b") as file:
            file.seek(2_000_000)
            file.write(b"garbled")
        return size_bytes

    monkeypatch.setenv("MLFLOW_EXEC_READ_BACK", "1")
    store.put("a", io.BytesIO(text))
    assert b"".join(store.read("a")) == text
    monkeypatch.setattr(store._folders, "write", garble)
    with pytest.raises(ArtifactError, match="'b': what is there is not what was sent"):
        store.put("b", io.BytesIO(text))
    assert [path.name for path in (server.folder / "garbled").iterdir()] == ["a"]
    monkeypatch.undo()
    store.delete("")


def test_parts_of_who_was_killed_a_day_ago_are_removed_by_a_large_upload(
    server: SshServer,
) -> None:
    store = SftpStore(at(server, "swept"), signed_in(server))
    store.put("a", io.BytesIO(b"1"))
    folder = server.folder / "swept"
    for name, age_s in (("old", 25 * 3600), ("new", 3600)):
        (folder / f"{PART}{name}").write_bytes(b"half")
        then_s = time.time() - age_s
        os.utime(folder / f"{PART}{name}", (then_s, then_s))
    assert [entry.path for entry in store.entries("")] == ["a"]
    store.put("large", io.BytesIO(bytes(9_000_000)))
    assert sorted(path.name for path in folder.iterdir()) == [f"{PART}new", "a", "large"]
    store.delete("")
    assert not folder.exists()


def test_a_wrong_key_is_one_sentence(server: SshServer) -> None:
    store = SftpStore(at(server, "x"), signed_in(server, private_key=server.other_key))
    with pytest.raises(ArtifactError, match=r"Permission denied.*from the test") as told:
        store.entries("")
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("known", ["no key", "another key"])
def test_a_machine_whose_key_is_not_known_is_not_spoken_to(
    server: SshServer, known: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    host_key = {"no key": "", "another key": server.other_host_key}[known]
    store = SftpStore(at(server, "x"), signed_in(server, host_key=host_key))
    with pytest.raises(ArtifactError, match="known_hosts"):
        store.entries("")


def test_a_server_that_is_not_there(server: SshServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pauses, "PATIENCE_S", 0.5)
    store = SftpStore(replace(at(server, "x"), port=9), signed_in(server))
    with pytest.raises(ArtifactError, match=r"(?i)connect call failed|refused"):
        store.entries("")

"""Artifacts in a real PostgreSQL and a real MariaDB."""

from __future__ import annotations

import io
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError, UnreachableError
from mlflow_exec.storage import database_tables as tables
from mlflow_exec.storage.base import Entry
from mlflow_exec.storage.database import DatabaseStore
from mlflow_exec.testing.stores import StoreConformance, Stored
from mlflow_exec.uris import Location
from tests.conformance.cutting import assert_survives_cuts
from tests.conformance.database_stores import SIGNED_IN, at, counted, end_the_day, uri_of
from tests.databases import DATABASE, PASSWORD, mariadb, postgresql
from tests.unit.tcp_link import TcpLink


@pytest.fixture(scope="module")
def postgresql_uri() -> Iterator[str]:
    with postgresql() as server:
        yield uri_of("postgresql", server.port, "postgres")


@pytest.fixture(scope="module")
def mariadb_uri() -> Iterator[str]:
    with mariadb() as server:
        yield uri_of("mysql+pymysql", server.port, DATABASE)


class TestPostgresql(StoreConformance):
    @pytest.fixture
    def stored(self, postgresql_uri: str) -> Stored:
        return Stored(at(postgresql_uri), by_sockets=False)  # those are of libpq


class TestMariadb(StoreConformance):
    @pytest.fixture
    def stored(self, mariadb_uri: str) -> Stored:
        return Stored(at(mariadb_uri))


each_server = pytest.mark.parametrize("server", ["postgresql_uri", "mariadb_uri"])


@each_server
def test_a_connection_that_breaks_in_the_middle_loses_nothing(
    server: str, request: pytest.FixtureRequest
) -> None:
    location = Location.parse(f"{request.getfixturevalue(server)}/cut")
    assert location.port is not None
    link = TcpLink("127.0.0.1", location.port)
    store = DatabaseStore(replace(location, port=link.port), SIGNED_IN)
    assert_survives_cuts(store, link)
    store.delete("")
    store.close()
    link.close()


@pytest.fixture(params=["postgresql_uri", "mariadb_uri", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DatabaseStore]:
    """A store at an empty place of each database."""
    uri = f"sqlite:///{tmp_path}/a.db"
    if request.param != "sqlite":
        uri = request.getfixturevalue(request.param)
    made = DatabaseStore(Location.parse(f"{uri}/{tmp_path.name}"), SIGNED_IN)
    yield made
    made.delete("")
    assert counted(made) == (0, 0, 0), "nothing is left in any table"
    made.close()


def put(store: DatabaseStore, path: str, text: bytes) -> None:
    store.put(path, io.BytesIO(text))


@pytest.mark.parametrize("size_bytes", [1, 3_000_000])
def test_what_was_shown_is_kept_though_the_answer_to_that_was_lost(
    store: DatabaseStore, size_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shows, database = tables.show, store._database
    write, shown = database.write, []

    def marks(*arguments: Any) -> None:
        shows(*arguments)
        shown.append(True)

    def loses_the_answer(action: Callable[[sa.Connection], Any]) -> Any:
        result = write(action)
        if shown:
            shown.clear()
            raise ArtifactError("the connection was lost")
        return result

    put(store, "a", b"before")
    monkeypatch.setattr(tables, "show", marks)
    monkeypatch.setattr(database, "write", loses_the_answer)
    text = random.randbytes(size_bytes)
    with pytest.raises(ArtifactError, match="the connection was lost"):
        put(store, "a", text)
    assert b"".join(store.read("a")) == text
    monkeypatch.undo()
    store.delete("a")
    end_the_day(store)


def delete_while_it_comes(
    store: DatabaseStore, monkeypatch: pytest.MonkeyPatch, folder: str, path: str
) -> None:
    """Delete a folder; when it is known what to delete, a file is put there."""
    below = store._below

    def and_it_comes(names: Sequence[str]) -> list[Any]:
        found = below(names)
        put(store, path, b"2")
        return found

    monkeypatch.setattr(store, "_below", and_it_comes)
    store.delete(folder)
    monkeypatch.undo()


def test_a_file_that_comes_while_its_folder_is_deleted_is_whole_and_listed(
    store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "d/e/a", b"1")
    delete_while_it_comes(store, monkeypatch, "d", "d/e/b")
    assert store.entries("") == [Entry("d", True)]
    assert store.entries("d/e") == [Entry("d/e/b", False, 1)]


def test_a_file_that_is_replaced_while_it_is_deleted_leaves_nothing(
    store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, "d/a", b"1")
    delete_while_it_comes(store, monkeypatch, "d", "d/a")
    assert store.entries("") == []
    end_the_day(store)


def test_what_was_replaced_a_day_ago_is_removed_and_what_is_used_is_not(
    store: DatabaseStore,
) -> None:
    for text in (b"1", b"22" * 1_000_000, b"333"):
        put(store, "a", text)
    assert counted(store)[1] == 3
    end_the_day(store)
    assert counted(store) == (2, 1, 1)  # the file and its folder
    assert b"".join(store.read("a")) == b"333"


class _TwoDaysAhead(datetime):
    @classmethod
    def now(cls, tz: tzinfo | None = None) -> _TwoDaysAhead:
        return super().now(tz) + timedelta(days=2)


def test_a_client_whose_clock_is_wrong_removes_nothing_that_others_send(
    store: DatabaseStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Swept(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            with monkeypatch.context() as there:
                there.setattr(tables, "datetime", _TwoDaysAhead)
                other = DatabaseStore(store.location, store.credential)
                other._sweep()
            return super().read(size)

    text = random.randbytes(3_000_000)
    store.put("a", Swept(text))
    assert b"".join(store.read("a")) == text


START = """
import sys
from mlflow_exec.storage.opening import open_store
store = open_store(sys.argv[1])
sys.stdin.read()
assert store.entries("") == []
"""


def test_many_processes_may_be_the_first_of_a_database(tmp_path: Path) -> None:
    words = [sys.executable, "-c", START, f"sqlite:///{tmp_path}/a.db"]
    started = [subprocess.Popen(words, stdin=subprocess.PIPE) for _ in range(6)]
    for process in started:
        assert process.stdin is not None
        process.stdin.close()
    assert [process.wait(120) for process in started] == [0] * 6


def test_a_password_that_was_corrected_counts(postgresql_uri: str) -> None:
    location = Location.parse(f"{postgresql_uri}/corrected")
    wrong = Credential("the same", {"password": Secret.of("wrong", "the test")})
    right = Credential("the same", {"password": Secret.of(PASSWORD, "the test")})
    with pytest.raises(ArtifactError):
        DatabaseStore(location, wrong).entries("")
    assert DatabaseStore(location, right).entries("") == []


@each_server
def test_a_wrong_password_is_one_sentence_without_it(
    server: str, request: pytest.FixtureRequest
) -> None:
    uri = request.getfixturevalue(server)
    wrong = Credential("", {"password": Secret.of("another-password", "the test")})
    with pytest.raises(ArtifactError) as told:
        DatabaseStore(Location.parse(uri), wrong).entries("")
    assert "scientist" in str(told.value)
    assert "another-password" not in str(told.value)
    assert "\n" not in str(told.value)


@each_server
def test_a_password_that_has_expired_is_refused_at_once_and_not_waited_for(
    server: str, request: pytest.FixtureRequest
) -> None:
    location = Location.parse(f"{request.getfixturevalue(server)}/expired")
    given = Credential("that expires", {"password": Secret.of(PASSWORD, "the test")})
    store = DatabaseStore(location, given)
    store.entries("")
    database = store._database
    database._connected().dispose()  # as a pool does with old connections
    database._credential = Credential("", {"password": Secret.of("another-password", "the test")})
    with pytest.raises(ArtifactError, match=r"(?i)authentication failed|access denied") as told:
        store.entries("")
    assert not isinstance(told.value.__cause__, UnreachableError), "a client would ask again"
    database._credential = given
    assert store.entries("") == []
    store.close()


def test_a_server_that_is_not_there() -> None:
    store = DatabaseStore(Location.parse("postgresql://127.0.0.1:9/artifacts"), SIGNED_IN)
    with pytest.raises(ArtifactError, match=r"(?i)connection refused"):
        store.entries("")

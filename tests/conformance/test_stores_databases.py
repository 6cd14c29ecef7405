"""Artifacts in a real PostgreSQL and a real MariaDB."""

from __future__ import annotations

import io
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage.base import Entry
from mlflow_exec.storage.database import DatabaseStore
from mlflow_exec.testing.stores import StoreConformance, Stored
from mlflow_exec.uris import Location
from tests.databases import DATABASE, PASSWORD, USER, mariadb, postgresql
from tests.unit.tcp_link import TcpLink

SIGNED_IN = Credential("the test", {"password": Secret.of(PASSWORD, "the test")})


def uri_of(scheme: str, port: int, database: str) -> str:
    return f"{scheme}://{USER}@127.0.0.1:{port}/{database}"


@pytest.fixture(scope="module")
def postgresql_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with postgresql(tmp_path_factory.mktemp("postgresql")) as server:
        yield uri_of("postgresql", server.port, "postgres")


@pytest.fixture(scope="module")
def mariadb_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mariadb(tmp_path_factory.mktemp("mariadb")) as server:
        yield uri_of("mysql+pymysql", server.port, DATABASE)


def at(uri: str) -> Callable[[str], DatabaseStore]:
    return lambda name: DatabaseStore(Location.parse(f"{uri}/{name}"), SIGNED_IN)


class TestPostgresql(StoreConformance):
    @pytest.fixture
    def stored(self, postgresql_uri: str) -> Stored:
        return Stored(at(postgresql_uri))


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
    text = random.randbytes(12_000_000)

    class Cuts(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if 4_000_000 < self.tell() < 6_000_000:
                link.cut()
                threading.Timer(0.5, link.mend).start()
            return super().read(size)

    store.put("d/large", Cuts(text))
    read = b""
    for piece in store.read("d/large"):
        if 4_000_000 < len(read) < 6_000_000:
            link.cut()
            threading.Timer(0.5, link.mend).start()
        read += piece
    assert read == text
    assert store.entries("d") == [Entry("d/large", False, len(text))]
    store.delete("")
    store.close()
    link.close()


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


def test_a_server_that_is_not_there() -> None:
    store = DatabaseStore(Location.parse("postgresql://127.0.0.1:9/artifacts"), SIGNED_IN)
    with pytest.raises(ArtifactError, match=r"(?i)connection refused"):
        store.entries("")

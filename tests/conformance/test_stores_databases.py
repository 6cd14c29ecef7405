"""Artifacts in a real PostgreSQL and a real MariaDB."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage.database import DatabaseStore
from mlflow_exec.testing.stores import StoreConformance, Stored
from mlflow_exec.uris import Location
from tests.databases import DATABASE, PASSWORD, USER, mariadb, postgresql

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


@pytest.mark.parametrize("server", ["postgresql_uri", "mariadb_uri"])
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

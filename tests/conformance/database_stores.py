"""Stores of artifacts in the databases of the tests, and what is in their tables."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import sqlalchemy as sa

from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import Secret
from mlflow_exec.storage import database_tables as tables
from mlflow_exec.storage.database import DatabaseStore
from mlflow_exec.uris import Location
from tests.databases import PASSWORD, USER

SIGNED_IN = Credential("the test", {"password": Secret.of(PASSWORD, "the test")})


def uri_of(scheme: str, port: int, database: str) -> str:
    return f"{scheme}://{USER}@127.0.0.1:{port}/{database}"


def at(uri: str) -> Callable[[str], DatabaseStore]:
    return lambda name: DatabaseStore(Location.parse(f"{uri}/{name}"), SIGNED_IN)


def counted(store: DatabaseStore) -> tuple[int, ...]:
    """Return how many files, contents and pieces are in the tables."""

    def count(connection: sa.Connection) -> tuple[int, ...]:
        named = (tables.FILES, tables.CONTENTS, tables.PIECES)
        return tuple(
            connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
            for table in named
        )

    return store._database.read(count)


def end_the_day(store: DatabaseStore) -> None:
    """Let all contents be a day old, and have the next sweep find them."""
    ago = store._database.read(tables.now) - timedelta(days=2)
    store._database.write(lambda c: c.execute(tables.CONTENTS.update().values(written_at=ago)))
    store._sweep()

"""Artifacts in a real PostgreSQL and a real MariaDB whose disk has no room left."""

from __future__ import annotations

import io
import random
from functools import partial

import pytest

from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage import database_connection
from mlflow_exec.testing.stores import content, put, tree
from tests.conformance.database_stores import at, counted, end_the_day, uri_of
from tests.conformance.small_disks import (
    SIZE_BYTES,
    almost_full,
    assert_says_that_it_is_full,
    small_disk,
)
from tests.databases import DATABASE, mariadb, postgresql

# With their own tables, MariaDB's log, and some room.
_DISK = partial(small_disk, size_bytes=256 * 1024**2)
# Of a block only half may have room.
_FULL = (
    r"could not extend file .*: (No space left on device|wrote only 4096 of 8192 bytes at block "
    r"\d+) HINT: Check free disk space"
)


def test_postgresql_says_that_its_disk_is_full_and_nothing_is_lost() -> None:
    with postgresql(_DISK) as server:
        store = at(uri_of("postgresql", server.port, "postgres"))("full")
        store.entries("")  # makes the tables
        with almost_full(server.data):
            assert_says_that_it_is_full(store, _FULL)
        assert counted(store) == (0, 0, 0), "nothing is left in any table"
        put(store, "large", bytes(3 * SIZE_BYTES))
        assert content(store, "large") == bytes(3 * SIZE_BYTES)
        store.close()


def test_mariadb_that_ends_itself_on_a_full_disk_has_lost_nothing_when_it_runs_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """InnoDB cannot roll back without room, so that its server ends: for clients, it is away."""
    monkeypatch.setattr(database_connection, "PATIENCE_S", 0.5)
    with mariadb(_DISK) as server:
        store = at(uri_of("mysql+pymysql", server.port, DATABASE))("full")
        put(store, "d/a", b"before")
        with almost_full(server.data):
            for path in ("d/a", "d/new"):
                with pytest.raises(ArtifactError, match=r"(Lost|Can't) connect") as told:
                    store.put(path, io.BytesIO(random.randbytes(64 * 1024**2)))
                assert "\n" not in str(told.value)
        with server.again():
            assert tree(store) == ["d/", "d/a"]
            assert content(store, "d/a") == b"before"
            put(store, "d/a", bytes(3 * SIZE_BYTES))
            assert content(store, "d/a") == bytes(3 * SIZE_BYTES)
            store.delete("")
            end_the_day(store)
            assert counted(store) == (0, 0, 0), "nothing is left in any table"
            store.close()

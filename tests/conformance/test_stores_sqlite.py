"""Artifacts in a real SQLite."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlflow_exec.credential_sources import NOTHING
from mlflow_exec.storage.database import DatabaseStore
from mlflow_exec.testing.stores import StoreConformance, Stored
from mlflow_exec.uris import Location
from tests.conformance.small_disks import assert_says_that_it_is_full, small_disk


def store_at(file: Path, name: str) -> DatabaseStore:
    return DatabaseStore(Location.parse(f"sqlite:///{file}/{name}"), NOTHING)


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    file = tmp_path_factory.mktemp("sqlite") / "artifacts.db"
    return Stored(lambda name: store_at(file, name), by_sockets=False)


class TestSqlite(StoreConformance):
    pass


def test_a_disk_that_is_full_is_told_of_and_nothing_is_lost(tmp_path: Path) -> None:
    with small_disk(tmp_path / "full"):
        assert_says_that_it_is_full(store_at(tmp_path / "full/a.db", "x"), "is full")

"""Artifacts in a real SQLite."""

from __future__ import annotations

import pytest

from mlflow_exec.credential_sources import NOTHING
from mlflow_exec.storage.database import DatabaseStore
from mlflow_exec.testing.stores import StoreConformance, Stored
from mlflow_exec.uris import Location


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    file = tmp_path_factory.mktemp("sqlite") / "artifacts.db"
    return Stored(lambda name: DatabaseStore(Location.parse(f"sqlite:///{file}/{name}"), NOTHING))


class TestSqlite(StoreConformance):
    pass

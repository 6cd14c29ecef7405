"""Connections to a database of artifacts: transactions that are repeated, and errors of ours."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError

from mlflow_exec.clients.pauses import PATIENCE_S, Pauses
from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import hide
from mlflow_exec.errors import ArtifactError
from mlflow_exec.registry import missing_extra
from mlflow_exec.schemes import Authority
from mlflow_exec.storage.database_tables import TABLES
from mlflow_exec.uris import CRED, Location

T = TypeVar("T")
# Where a URI names no driver.
_DRIVERS = {"mysql": "mysql+pymysql", "postgresql": "postgresql+psycopg"}
_LOG = logging.getLogger(__name__)
_LOCK_WAIT_S = 60
_CONNECTIONS = 10
_RECYCLE_S = 1800


_LOCK = threading.Lock()
_SHARED: dict[Any, Database] = {}


class TakenError(ArtifactError):
    """A row of that key is there."""


class _LostError(ArtifactError):
    """The connection was lost, or not to be had."""


class Database:
    """The database that a location is in; its tables are made where they are not there."""

    def __init__(self, location: Location, credential: Credential) -> None:
        self._location = location
        self._credential = credential
        self._lock = threading.Lock()
        self._engine: sa.Engine | None = None

    @classmethod
    def shared(cls, location: Location, credential: Credential) -> Database:
        """Return the one of this process for a database: MLflow makes a store for each call."""
        password = location.password.reveal() if location.password else None
        place = replace(location, names=location.split()[0])
        key = (os.getpid(), place, password, credential.source)
        with _LOCK:
            return _SHARED.setdefault(key, cls(location, credential))

    def write(self, action: Callable[[sa.Connection], T]) -> T:
        """Do something in a transaction, again where the connection is lost: so it can be repeated.

        Raises:
            TakenError: It inserts what is there.
            ArtifactError: The database refuses it, or cannot be asked.
        """
        return self._do(action, writes=True)

    def read(self, action: Callable[[sa.Connection], T]) -> T:
        """Ask for something; see `write`."""
        return self._do(action, writes=False)

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            if self._engine is not None:
                self._engine.dispose()
                self._engine = None

    def _do(self, action: Callable[[sa.Connection], T], *, writes: bool) -> T:
        engine = self._connected().execution_options(mlflow_exec_writes=writes)
        pauses, end_s = Pauses(), time.monotonic() + PATIENCE_S
        while True:
            try:
                with _explained(self._location), engine.begin() as connection:
                    return action(connection)
            except _LostError as error:
                if time.monotonic() > end_s:
                    raise
                _LOG.info("%s; trying again", error)
            time.sleep(pauses.next_s())

    def _connected(self) -> sa.Engine:
        """Return the engine of a database that has been asked once, and has the tables."""
        with self._lock:
            if self._engine is None:
                with _explained(self._location):
                    made = make_engine(self._location, self._credential)
                    try:
                        TABLES.create_all(made)
                    except DBAPIError:  # another process was before us, or it will be said again
                        TABLES.create_all(made)
                self._engine = made
            return self._engine


@contextmanager
def _explained(location: Location) -> Iterator[None]:
    """Turn what SQLAlchemy says into an error of ours, without statements and values."""
    try:
        yield
    except SQLAlchemyError as error:
        said = " ".join(str(getattr(error, "orig", None) or error).split())
        text = f"{location}: {hide(said)[:500]}"
        if isinstance(error, IntegrityError):
            raise TakenError(text) from None
        lost = isinstance(error, OperationalError)
        if lost or (isinstance(error, DBAPIError) and error.connection_invalidated):
            raise _LostError(text) from None
        raise ArtifactError(text) from None
    except ModuleNotFoundError as error:  # the driver
        raise missing_extra(location.scheme.extra, error) from error


def make_engine(location: Location, credential: Credential) -> sa.Engine:
    """Return the engine of the database that a location is in; asks nothing."""
    names = location.split()[0]
    if location.scheme.authority is Authority.FILE:
        url = sa.URL.create("sqlite", database="/" + "/".join(names))
        waits = {"timeout": _LOCK_WAIT_S}
        engine = sa.create_engine(url, hide_parameters=True, connect_args=waits)
        sa.event.listen(engine, "connect", _leave_transactions_to_us)
        sa.event.listen(engine, "begin", _begin)
        return engine
    options = {key: value for key, value in location.options if key != CRED}
    url = sa.URL.create(
        _DRIVERS.get(location.scheme.name, location.scheme.name),
        username=location.user or credential.get("user"),
        host=location.host.strip("[]"),
        port=location.port,
        database="/".join(names),
        query=options,
    )
    engine = sa.create_engine(
        url, hide_parameters=True, pool_size=_CONNECTIONS, max_overflow=_CONNECTIONS,
        pool_recycle=_RECYCLE_S,
    )  # fmt: skip

    def sign_in(_: Any, __: Any, ___: Any, parameters: dict[str, Any]) -> None:
        password = credential.get("password")  # as it is now: it may have been changed
        if password is not None:
            parameters["password"] = password

    sa.event.listen(engine, "do_connect", sign_in)
    return engine


def _leave_transactions_to_us(connection: Any, _: Any) -> None:
    connection.isolation_level = None


def _begin(connection: sa.Connection) -> None:
    """Begin a transaction of SQLite; one that reads first and then writes would not wait."""
    writes = connection.get_execution_options().get("mlflow_exec_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

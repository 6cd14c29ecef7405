"""Connections to a database of artifacts: transactions that are repeated, and errors of ours."""

from __future__ import annotations

import hashlib
import logging
import os
import re
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
from mlflow_exec.errors import ArtifactError, UnreachableError
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
# Who asks a server that has vanished without a word is told so, instead of waiting for ever.
_TIMEOUTS: dict[str, dict[str, Any]] = {
    "mssql+pyodbc": {"timeout": 15},
    "mysql+pymysql": {"connect_timeout": 15, "read_timeout": 120, "write_timeout": 120},
    "postgresql+psycopg": {
        "connect_timeout": 15, "keepalives_idle": 30, "tcp_user_timeout": 120_000,
    },
}  # fmt: skip
# What others do at the same time passes: SQLite's lock, deadlocks and lock waits of the others.
_WAITED = re.compile("deadlock|locked|lock wait|could not serialize", re.IGNORECASE)
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
        password = location.password.reveal() if location.password else ""
        place = replace(location, names=location.split()[0], password=None)
        key = (os.getpid(), place, hashlib.sha256(password.encode()).digest(), credential.source)
        with _LOCK:
            found = _SHARED.setdefault(key, cls(location, credential))
            found._credential = credential  # as it is given now
            return found

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
                with _explained(self._location, connecting=True):
                    connection = engine.connect()
                with _explained(self._location), connection, connection.begin():
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
                with _explained(self._location, connecting=True):
                    made = make_engine(self._location, lambda: self._credential)
                    _make_tables(made)
                self._engine = made
            return self._engine


def _make_tables(engine: sa.Engine) -> None:
    """Make the tables that are not there; other processes may do so at the same moment."""
    engine = engine.execution_options(mlflow_exec_writes=True)
    engine.connect().close()  # what is wrong with the connection is said once
    for left in reversed(range(len(TABLES.tables) + 1)):
        try:
            TABLES.create_all(engine)
            return
        except DBAPIError:
            if not left:
                raise


@contextmanager
def _explained(location: Location, *, connecting: bool = False) -> Iterator[None]:
    """Turn what SQLAlchemy says into an error of ours, without statements and values."""
    try:
        yield
    except SQLAlchemyError as error:
        said = " ".join(str(getattr(error, "orig", None) or error).split())
        text = f"{location}: {hide(said)[:500]}"
        if isinstance(error, IntegrityError):
            raise TakenError(text) from None
        if isinstance(error, DBAPIError) and (
            error.connection_invalidated
            or (isinstance(error, OperationalError) and (connecting or _WAITED.search(said)))
        ):
            raise _LostError(text) from UnreachableError(text)  # for who stops at that
        raise ArtifactError(text) from None
    except ModuleNotFoundError as error:  # the driver
        raise missing_extra(location.scheme.extra, error) from error


def make_engine(location: Location, credential: Callable[[], Credential]) -> sa.Engine:
    """Return the engine of the database that a location is in; asks nothing.

    Args:
        location: In the database.
        credential: Returns what to sign in with; called for each connection.
    """
    names = location.split()[0]
    if location.scheme.authority is Authority.FILE:
        url = sa.URL.create("sqlite", database="/" + "/".join(names))
        waits = {"timeout": _LOCK_WAIT_S}
        engine = sa.create_engine(url, hide_parameters=True, connect_args=waits)
        sa.event.listen(engine, "connect", _leave_transactions_to_us)
        sa.event.listen(engine, "begin", _begin)
        return engine
    options = {key: value for key, value in location.options if key != CRED}
    drivername = _DRIVERS.get(location.scheme.name, location.scheme.name)
    url = sa.URL.create(
        drivername,
        host=location.host.strip("[]"),
        port=location.port,
        database="/".join(names),
        query=options,
    )
    engine = sa.create_engine(
        url, hide_parameters=True, pool_size=_CONNECTIONS, max_overflow=_CONNECTIONS,
        pool_recycle=_RECYCLE_S, isolation_level="READ COMMITTED",
        connect_args=_TIMEOUTS[drivername],
    )  # fmt: skip

    def sign_in(_: Any, __: Any, ___: Any, parameters: dict[str, Any]) -> None:
        now = credential()
        user, password = location.user or now.get("user"), now.get("password")
        parameters.update({"user": user} if user else {})
        parameters.update({"password": password} if password else {})

    sa.event.listen(engine, "do_connect", sign_in)
    return engine


def _leave_transactions_to_us(connection: Any, _: Any) -> None:
    connection.isolation_level = None


def _begin(connection: sa.Connection) -> None:
    """Begin a transaction of SQLite; one that reads first and then writes would not wait."""
    writes = connection.get_execution_options().get("mlflow_exec_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

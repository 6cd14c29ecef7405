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
from mlflow_exec.errors import ArtifactError, MissingExtraError, UnreachableError
from mlflow_exec.registry import missing_extra
from mlflow_exec.schemes import Authority
from mlflow_exec.storage.database_tables import TABLES
from mlflow_exec.uris import CRED, Location

T = TypeVar("T")
# Where a URI names no driver.
_DRIVERS = {"mysql": "mysql+pymysql", "postgresql": "postgresql+psycopg"}
# Of ODBC, which is below pyodbc; Microsoft's newest.
_ODBC_DRIVER = "ODBC Driver 18 for SQL Server"
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
# What a server that can be reached says to who may not sign in, and says again.
_REFUSED = re.compile(
    "authentication failed|access denied|login failed|no pg_hba|does not exist|unknown database",
    re.IGNORECASE,
)
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
        if isinstance(error, DBAPIError) and _passes(error, said, connecting=connecting):
            raise _LostError(text) from UnreachableError(text)  # for who stops at that
        raise ArtifactError(text) from None
    except ModuleNotFoundError as error:  # the driver
        raise missing_extra(location.scheme.extra, error) from error
    except ImportError as error:
        raise MissingExtraError(
            f"{location}: its Python package is installed, and lacks a library of the system: "
            f"{error}; see docs/artifacts.md"
        ) from error


def _passes(error: DBAPIError, said: str, *, connecting: bool) -> bool:
    """Whether what failed can be well a moment later."""
    if error.connection_invalidated:
        return True
    if isinstance(error, OperationalError):
        if connecting:
            return _REFUSED.search(said) is None
        return _WAITED.search(said) is not None
    # pyodbc has no class for SQL Server's deadlocks: they are of the one above all others.
    return type(error) is DBAPIError and _WAITED.search(said) is not None


def make_engine(location: Location, credential: Callable[[], Credential]) -> sa.Engine:
    """Return the engine of the database that a location is in; asks nothing.

    Args:
        location: In the database.
        credential: Returns what to sign in with; called for each connection.
    """
    if location.scheme.authority is Authority.FILE:
        url = sa.URL.create("sqlite", database="/" + "/".join(location.split()[0]))
        waits = {"timeout": _LOCK_WAIT_S}
        engine = sa.create_engine(url, hide_parameters=True, connect_args=waits)
        sa.event.listen(engine, "connect", _leave_transactions_to_us)
        sa.event.listen(engine, "begin", _begin)
        return engine
    url = _url(location)
    engine = sa.create_engine(
        url, hide_parameters=True, pool_size=_CONNECTIONS, max_overflow=_CONNECTIONS,
        pool_recycle=_RECYCLE_S, isolation_level="READ COMMITTED",
        connect_args=_TIMEOUTS[url.drivername],
    )  # fmt: skip

    def sign_in(dialect: Any, _: Any, words: list[Any], parameters: dict[str, Any]) -> None:
        words[:], named = arguments(dialect, location, credential())
        parameters.update(named)

    sa.event.listen(engine, "do_connect", sign_in)
    return engine


def arguments(
    dialect: sa.Dialect, location: Location, credential: Credential
) -> tuple[list[Any], dict[str, Any]]:
    """Return what the driver's ``connect`` is called with: the password is among it.

    All of it is made anew for each connection: ODBC has one text, and where no user is named in
    that, it says that the account of this machine signs in, whatever else is given.
    """
    user = location.user or credential.get("user")
    signed = _url(location).set(username=user, password=credential.get("password"))
    words, named = dialect.create_connect_args(signed)
    return list(words), dict(named)


def _url(location: Location) -> sa.URL:
    """Return a location's database as SQLAlchemy names it, without who signs in."""
    options = {key: value for key, value in location.options if key != CRED}
    if "driver" in location.scheme.options:
        options["driver"] = options.get("driver", _ODBC_DRIVER).strip("{}")
    return sa.URL.create(
        _DRIVERS.get(location.scheme.name, location.scheme.name),
        host=location.host.strip("[]"),
        port=location.port,
        database="/".join(location.split()[0]),
        query=options,
    )


def _leave_transactions_to_us(connection: Any, _: Any) -> None:
    connection.isolation_level = None


def _begin(connection: sa.Connection) -> None:
    """Begin a transaction of SQLite; one that reads first and then writes would not wait."""
    writes = connection.get_execution_options().get("mlflow_exec_writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

"""What is said to SQL Server, of which none is here, beside what is said to databases that are.

The same code runs on a real PostgreSQL, MariaDB and SQLite (`tests/conformance`).
"""

from __future__ import annotations

import ast
import io
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
import sqlglot
from sqlalchemy.dialects import mssql, mysql, postgresql
from sqlglot import exp

from mlflow_exec.credential_sources import Credential, find_credential
from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ArtifactError, MissingExtraError
from mlflow_exec.storage import database_tables as tables
from mlflow_exec.storage.database import DatabaseStore
from mlflow_exec.storage.database_connection import arguments
from mlflow_exec.uris import Location

# As of a server of 2012 or newer, which is what SQLAlchemy learns when it connects.
MSSQL = mssql.dialect(paramstyle="named", deprecate_large_types=True)  # type: ignore[no-untyped-call]
OTHERS = {
    "postgres": postgresql.dialect(paramstyle="named"),  # type: ignore[no-untyped-call]
    "mysql": mysql.dialect(paramstyle="named"),
}
CODE = Path(tables.__file__)
NOW = ("SYSUTCDATETIME()", "UTC_TIMESTAMP()", "timezone('utc', CURRENT_TIMESTAMP)")
"""The time in UTC, as each calls it."""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[sa.Executable]]:
    """What the store says to a database in all that it does, by the lines that say it."""
    file = tmp_path_factory.mktemp("said") / "a.db"
    found: dict[int, list[sa.Executable]] = {}

    def note(_: Any, clause: sa.Executable, *__: Any) -> None:
        line = next((f.f_lineno for f in frames() if f.f_code.co_filename == str(CODE)), 0)
        found.setdefault(line, []).append(clause)

    store = DatabaseStore(Location.parse(f"sqlite:///{file}"), Credential("none", {}))
    store.entries("")  # makes the tables
    engine = store._database._connected()
    sa.event.listen(engine, "before_execute", note)
    for path, size_bytes in (("d/e/a", 1), ("d/e/a", 3_000_000), ("b", 1)):
        store.put(path, io.BytesIO(b"x" * size_bytes))
    assert len(b"".join(store.read("d/e/a"))) == 3_000_000
    assert [entry.path for entry in store.entries("")] == ["b", "d"]
    store._database.read(lambda connection: tables.was_shown(connection, "none"))
    store.delete("")
    store._sweep()
    store.close()
    return found


def frames() -> Iterator[Any]:
    frame = sys._getframe(1)
    while frame is not None:
        yield frame
        frame = frame.f_back  # type: ignore[assignment]


def compiled(clause: Any, dialect: Any) -> Any:
    return clause.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})


def test_nothing_that_the_store_can_say_is_left_out(said: dict[int, list[sa.Executable]]) -> None:
    calls = [
        node
        for node in ast.walk(ast.parse(CODE.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("execute", "scalar", "scalars")
    ]
    assert len(calls) > 15
    for call in calls:
        lines = range(call.lineno, (call.end_lineno or call.lineno) + 1)
        assert any(line in said for line in lines), f"not said: line {call.lineno}"


def statements(said: dict[int, list[sa.Executable]]) -> list[Any]:
    unique = {str(compiled(c, MSSQL)): c for clauses in said.values() for c in clauses}
    return list(unique.values())


def in_common(sql: str, dialect: str) -> tuple[exp.Expression, bool]:
    """Return what a statement means, without what each says in its own way; whether it locks."""
    for now in NOW:
        sql = sql.replace(now, "'now'")
    tree = sqlglot.parse_one(sql.replace("IS NOT NULL", "= 'is there'"), read=dialect)
    locks = tree.find(exp.Lock, exp.WithTableHint) is not None
    for hint in list(tree.find_all(exp.WithTableHint)):
        assert hint.sql("tsql") == "WITH (UPDLOCK)"
        hint.pop()
    tree.set("locks", None)
    for limit in tree.find_all(exp.Limit):
        limit.set("expression", exp.Literal.number(1))
    for ordered in tree.find_all(exp.Ordered):
        ordered.set("nulls_first", None)
    return tree.transform(lambda node: node.this if isinstance(node, exp.Cast) else node), locks


@pytest.mark.parametrize("other", OTHERS)
def test_it_means_what_the_same_code_says_to_databases_that_were_asked(
    said: dict[int, list[sa.Executable]], other: str
) -> None:
    for clause in statements(said):
        ours, theirs = str(compiled(clause, MSSQL)), str(compiled(clause, OTHERS[other]))
        meant, is_locked = in_common(ours, "tsql")
        assert (meant, is_locked) == in_common(theirs, other), f"{ours}\n{theirs}"


def test_it_is_written_as_sql_server_writes_it(said: dict[int, list[sa.Executable]]) -> None:
    texts = [str(compiled(clause, MSSQL)) for clause in statements(said)]
    for text in texts:
        words = text.upper().split()
        assert not {"LIMIT", "OFFSET", "RETURNING", "CONFLICT", "DUPLICATE", "FETCH"} & set(words)
        assert "FOR UPDATE" not in text
        assert "::" not in text
        assert "`" not in text
        # Its own names are none of the reserved words: nothing has to stand between brackets.
        assert "[" not in text
    assert sum("WITH (UPDLOCK)" in text for text in texts) >= 4
    assert sum("SELECT TOP " in text for text in texts) == 2


def test_hashes_are_compared_as_what_they_are_kept_as_so_that_their_index_is_used(
    said: dict[int, list[sa.Executable]],
) -> None:
    """A text that comes as NVARCHAR has SQL Server convert the column, row after row."""
    kinds = SimpleNamespace(SQL_VARCHAR="VARCHAR", SQL_WVARCHAR="NVARCHAR")
    dialect = sa.make_url("mssql+pyodbc://").get_dialect()()
    seen = set()
    for clause in statements(said):
        for bind in compiled(clause, dialect).bind_names:
            kind = bind.type.dialect_impl(dialect)
            if isinstance(bind.type, sa.String) and not isinstance(bind.type, sa.UnicodeText):
                seen.add(kind.get_dbapi_type(kinds))
    assert seen == {"VARCHAR"}


def test_the_tables_are_of_types_that_are_not_given_up_and_fit_its_indexes() -> None:
    types, indexed_bytes = {}, {}
    for table in tables.TABLES.sorted_tables:
        made = sqlglot.parse_one(
            str(sa.schema.CreateTable(table).compile(dialect=MSSQL)), read="tsql"
        )
        columns = made.find_all(exp.ColumnDef)
        of = {column.name: column.args["kind"].sql("tsql") for column in columns}
        types.update({f"{table.name}.{name}": kind for name, kind in of.items()})
        keys = [table.primary_key.columns, *(index.columns for index in table.indexes)]
        for key in keys:
            name = ", ".join(f"{table.name}.{column.name}" for column in key)
            indexed_bytes[name] = sum(getattr(c.type, "length", None) or 8 for c in key)
            assert not any("max" in of[column.name].lower() for column in key)
    assert types == {
        "mlflow_exec_contents.content": "VARCHAR(32)",
        "mlflow_exec_contents.state": "VARCHAR(8)",
        "mlflow_exec_contents.written_at": "DATETIME",  # to 3 ms; days are compared
        "mlflow_exec_files.path_sha256": "VARCHAR(64)",
        "mlflow_exec_files.folder_sha256": "VARCHAR(64)",
        "mlflow_exec_files.path": "NVARCHAR(MAX)",  # shown only: names are found by their hashes
        "mlflow_exec_files.content": "VARCHAR(32)",
        "mlflow_exec_files.size_bytes": "BIGINT",
        "mlflow_exec_files.sha256": "VARCHAR(64)",
        "mlflow_exec_pieces.content": "VARCHAR(32)",
        "mlflow_exec_pieces.number": "INTEGER",
        "mlflow_exec_pieces.bytes": "VARBINARY(MAX)",
    }
    assert max(indexed_bytes.values()) <= 900


def test_the_isolation_that_is_asked_for_is_one_that_it_has() -> None:
    unasked: Any = None
    assert "READ COMMITTED" in MSSQL.get_isolation_level_values(unasked)


# -- how it is reached ----------------------------------------------------------------------------


def connected_by(uri: str, environment: dict[str, str] | None = None) -> dict[str, str]:
    """Return what ODBC is told, by its keys."""
    location = Location.parse(uri)
    dialect = sa.make_url("mssql+pyodbc://").get_dialect()()
    (text,), named = arguments(dialect, location, find_credential(location, environment or {}))
    assert named == {}
    pairs = [pair.partition("=") for pair in text.split(";")]
    assert len({key.lower() for key, _, _ in pairs}) == len(pairs), "no key is said twice"
    return {key: value for key, _, value in pairs}


HOST = "mssql+pyodbc://db.example/artifacts/wine/1"
SIGNED_IN = {
    "MLFLOW_EXEC_SQL_HOST": "db.example",
    "MLFLOW_EXEC_SQL_USER": "scientist",
    "MLFLOW_EXEC_SQL_PASSWORD": "of-the-test-only",
}


def test_odbc_is_told_where_and_who() -> None:
    assert connected_by(f"{HOST}?driver=ODBC+Driver+17+for+SQL+Server", SIGNED_IN) == {
        "DRIVER": "{ODBC Driver 17 for SQL Server}",
        "Server": "db.example",
        "Database": "artifacts",
        "UID": "scientist",
        "PWD": "of-the-test-only",
    }


def test_a_port_and_how_it_is_encrypted_are_passed_on() -> None:
    uri = "mssql+pyodbc://db.example:1444/artifacts?Encrypt=yes&TrustServerCertificate=no"
    told = connected_by(uri, SIGNED_IN)
    assert told["Server"] == "db.example,1444"
    assert (told["Encrypt"], told["TrustServerCertificate"]) == ("yes", "no")


@pytest.mark.parametrize("query", ["", "?driver={ODBC+Driver+18+for+SQL+Server}"])
def test_the_newest_driver_is_taken_and_one_in_braces_too(query: str) -> None:
    assert connected_by(HOST + query)["DRIVER"] == "{ODBC Driver 18 for SQL Server}"


def test_nobody_being_named_it_is_the_account_of_the_machine_as_kerberos_knows_it() -> None:
    assert connected_by(HOST) == {
        "DRIVER": "{ODBC Driver 18 for SQL Server}",
        "Server": "db.example",
        "Database": "artifacts",
        "Trusted_Connection": "Yes",
    }


def test_the_old_form_with_a_password_is_the_same_place_and_signs_in() -> None:
    old = "mssql+pyodbc://scientist:of-the-test-only@db.example/artifacts/wine/1"
    query = "driver=ODBC+Driver+17+for+SQL+Server"
    assert connected_by(f"{old}?{query}") == connected_by(f"{HOST}?{query}", SIGNED_IN)


def test_a_password_says_nothing_else_to_odbc() -> None:
    location = Location.parse(HOST)
    evil = "a;Server=evil.example;PWD={b}"
    fields = {"user": Secret.of("me;UID=sa", "test"), "password": Secret.of(evil, "test")}
    dialect = sa.make_url("mssql+pyodbc://").get_dialect()()
    (text,), _ = arguments(dialect, location, Credential("test", fields))
    assert "UID={me;UID=sa};PWD={a;Server=evil.example;PWD={b}}}" in text
    name = urllib.parse.quote("a;Server=evil.example", safe="")
    (text,), _ = arguments(
        dialect, Location.parse(f"mssql+pyodbc://db.example/{name}"), Credential("test", {})
    )
    assert "Database={a;Server=evil.example}" in text


class Error(Exception):
    """pyodbc's class for what has none of its own, by the state it is told: 40001, a deadlock."""


@pytest.mark.parametrize(
    ("told", "is_repeated"),
    [
        (("40001", "[40001] [SQL Server] was deadlocked on lock resources (1205)"), True),
        (("08S01", "[08S01] [SQL Server] Communication link failure"), True),
        (("HY000", "[HY000] [SQL Server] the disk is full"), False),
    ],
)
def test_who_loses_a_deadlock_or_the_connection_begins_again(
    tmp_path: Path, told: tuple[str, str], is_repeated: bool
) -> None:
    location = Location.parse(f"sqlite:///{tmp_path}/a.db")
    database = DatabaseStore(location, Credential("none", {}))._database
    dialect: Any = sa.make_url("mssql+pyodbc://").get_dialect()()
    dialect.dbapi = SimpleNamespace(Error=Error, ProgrammingError=sa.exc.ProgrammingError)
    error = Error(*told)
    tries: list[bool] = []

    def fails_once(_: sa.Connection) -> str:
        tries.append(True)
        if len(tries) == 1:
            raise sa.exc.DBAPIError.instance(
                "UPDATE", {}, error, Error,
                connection_invalidated=dialect.is_disconnect(error, None, None), dialect=dialect,
            )  # fmt: skip
        return "done"

    if is_repeated:
        assert database.write(fails_once) == "done"
    else:
        with pytest.raises(ArtifactError, match="the disk is full"):
            database.write(fails_once)
    database.close()


def test_a_driver_that_lacks_its_library_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pyodbc.py").write_text("raise ImportError('libodbc.so.2: cannot open it')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pyodbc", raising=False)
    store = DatabaseStore(Location.parse(HOST), Credential("none", {}))
    with pytest.raises(MissingExtraError, match=r"lacks a library of the system: libodbc\.so\.2"):
        store.entries("")

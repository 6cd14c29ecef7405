"""The tables of artifacts in a database, and what is done in one transaction.

Paths are found by their hashes: databases differ in how long an index may be and in what they take
for the same text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mssql, mysql
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement

from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage.base import Digest

_BYTES = sa.LargeBinary().with_variant(mysql.MEDIUMBLOB(), "mysql", "mariadb")
_BYTES = _BYTES.with_variant(mssql.VARBINARY("max"), "mssql")  # type: ignore[no-untyped-call]
_TEXT = sa.UnicodeText().with_variant(mysql.LONGTEXT(charset="utf8mb4"), "mysql", "mariadb")
_HASH, _ID = sa.String(64), sa.String(32)

TABLES = sa.MetaData()
FILES = sa.Table(
    "mlflow_exec_files", TABLES,
    sa.Column("path_sha256", _HASH, primary_key=True),
    sa.Column("folder_sha256", _HASH, nullable=False, index=True),
    sa.Column("path", _TEXT, nullable=False),
    sa.Column("content", _ID),  # none of a folder
    sa.Column("size_bytes", sa.BigInteger),
    sa.Column("sha256", _HASH),
)  # fmt: skip
CONTENTS = sa.Table(
    "mlflow_exec_contents", TABLES,
    sa.Column("content", _ID, primary_key=True),
    sa.Column("state", sa.String(8), nullable=False),
    sa.Column("written_at", sa.DateTime, nullable=False, index=True),
)  # fmt: skip
PIECES = sa.Table(
    "mlflow_exec_pieces", TABLES,
    sa.Column("content", _ID, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("bytes", _BYTES, nullable=False),
)  # fmt: skip

_SWEPT = 20
# Of a content: somebody writes it; a file has it; no file has it any more; it is being removed.
_WRITING, _USED, _OLD, _DOOMED = "writing", "used", "old", "doomed"

Names = Sequence[str]


def hash_of(names: Names) -> str:
    """Return what a path is found by."""
    return hashlib.sha256("/".join(names).encode()).hexdigest()


class _Now(FunctionElement[datetime]):
    """The time in UTC, by the database's clock: one of its clients may be wrong by days."""

    type = sa.DateTime()
    inherit_cache = True


@compiles(_Now)
def _now(*_: Any, **__: Any) -> str:
    return "CURRENT_TIMESTAMP"  # of SQLite


@compiles(_Now, "postgresql")
def _now_postgresql(*_: Any, **__: Any) -> str:
    return "timezone('utc', CURRENT_TIMESTAMP)"


@compiles(_Now, "mysql", "mariadb")
def _now_mysql(*_: Any, **__: Any) -> str:
    return "UTC_TIMESTAMP()"


@compiles(_Now, "mssql")
def _now_mssql(*_: Any, **__: Any) -> str:
    return "SYSUTCDATETIME()"


def now(connection: sa.Connection) -> datetime:
    """Return the time by the database's clock, in UTC."""
    return connection.scalars(sa.select(_Now())).one()


def row_of(connection: sa.Connection, names: Names) -> Any:
    """Return the row of a file or a folder; None if there is none."""
    query = sa.select(FILES).where(FILES.c.path_sha256 == hash_of(names))
    return connection.execute(query).first()


def rows_in(connection: sa.Connection, names: Names) -> Sequence[Any]:
    """Return the rows of what stands directly in a folder."""
    query = sa.select(FILES).where(FILES.c.folder_sha256 == hash_of(names))
    return connection.execute(query).all()


def begin_content(connection: sa.Connection, content: str) -> None:
    """Begin a content that no file has yet; an `IntegrityError` says that it is there."""
    row = {"content": content, "state": _WRITING, "written_at": _Now()}
    connection.execute(CONTENTS.insert().values(row))


def insert_piece(connection: sa.Connection, content: str, number: int, piece: bytes) -> None:
    """Keep a piece of a content that is being written; an `IntegrityError` says that it is there.

    Raises:
        ArtifactError: The content was removed meanwhile.
    """
    _set_state(connection, content, (_WRITING,), _WRITING)
    row = {"content": content, "number": number, "bytes": piece}
    connection.execute(PIECES.insert().values(row))


def pieces_from(connection: sa.Connection, content: str, first: int, count: int) -> list[bytes]:
    """Return so many pieces, or those that are there."""
    where = (PIECES.c.content == content) & PIECES.c.number.between(first, first + count - 1)
    query = sa.select(PIECES.c.bytes).where(where).order_by(PIECES.c.number)
    return list(connection.scalars(query))


def show(connection: sa.Connection, names: Names, content: str, digest: Digest) -> None:
    """Make a file of a content whose pieces are there, and its folders; can be repeated.

    Raises:
        ArtifactError: The content was removed meanwhile, or something else stands there.
    """
    _set_state(connection, content, (_WRITING, _USED), _USED)
    _make_folders(connection, names[:-1])
    values = {"content": content, "size_bytes": digest.size_bytes, "sha256": digest.sha256()}
    where = FILES.c.path_sha256 == hash_of(names)
    row = connection.execute(_locked(sa.select(FILES).where(where))).first()
    if row is None:
        connection.execute(FILES.insert().values({**_place(names), **values}))
    elif row.content is None:
        raise ArtifactError(f"{'/'.join(names)!r} is a folder, and no file")
    elif row.content != content:
        connection.execute(FILES.update().where(where).values(values))
        _abandon(connection, [row.content])  # who reads it has a day


def was_shown(connection: sa.Connection, content: str) -> bool:
    """Whether a file has a content, or had it."""
    query = sa.select(CONTENTS.c.state).where(CONTENTS.c.content == content)
    return connection.scalar(query) in (_USED, _OLD)


def remove_files(connection: sa.Connection, hashes: Sequence[str]) -> list[str]:
    """Remove the files that stand there now; returns their contents, to be removed, too."""
    where = FILES.c.path_sha256.in_(hashes) & FILES.c.content.is_not(None)
    rows = connection.execute(_locked(sa.select(FILES).where(where))).all()
    gone = [row.path_sha256 for row in rows]
    connection.execute(FILES.delete().where(FILES.c.path_sha256.in_(gone)))
    contents = [row.content for row in rows]
    _abandon(connection, contents)
    return contents


def remove_folder(connection: sa.Connection, hash_: str) -> None:
    """Remove a folder, if nothing is in it: who puts something there holds its row meanwhile."""
    is_it = (FILES.c.path_sha256 == hash_) & FILES.c.content.is_(None)
    connection.execute(_locked(sa.select(FILES.c.path_sha256).where(is_it)))
    inside = sa.select(FILES.c.path_sha256).where(FILES.c.folder_sha256 == hash_).limit(1)
    if connection.execute(inside).first() is None:
        connection.execute(FILES.delete().where(is_it))


def doom(connection: sa.Connection, content: str, before: datetime | None = None) -> bool:
    """Claim a content for removal; False where a file has it, or it is younger than ``before``."""
    where = (CONTENTS.c.content == content) & (CONTENTS.c.state != _USED)
    if before is not None:
        where &= CONTENTS.c.written_at < before
    return connection.execute(CONTENTS.update().where(where).values(state=_DOOMED)).rowcount == 1


def abandoned(connection: sa.Connection, before: datetime) -> Sequence[str]:
    """Return some contents that no file has, and that nobody has written since."""
    where = (CONTENTS.c.state != _USED) & (CONTENTS.c.written_at < before)
    return connection.scalars(sa.select(CONTENTS.c.content).where(where).limit(_SWEPT)).all()


def last_piece(connection: sa.Connection, content: str) -> int:
    """Return the number of the last piece of a content; -1 if it has none."""
    found = connection.scalar(
        sa.select(sa.func.max(PIECES.c.number)).where(PIECES.c.content == content)
    )
    return -1 if found is None else int(found)


def remove_pieces(connection: sa.Connection, content: str, first: int, count: int) -> None:
    """Remove so many pieces."""
    few = PIECES.c.number.between(first, first + count - 1)
    connection.execute(PIECES.delete().where((PIECES.c.content == content) & few))


def remove_content(connection: sa.Connection, content: str) -> None:
    """Remove a content whose pieces are gone."""
    connection.execute(CONTENTS.delete().where(CONTENTS.c.content == content))


def _set_state(
    connection: sa.Connection, content: str, of: Sequence[str], state: str
) -> None:
    where = (CONTENTS.c.content == content) & CONTENTS.c.state.in_(of)
    found = connection.execute(
        CONTENTS.update().where(where).values(state=state, written_at=_Now())
    )
    if found.rowcount != 1:
        raise ArtifactError("what was sent has been removed meanwhile: it took longer than a day")


def _abandon(connection: sa.Connection, contents: Sequence[str]) -> None:
    where = CONTENTS.c.content.in_(contents)
    connection.execute(CONTENTS.update().where(where).values(state=_OLD, written_at=_Now()))


def _make_folders(connection: sa.Connection, names: Names) -> None:
    """Make the folders of a path, and hold the last; an `IntegrityError`: somebody else does.

    Raises:
        ArtifactError: A file stands in its way.
    """
    if not names:
        return
    last = _locked(sa.select(FILES).where(FILES.c.path_sha256 == hash_of(names)))
    row = connection.execute(last).first()
    if row is not None and row.content is None:
        return  # those above it are there as long as it is
    folders = {hash_of(path): path for path in (names[: i + 1] for i in range(len(names)))}
    query = sa.select(FILES.c.path_sha256, FILES.c.content).where(FILES.c.path_sha256.in_(folders))
    for hash_, content in connection.execute(_locked(query)).all():
        path = folders.pop(hash_)
        if content is not None:
            raise ArtifactError(f"{'/'.join(path)!r} is a file, and no folder")
    if folders:
        connection.execute(FILES.insert(), [_place(path) for path in folders.values()])


def _locked(query: Any) -> Any:
    """Return a query whose rows nobody else changes until the transaction ends."""
    return query.with_for_update().with_hint(FILES, "WITH (UPDLOCK)", "mssql")


def _place(names: Names) -> dict[str, Any]:
    above = hash_of(names[:-1])
    return {"path_sha256": hash_of(names), "folder_sha256": above, "path": "/".join(names)}

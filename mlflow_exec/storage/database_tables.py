"""The tables of artifacts in a database, and what is done in one transaction.

Paths are found by their hashes: databases differ in how long an index may be and in what they take
for the same text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mssql, mysql

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
    sa.Column("is_used", sa.Boolean, nullable=False),
    sa.Column("written_at", sa.DateTime, nullable=False, index=True),
)  # fmt: skip
PIECES = sa.Table(
    "mlflow_exec_pieces", TABLES,
    sa.Column("content", _ID, primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("bytes", _BYTES, nullable=False),
)  # fmt: skip

Names = Sequence[str]


def hash_of(names: Names) -> str:
    """Return what a path is found by."""
    return hashlib.sha256("/".join(names).encode()).hexdigest()


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(timezone.utc).replace(tzinfo=None)


def row_of(connection: sa.Connection, names: Names) -> Any:
    """Return the row of a file or a folder; None if there is none."""
    query = sa.select(FILES).where(FILES.c.path_sha256 == hash_of(names))
    return connection.execute(query).first()


def rows_in(connection: sa.Connection, names: Names) -> Sequence[Any]:
    """Return the rows of what stands directly in a folder."""
    query = sa.select(FILES).where(FILES.c.folder_sha256 == hash_of(names))
    return connection.execute(query).all()


def missing_folders(connection: sa.Connection, names: Names) -> list[Names]:
    """Return those of the folders of a path, itself the last, that are not there.

    Raises:
        ArtifactError: A file stands in its way.
    """
    folders = {hash_of(path): path for path in (names[: i + 1] for i in range(len(names)))}
    query = sa.select(FILES.c.path_sha256, FILES.c.content).where(FILES.c.path_sha256.in_(folders))
    for hash_, content in connection.execute(query).all():
        path = folders.pop(hash_)
        if content is not None:
            raise ArtifactError(f"{'/'.join(path)!r} is a file, and no folder")
    return list(folders.values())


def insert_folder(connection: sa.Connection, names: Names) -> None:
    """Make a folder; an `IntegrityError` says that it is there."""
    connection.execute(FILES.insert().values(_place(names)))


def begin_content(connection: sa.Connection, content: str) -> None:
    """Begin a content that no file has yet."""
    row = {"content": content, "is_used": False, "written_at": now()}
    connection.execute(CONTENTS.insert().values(row))


def insert_piece(connection: sa.Connection, content: str, number: int, piece: bytes) -> None:
    """Keep a piece; an `IntegrityError` says that it is there."""
    row = {"content": content, "number": number, "bytes": piece}
    connection.execute(PIECES.insert().values(row))


def is_alive(connection: sa.Connection, content: str) -> None:
    """Say that somebody still writes a content."""
    where = CONTENTS.c.content == content
    connection.execute(CONTENTS.update().where(where).values(written_at=now()))


def pieces_from(connection: sa.Connection, content: str, first: int, count: int) -> list[bytes]:
    """Return so many pieces, or those that are there."""
    where = (PIECES.c.content == content) & PIECES.c.number.between(first, first + count - 1)
    query = sa.select(PIECES.c.bytes).where(where).order_by(PIECES.c.number)
    return list(connection.scalars(query))


def show(connection: sa.Connection, names: Names, content: str, digest: Digest) -> None:
    """Make a file of a content whose pieces are there; can be repeated.

    Raises:
        ArtifactError: The content was removed meanwhile, or a folder stands there.
    """
    used = CONTENTS.update().where(CONTENTS.c.content == content).values(is_used=True)
    if connection.execute(used).rowcount != 1:
        raise ArtifactError("what was sent has been removed meanwhile: it took longer than a day")
    values = {"content": content, "size_bytes": digest.size_bytes, "sha256": digest.sha256()}
    where = FILES.c.path_sha256 == hash_of(names)
    row = connection.execute(sa.select(FILES).where(where).with_for_update()).first()
    if row is None:
        connection.execute(FILES.insert().values({**_place(names), **values}))
    elif row.content is None:
        raise ArtifactError(f"{'/'.join(names)!r} is a folder, and no file")
    elif row.content != content:
        connection.execute(FILES.update().where(where).values(values))
        abandon(connection, [row.content])  # who reads it has a day


def remove_rows(connection: sa.Connection, rows: Sequence[Any]) -> list[str]:
    """Remove files and folders; returns their contents, which are to be removed, too."""
    contents = [row.content for row in rows if row.content is not None]
    hashes = [row.path_sha256 for row in rows]
    connection.execute(FILES.delete().where(FILES.c.path_sha256.in_(hashes)))
    abandon(connection, contents)
    return contents


def abandon(connection: sa.Connection, contents: Sequence[str]) -> None:
    """Say that no file has these contents any more."""
    where = CONTENTS.c.content.in_(contents)
    connection.execute(CONTENTS.update().where(where).values(is_used=False, written_at=now()))


def abandoned(connection: sa.Connection, before: datetime) -> Sequence[str]:
    """Return the contents that no file has, and that nobody has written since."""
    where = ~CONTENTS.c.is_used & (CONTENTS.c.written_at < before)
    return connection.scalars(sa.select(CONTENTS.c.content).where(where)).all()


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


def _place(names: Names) -> dict[str, Any]:
    above = hash_of(names[:-1])
    return {"path_sha256": hash_of(names), "folder_sha256": above, "path": "/".join(names)}

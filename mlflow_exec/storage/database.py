"""Artifacts in a database: pieces of files in rows, by SQLAlchemy.

A file's pieces are written under a content of their own, in transactions of their own; then one
transaction makes the file that content. So nobody sees half of it, no transaction is as large as a
file, and who is killed leaves a content that no file has, which is removed a day later.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, BinaryIO

import sqlalchemy as sa

from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import ArtifactError, ArtifactNotFoundError, LocationError, UnreachableError
from mlflow_exec.storage import database_tables as tables
from mlflow_exec.storage.base import Digest, Entry, Store, pieces_of
from mlflow_exec.storage.database_connection import Database, TakenError
from mlflow_exec.uris import Location, artifact_names

_LOG = logging.getLogger(__name__)
_READ_AT_ONCE = 4
_REMOVED_AT_ONCE = 200
_TRIES = 10
_ABANDONED = timedelta(days=1)


class DatabaseStore(Store):
    """Files in the tables of one database, which are made where they are not there."""

    def __init__(self, location: Location, credential: Credential) -> None:
        """See `Store`; asks nothing."""
        super().__init__(location, credential)
        self._root = location.split()[1]
        self._database = Database.shared(location, credential)
        self._is_swept = False

    def put(self, path: str, content: BinaryIO) -> None:
        """See `Store`."""
        if not path:
            raise LocationError(f"{self.location}: a name is needed for a file")
        names, new, digest = self._names(path), uuid.uuid4().hex, Digest()
        pieces = pieces_of(content)
        first, second = next(pieces, b""), next(pieces, None)
        digest.add(first)
        try:
            if second is None:
                self._show(names, new, digest, lambda c: _begin(c, new, first))
            else:
                with suppress(TakenError):  # by a try whose answer was lost
                    self._database.write(lambda connection: _begin(connection, new, first))
                number = 1
                while second is not None:
                    digest.add(second)
                    self._add_piece(new, number, second)
                    number, second = number + 1, next(pieces, None)
                self._show(names, new, digest)
        except BaseException as error:
            if not isinstance(error.__cause__, UnreachableError):  # nobody hears it
                self._clean(lambda: self._remove(new))
            raise
        if not self._is_swept:
            self._is_swept = True
            self._clean(self._sweep)

    def read(self, path: str) -> Iterator[bytes]:
        """See `Store`."""
        names = self._names(path)
        row = self._database.read(lambda connection: tables.row_of(connection, names))
        if row is None or row.content is None:
            raise ArtifactNotFoundError(f"{self.location}: there is no file {path!r}")
        digest, number = Digest(), 0
        while digest.size_bytes < row.size_bytes:
            found = self._pieces(row.content, number)
            if not found:
                raise ArtifactError(f"{self.location}: {path!r} was removed while it was read")
            for piece in found:
                digest.add(piece)
                yield piece
            number += len(found)
        if digest.sha256() != row.sha256:
            raise ArtifactError(f"{self.location}: {path!r} is not what was kept: its hash differs")

    def entries(self, path: str) -> list[Entry]:
        """See `Store`."""
        names = self._names(path)
        rows = self._database.read(lambda connection: tables.rows_in(connection, names))
        root = len("".join(f"{name}/" for name in self._root))
        found = [Entry(row.path[root:], row.content is None, row.size_bytes) for row in rows]
        return sorted(found, key=lambda entry: entry.path)

    def delete(self, path: str) -> None:
        """See `Store`."""
        names = self._names(path)
        row = self._database.read(lambda connection: tables.row_of(connection, names))
        rows = [*([row] if row is not None else []), *self._below(names)]
        files = [row.path_sha256 for row in rows if row.content is not None]
        for start in range(0, len(files), _REMOVED_AT_ONCE):
            self._remove_files(files[start : start + _REMOVED_AT_ONCE])
        folders = [row for row in rows if row.content is None]
        for row in sorted(folders, key=lambda row: row.path.count("/"), reverse=True):
            self._remove_folder(row.path_sha256)
        self._clean(self._sweep)

    def close(self) -> None:
        """See `Store`."""
        self._database.close()

    # -- parts --------------------------------------------------------------------------------

    def _names(self, path: str) -> tuple[str, ...]:
        return (*self._root, *artifact_names(path))

    def _add_piece(self, content: str, number: int, piece: bytes) -> None:
        with suppress(TakenError):  # by a try whose answer was lost
            self._database.write(
                lambda connection: tables.insert_piece(connection, content, number, piece)
            )

    def _show(
        self,
        names: Sequence[str],
        content: str,
        digest: Digest,
        before: Callable[[sa.Connection], None] | None = None,
    ) -> None:
        """Make a file of a content, with what has to be done ``before`` in one transaction."""

        def show(connection: sa.Connection) -> None:
            if before is not None:
                before(connection)
            tables.show(connection, names, content, digest)

        for left in reversed(range(_TRIES)):
            try:
                self._database.write(show)
                return
            except TakenError:  # others made the file or a folder, or an answer was lost
                if self._database.read(lambda c: tables.was_shown(c, content)):
                    return
                if not left:
                    raise

    def _pieces(self, content: str, number: int) -> list[bytes]:
        return self._database.read(
            lambda connection: tables.pieces_from(connection, content, number, _READ_AT_ONCE)
        )

    def _below(self, names: Sequence[str]) -> list[Any]:
        rows: list[Any] = []
        folders = [names]
        while folders:
            folder = folders.pop()
            found = self._database.read(lambda c, at=folder: tables.rows_in(c, at))  # type: ignore[misc]
            folders += [row.path.split("/") for row in found if row.content is None]
            rows += found
        return rows

    def _remove_files(self, hashes: Sequence[str]) -> None:
        for content in self._database.write(lambda c: tables.remove_files(c, hashes)):
            self._remove(content)

    def _remove_folder(self, hash_: str) -> None:
        self._database.write(lambda connection: tables.remove_folder(connection, hash_))

    def _remove(self, content: str, before: datetime | None = None) -> None:
        """Remove a content, some pieces at a time, if no file has it."""
        if not self._database.write(lambda c: tables.doom(c, content, before)):
            return
        last = self._database.read(lambda connection: tables.last_piece(connection, content))
        for first in range(0, last + 1, _REMOVED_AT_ONCE):
            self._remove_pieces(content, first)
        self._database.write(lambda connection: tables.remove_content(connection, content))

    def _remove_pieces(self, content: str, first: int) -> None:
        self._database.write(
            lambda connection: tables.remove_pieces(connection, content, first, _REMOVED_AT_ONCE)
        )

    def _sweep(self) -> None:
        """Remove what no file has since a day: of uploads that were killed, and exchanged files."""
        before = self._database.read(tables.now) - _ABANDONED
        for content in self._database.read(lambda c: tables.abandoned(c, before)):
            self._remove(content, before)

    def _clean(self, remove: Callable[[], None]) -> None:
        """Remove what nobody sees; what is left is removed a day later."""
        try:
            remove()
        except ArtifactError as error:
            _LOG.warning("%s; what no file has is left there, and removed later", error)


def _begin(connection: sa.Connection, content: str, first: bytes) -> None:
    tables.begin_content(connection, content)
    tables.insert_piece(connection, content, 0, first)

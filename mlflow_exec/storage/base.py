"""The seam of artifact stores. Nothing here knows MLflow.

Paths are relative to the store's root, of names that `mlflow_exec.uris.artifact_names` has let
through, joined by ``/``; the empty path is the root.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

from mlflow_exec.credential_sources import Credential
from mlflow_exec.credentials import hide
from mlflow_exec.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    ClusterError,
    LocationError,
    NotFoundError,
    RejectedError,
)
from mlflow_exec.uris import Location, artifact_names

_LOG = logging.getLogger(__name__)
READ_BACK = "MLFLOW_EXEC_READ_BACK"
"""The variable by which each file is read again, and compared, after it was sent."""
PIECE_BYTES = 1024 * 1024
"""So much is held at a time; what a store is asked for at a time may be more."""


@dataclass(frozen=True)
class Entry:
    """What stands in a folder.

    Attributes:
        path: Relative to the store's root.
        is_folder: Whether it is a folder.
        size_bytes: The size of a file; None for folders.
    """

    path: str
    is_folder: bool
    size_bytes: int | None = None


class Store(ABC):
    """Files below one location; safe to use from many threads.

    A file is there as a whole or not at all: who reads or lists meanwhile sees the one before, or
    none. What `put` has returned from is kept.

    Raises:
        ArtifactError: From every method: the system refused, or could not be asked. Its text names
            the place and what was said, and no secret.
    """

    def __init__(self, location: Location, credential: Credential) -> None:
        self.location = location
        self.credential = credential

    @abstractmethod
    def put(self, path: str, content: BinaryIO) -> None:
        """Keep what can be read as a file, in place of one that is there.

        Args:
            path: Of the file; its folders are made.
            content: Read to its end, once.
        """

    @abstractmethod
    def read(self, path: str) -> Iterator[bytes]:
        """Yield the content of a file in pieces, and fail where it is not what was kept.

        Raises:
            ArtifactNotFoundError: There is no such file.
        """

    @abstractmethod
    def entries(self, path: str) -> list[Entry]:
        """Return what stands directly in a folder, sorted; nothing where none is."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it; none being there is fine."""

    @contextmanager
    def together(self) -> Iterator[Store]:
        """Lend a store for many files, which need not be kept before this ends.

        For systems where one file takes as long as many do; the others keep each at once.
        """
        yield self

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Give back connections. Idempotent."""


class Digest:
    """Counts and hashes what passes by.

    Attributes:
        size_bytes: So much has passed.
    """

    def __init__(self) -> None:
        self.size_bytes = 0
        self._hash = hashlib.sha256()

    def add(self, piece: bytes) -> None:
        """Take a piece."""
        self.size_bytes += len(piece)
        self._hash.update(piece)

    def sha256(self) -> str:
        """Return the hash in hex."""
        return self._hash.hexdigest()


def pieces_of(content: BinaryIO) -> Iterator[bytes]:
    """Yield all pieces but the last as large as `PIECE_BYTES`; none of an empty file."""
    held = b""
    while piece := content.read(PIECE_BYTES - len(held)):
        held += piece
        if len(held) == PIECE_BYTES:
            yield held
            held = b""
    if held:
        yield held


@contextmanager
def explained(location: Location) -> Iterator[None]:
    """Turn what a system says into an error of the store there."""
    try:
        yield
    except NotFoundError as error:
        raise ArtifactNotFoundError(f"{location}: {hide(str(error))}") from error
    except ClusterError as error:
        raise ArtifactError(f"{location}: {hide(str(error))}") from error


@contextmanager
def waiting_in_file() -> Iterator[None]:
    """Turn what is said of the disk of this machine, where content has to wait, into one sentence.

    Raises:
        RejectedError: There is no room for it.
    """
    try:
        yield
    except OSError as error:
        raise RejectedError(
            f"{tempfile.tempdir or 'the folder of temporary files'}: {error.strerror or error}: "
            f"content has to wait there, in a file; name a folder with more room by TMPDIR"
        ) from error


def valid_names(location: Location, names: Iterable[str]) -> Iterator[str]:
    """Yield the names of a listing, sorted, without those that others made and no path may have."""
    for name in sorted(names):
        try:
            if len(artifact_names(name)) == 1:
                yield name
        except LocationError as error:
            _LOG.warning("%s: left out of the list: %s", location, error)


def is_on(variable: str) -> bool:
    """Whether a variable of the environment says yes."""
    return os.environ.get(variable, "").lower() in ("1", "true")

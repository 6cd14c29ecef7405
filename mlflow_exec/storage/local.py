"""Artifacts in a folder of this machine, or of a disk that it shares with others.

A file is written beside its place and renamed once it is whole, so nobody sees half of it. Who is
killed leaves such a part, which is not listed, and which is removed with its folder.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import ArtifactError, ArtifactNotFoundError
from mlflow_exec.storage.base import (
    PIECE_BYTES,
    READ_BACK,
    Digest,
    Entry,
    Store,
    is_on,
    pieces_of,
    valid_names,
)
from mlflow_exec.uris import Location, artifact_names

_PART = re.compile(r"\.mlflow-exec-[0-9a-f]{32}")
# Others may remove a folder between its making and the writing into it, or fill one that goes.
_TRIES = 10


class LocalStore(Store):
    """Files below a folder, which is made at the first upload."""

    def __init__(self, location: Location, credential: Credential) -> None:
        """See `Store`; asks nothing."""
        super().__init__(location, credential)
        self._root = os.path.join(os.sep, *location.names)

    def put(self, path: str, content: BinaryIO) -> None:
        """See `Store`."""
        target = self._place(path)
        if not path:
            raise ArtifactError(f"{self.location}: is a folder, and no file")
        with self._explained(path):
            file = _part_in(os.path.dirname(target))
        digest = Digest()
        try:
            with file:
                for piece in pieces_of(content):
                    digest.add(piece)
                    with self._explained(path):
                        file.write(piece)
                with self._explained(path):
                    file.flush()
            with self._explained(path):
                self._check(file.name, digest)
                os.replace(file.name, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(file.name)
            raise

    def read(self, path: str) -> Iterator[bytes]:
        """See `Store`; there is no hash to compare with."""
        place = self._place(path)
        try:
            with self._explained(path):
                file = open(place, "rb")  # noqa: SIM115
        except ArtifactError as error:
            if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)) or (
                os.path.isdir(place)
            ):
                raise ArtifactNotFoundError(
                    f"{self.location}: there is no file {path!r}"
                ) from error
            raise
        with file, self._explained(path):
            while piece := file.read(PIECE_BYTES):
                yield piece

    def entries(self, path: str) -> list[Entry]:
        """See `Store`."""
        place, found = self._place(path), []
        with self._explained(path), suppress(FileNotFoundError, NotADirectoryError):
            by_name = {item.name: item for item in os.scandir(place)}
            for name in valid_names(self.location, by_name):
                item, whole = by_name[name], f"{path}/{name}" if path else name
                with suppress(FileNotFoundError):  # it has been removed meanwhile
                    if item.is_dir():
                        found.append(Entry(whole, True))
                    elif not _PART.fullmatch(name):
                        found.append(Entry(whole, False, item.stat().st_size))
        return found

    def delete(self, path: str) -> None:
        """See `Store`."""
        place = self._place(path)
        with self._explained(path):
            for left in reversed(range(_TRIES)):
                try:
                    if os.path.isdir(place) and not os.path.islink(place):
                        shutil.rmtree(place)
                    else:
                        os.unlink(place)
                    return
                except (FileNotFoundError, NotADirectoryError):
                    if not os.path.lexists(place):
                        return
                except OSError:  # somebody has put a file there
                    if not left:
                        raise

    def _check(self, part: str, digest: Digest) -> None:
        """Compare what is there with what was sent: its size, and where it is wanted its hash."""
        there = Digest()
        if is_on(READ_BACK):
            with open(part, "rb") as file:
                for piece in pieces_of(file):
                    there.add(piece)
        elif os.stat(part).st_size == digest.size_bytes:
            return
        if there.sha256() != digest.sha256():
            raise OSError(None, "what is there is not what was sent")

    def _place(self, path: str) -> str:
        return os.path.join(self._root, *artifact_names(path))

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ArtifactError(f"{self.location}: {path!r}: {error.strerror}") from error


def _part_in(folder: str) -> BinaryIO:
    """Return a new file in a folder, which is made."""
    for left in reversed(range(_TRIES)):
        os.makedirs(folder, exist_ok=True)
        try:
            return open(os.path.join(folder, f".mlflow-exec-{uuid.uuid4().hex}"), "xb")
        except FileNotFoundError:
            if not left:
                raise
    raise AssertionError("unreachable")

"""Repositories of Hugging Face, by its client: files are kept by commits, large ones in its LFS.

A commit takes about a second and the Hub takes only some hundreds of them an hour, so that many
files should come `together`. Its other protocol, Xet, is not used.
"""

from __future__ import annotations

import copy
import hashlib
import io
import logging
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, BinaryIO

import huggingface_hub as hub
from huggingface_hub import constants
from huggingface_hub.hf_api import RepoFile

from mlflow_exec.clients.pauses import repeated
from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import (
    ClusterError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.storage.base import READ_BACK, Store, explained, is_on, waiting_in_file
from mlflow_exec.storage.huggingface_http import HubObjects
from mlflow_exec.storage.kept import Hasher, Object
from mlflow_exec.storage.objects import ObjectStore
from mlflow_exec.storage.parts import Upload, again
from mlflow_exec.storage.shared import Connections
from mlflow_exec.uris import Location

_TRIES = 5
_PATHS_AT_ONCE = 500
_HELD_FILES = 1000
_HELD_BYTES = 100 * 1024 * 1024
# The Hub's own, which is there from the beginning and says what is in its LFS.
_OF_THE_HUB = ".gitattributes"
# What the repository ignores would be left out of a commit without a word.
_NOTHING_IGNORED = "# nothing\n"


class HfObjects(HubObjects):
    """One repository at one revision."""

    def __init__(self, location: Location, credential: Credential) -> None:
        """Keep what is asked by."""
        (owner, name), _ = location.split()
        name, _, revision = name.partition("@")
        self._revision = revision or constants.DEFAULT_REVISION
        self._repository = {"repo_id": f"{owner}/{name}", "repo_type": location.host[:-1]}
        super().__init__(credential, f"{location.host}/{owner}/{name} at {self._revision}")
        self._turn = threading.Lock()

    def put(self, key: str, content: bytes) -> None:
        """See `Objects`."""
        self.keep(key, io.BytesIO(content))

    def upload(self, key: str) -> Upload:
        """See `Objects`."""
        return _HfUpload(self, key)

    def keep(self, key: str, content: BinaryIO) -> None:
        """Commit a file, or hold it, once its content has arrived."""
        self.commit([self.sent(key, content)])

    def sent(self, key: str, content: BinaryIO) -> Any:
        """Return what a commit needs of a file, whose content is sent where it is large."""
        with self._asked(key):
            content.seek(0)
            addition = hub.CommitOperationAdd(key, content)
            self._api.preupload_lfs_files(
                additions=[addition], revision=self._revision, free_memory=True,
                gitignore_content=_NOTHING_IGNORED, **self._repository,
            )  # fmt: skip
            if addition.path_or_fileobj is content:  # a small one, and closed before the commit
                content.seek(0)
                addition.path_or_fileobj = content.read()
            # What was the same at this moment may be another one when it is committed.
            addition._remote_oid = None
        return addition

    def commit(self, operations: Sequence[Any]) -> None:
        """Make one commit, and compare what is there with what was sent."""
        added = {op.path_in_repo: op for op in operations if isinstance(op, hub.CommitOperationAdd)}
        self._check_folders(added)
        first = operations[0].path_in_repo
        more = f" and {len(operations) - 1} more" if len(operations) > 1 else ""
        verb = "Keep" if added else "Remove"
        with self._turn, self._asked(first):
            told = self._api.create_commit(
                operations=operations, commit_message=f"{verb} {first}{more}",
                revision=self._revision, **self._repository,
            )  # fmt: skip
        infos = again(lambda: self._infos(list(added), told.oid))
        kept = {found.path: found for found in infos}
        for path, addition in added.items():
            if not _is_same(addition, kept.get(path)):
                raise RejectedError(f"{self._where}: {path}: what is there is not what was sent")

    def read(self, key: str, start: int, end: int) -> tuple[bytes, Object]:
        """See `Objects`."""
        url = hub.hf_hub_url(
            filename=key, revision=self._revision, endpoint=self._endpoint, **self._repository
        )
        for _ in range(_TRIES):
            found = self.find(key)
            if found is None:
                raise NotFoundError(f"{self._where}: {key}: there is no such file")
            last = min(end, found.size_bytes)
            content, _ = self._range(key, url, start, last) if start < last else (b"", {})
            is_whole = len(content) == found.size_bytes
            if len(content) == last - start and (not is_whole or found.is_content(content)):
                return content, found
        raise UnreachableError(f"{self._where}: {key}: it is replaced, or changed, again and again")

    def find(self, key: str) -> Object | None:
        """See `Objects`."""
        for found in self._infos([key]):
            if isinstance(found, RepoFile) and found.path == key:
                if found.lfs is not None:
                    return Object(found.size, found.blob_id, found.lfs.sha256)
                hasher = partial(_git_blob, found.size)
                return Object(found.size, found.blob_id, found.blob_id, hasher)
        return None

    def list(self, prefix: str) -> Iterator[tuple[str, int | None]]:
        """See `Objects`."""
        for found in self._tree(prefix):
            is_file = isinstance(found, RepoFile)
            yield found.path[len(prefix) :], found.size if is_file else None

    def keys(self, prefix: str) -> Iterator[str]:
        """See `Objects`."""
        for found in self._tree(prefix, recursive=True):
            if isinstance(found, RepoFile):
                yield found.path

    def remove(self, keys: Iterable[str]) -> None:
        """See `Objects`; it is one commit."""
        asked = list(keys)
        there = {found.path for found in self._infos(asked) if isinstance(found, RepoFile)}
        if there:
            self.commit([hub.CommitOperationDelete(key, is_folder=False) for key in sorted(there)])

    # -- parts --------------------------------------------------------------------------------

    def _tree(self, prefix: str, **arguments: Any) -> Iterator[Any]:
        try:
            with self._asked(prefix):
                for found in self._api.list_repo_tree(
                    path_in_repo=prefix.rstrip("/") or None, revision=self._revision,
                    **self._repository, **arguments,
                ):  # fmt: skip
                    if found.path.startswith(prefix) and found.path != _OF_THE_HUB:
                        yield found
        except ClusterError as error:
            if error.reason != "EntryNotFound":
                raise

    def _infos(self, paths: Sequence[str], revision: str | None = None) -> Any:
        found = []
        for start in range(0, len(paths), _PATHS_AT_ONCE):
            with self._asked(paths[start]):
                found += self._api.get_paths_info(
                    paths=list(paths[start : start + _PATHS_AT_ONCE]),
                    revision=revision or self._revision, **self._repository,
                )  # fmt: skip
        return found

    def _check_folders(self, added: Iterable[str]) -> None:
        """Refuse a file in place of a folder, and one below a file: git would drop the other."""
        above = {key[:i] for key in added for i in range(len(key)) if key[i] == "/"}
        for found in self._infos(sorted({*added, *above})) if added else []:
            is_file = isinstance(found, RepoFile)
            if is_file == (found.path in above):
                what = "a file" if is_file else "a folder"
                raise RejectedError(f"{self._where}: {found.path} is {what} there")

class _HfUpload(Upload):
    """Its hash has to be known before anything is sent, so it waits in a file of this machine."""

    def __init__(self, objects: HfObjects, key: str) -> None:
        self._objects, self._key = objects, key
        with waiting_in_file():
            self._file = tempfile.TemporaryFile(prefix="mlflow-exec-")  # noqa: SIM115 - closed below

    def write(self, part: bytes) -> None:
        with waiting_in_file():
            self._file.write(part)
            self._file.flush()

    def commit(self) -> None:
        with self._file:
            file = getattr(self._file, "file", self._file)  # a wrapper holds it on Windows
            repeated(lambda: self._objects.keep(self._key, file))

    def abort(self) -> None:
        with suppress(OSError):  # it is closed then, too
            self._file.close()


class _Held(HfObjects):
    """What is to be kept in one commit, or in a few."""

    def __init__(self, objects: HfObjects) -> None:
        self.__dict__.update(copy.copy(objects).__dict__)
        self._lock = threading.Lock()
        self._held: dict[str, Any] = {}

    def keep(self, key: str, content: BinaryIO) -> None:
        addition = self.sent(key, content)
        with self._lock:
            self._held[key] = addition
            held = self._held.values()
            size_bytes = sum(len(op.path_or_fileobj) for op in held)
            if len(held) >= _HELD_FILES or size_bytes > _HELD_BYTES:
                self.commit_held()

    def find(self, key: str) -> Object | None:
        return None if key in self._held else super().find(key)

    def commit_held(self) -> None:
        held = list(self._held.values())
        if held:
            repeated(lambda: self.commit(held))
            self._held.clear()


def _is_same(addition: Any, found: Any) -> bool:
    if not isinstance(found, RepoFile) or found.size != addition.upload_info.size:
        return False
    if found.lfs is not None:
        return bool(found.lfs.sha256 == addition.upload_info.sha256.hex())
    hasher = _git_blob(found.size)
    with addition.as_file() as content:
        hasher.update(content.read())
    return bool(hasher.hexdigest() == found.blob_id)


def _git_blob(size_bytes: int) -> Hasher:
    return hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)


def _without_xet(record: logging.LogRecord) -> bool:
    return "not supported by Xet Storage" not in record.getMessage()


# That LFS is what it falls back to is meant.
logging.getLogger("huggingface_hub._commit_api").addFilter(_without_xet)


class HfStore(ObjectStore):
    """Files in a repository of Hugging Face."""

    def __init__(
        self, location: Location, credential: Credential, objects: HfObjects | None = None
    ) -> None:
        self._repository = objects or _HF.of(location, credential)
        super().__init__(location, credential, lambda: self._repository)

    @contextmanager
    def together(self) -> Iterator[Store]:
        """See `Store`; a commit is of up to a thousand files, or 100 MB of small ones."""
        if is_on(READ_BACK):
            yield self
            return
        held = _Held(self._repository)
        try:
            yield HfStore(self.location, self.credential, held)
        finally:
            with explained(self.location):
                held.commit_held()


_HF = Connections(HfObjects)

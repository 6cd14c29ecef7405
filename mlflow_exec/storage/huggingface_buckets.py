"""Buckets of Hugging Face: contents go to its Xet storage in chunks, and then get their names.

A file is there once the Hub has answered to its name and hash. Chunks that are in the storage
already are not sent again: hf_xet finds them. Ranges are read by HTTP, as the Hub's own file system
does, and not by hf_xet, which lets no other thread run while it waits and compares no hash.
"""

from __future__ import annotations

import copy
import json
import mimetypes
import os
import re
import tempfile
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any, BinaryIO
from urllib.parse import quote

import hf_xet
from huggingface_hub import BucketFile
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from mlflow_exec.clients.pauses import repeated
from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import ClusterError, NotFoundError, RejectedError
from mlflow_exec.storage.base import (
    PIECE_BYTES,
    READ_BACK,
    Store,
    explained,
    is_on,
    waiting_in_file,
)
from mlflow_exec.storage.budget import Budget
from mlflow_exec.storage.huggingface_http import HubObjects
from mlflow_exec.storage.kept import Object
from mlflow_exec.storage.objects import ObjectStore
from mlflow_exec.storage.parts import PART_BYTES, Upload, again
from mlflow_exec.storage.refusals import refusal
from mlflow_exec.storage.sent import Sent
from mlflow_exec.storage.shared import Connections
from mlflow_exec.uris import Location

_AT_ONCE = 1000
_FRESH_S = 60.0
_STATUS = re.compile(r"HTTP status (?:client|server) error \((\d{3})")
# hf_xet gathers 64 MB of each large file before it sends them, and has as much on its way.
_STREAM_BYTES = 128 * 1024 * 1024
_STREAMS = Budget(3 * _STREAM_BYTES)
# Its own: what is on its way, of 64 MB each; and how long it tries, as is tried here again, too.
_BOUNDS: tuple[tuple[str, Any], ...] = (
    ("client.ac_max_upload_concurrency", 2),
    ("client.retry_max_duration", "60s"),
)


class HfBucketObjects(HubObjects):
    """One bucket."""

    def __init__(self, location: Location, credential: Credential) -> None:
        """Keep what is asked by."""
        self._id = "/".join(location.split()[0])
        super().__init__(credential, f"buckets/{self._id}")
        self._of_bucket = f"{self._endpoint}/api/buckets/{self._id}"
        self._lock = threading.Lock()
        self._grant: dict[str, Any] = {"exp": 0}

    def put(self, key: str, content: bytes) -> None:
        """See `Objects`."""
        sending = self.sending()
        with self._asked(key):
            handle = sending.start_upload_bytes(content, sha256=hf_xet.SKIP_SHA256)
            sending.wait_to_finish()
            sent = handle.result().xet_info
        self.keep({key: sent})

    def upload(self, key: str) -> Upload:
        """See `Objects`."""
        return _XetUpload(self, key)

    def sending(self) -> Any:
        """Return what contents are sent by, whose names are not kept by that."""
        url = f"{self._of_bucket}/xet-write-token"
        headers = build_hf_headers(token=self._token)
        with self._asked(""):
            with self._lock:
                if self._grant["exp"] < time.time() + _FRESH_S:
                    told = get_session().get(url, headers=headers)
                    hf_raise_for_status(told)
                    self._grant = told.json()
                grant = self._grant
            others = {n: v for n, v in headers.items() if n.lower() != "authorization"}
            return _session(os.getpid()).new_upload_commit(
                endpoint=grant["casUrl"], token=grant["accessToken"],
                token_expiry_unix_secs=grant["exp"], token_refresh_url=url,
                token_refresh_headers=headers, custom_headers=others,
            )  # fmt: skip

    def keep(self, sent: Mapping[str, Any]) -> None:
        """Give names to contents that have arrived, and compare what is told of them then.

        Args:
            sent: What hf_xet tells of each content, by its key.
        """
        now_ms = int(time.time() * 1000)
        self._batch([
            {"type": "addFile", "path": key, "xetHash": info.hash, "mtime": now_ms,
             "contentType": mimetypes.guess_type(key)[0] or "application/octet-stream"}
            for key, info in sent.items()
        ])  # fmt: skip
        kept = {found.path: found for found in again(lambda: self._infos(list(sent)))}
        for key, info in sent.items():
            found = kept.get(key)
            # One of another hash is of somebody who came later.
            if found is None or (found.xet_hash == info.hash and found.size != info.file_size):
                raise RejectedError(f"{self._where}: {key}: what is there is not what was sent")

    def read(self, key: str, start: int, end: int) -> tuple[bytes, Object]:
        """See `Objects`."""
        url = f"{self._endpoint}/buckets/{self._id}/resolve/{quote(key)}"
        try:
            content, passed = self._range(key, url, start, end)
        except (NotFoundError, RejectedError):
            found = self.find(key)
            if found is None or found.size_bytes:
                raise
            return b"", found  # of nothing there is no range, and nothing in the storage
        told, size = passed.get("x-xet-hash"), passed.get("x-linked-size")
        found = _object(int(size), told) if told and size else self.find(key)
        if found is None:
            raise NotFoundError(f"{self._where}: {key}: there is no such file")
        return content, found

    def find(self, key: str) -> Object | None:
        """See `Objects`."""
        for found in self._infos([key]):
            if found.path == key:
                return _object(found.size, found.xet_hash)
        return None

    def list(self, prefix: str) -> Iterator[tuple[str, int | None]]:
        """See `Objects`."""
        for found in self._tree(prefix, recursive=False):
            name, slash, _ = found.path[len(prefix) :].partition("/")
            is_file = isinstance(found, BucketFile) and not slash
            yield name, found.size if is_file else None

    def keys(self, prefix: str) -> Iterator[str]:
        """See `Objects`."""
        for found in self._tree(prefix, recursive=True):
            if isinstance(found, BucketFile):
                yield found.path

    def remove(self, keys: Iterable[str]) -> None:
        """See `Objects`."""
        asked = list(keys)
        there = [found.path for found in self._infos(asked)]
        try:
            self._batch([{"type": "deleteFile", "path": key} for key in there])
        except RejectedError:
            if self._infos(asked):  # else somebody else was faster
                raise

    # -- parts --------------------------------------------------------------------------------

    def _tree(self, prefix: str, *, recursive: bool) -> Iterator[Any]:
        try:
            with self._asked(prefix):
                for found in self._api.list_bucket_tree(
                    self._id, prefix=prefix.rstrip("/") or None, recursive=recursive
                ):
                    # The Hub lists what begins with the same letters, too.
                    if found.path.startswith(prefix):
                        yield found
        except ClusterError as error:
            if error.reason != "EntryNotFound":
                raise

    def _infos(self, keys: Sequence[str]) -> Sequence[Any]:
        with self._asked(keys[0] if keys else ""):
            return list(self._api.get_bucket_paths_info(self._id, keys))

    def _batch(self, operations: Sequence[dict[str, Any]]) -> None:
        headers = {
            **build_hf_headers(token=self._token), "Content-Type": "application/x-ndjson",
        }  # fmt: skip
        for start in range(0, len(operations), _AT_ONCE):
            some = operations[start : start + _AT_ONCE]
            lines = "".join(json.dumps(operation) + "\n" for operation in some)
            with self._asked(some[0]["path"]):
                told = get_session().post(
                    f"{self._of_bucket}/batch", headers=headers, content=lines.encode()
                )
                # All others of the batch are done then.
                failed = told.json().get("failed") if told.status_code in (200, 422) else None
                if failed:
                    path, said = failed[0]["path"], failed[0]["error"]
                    request = told.headers.get("X-Request-Id", "")
                    text = f"{self._where}: {path}: {said} (request {request})"
                    more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
                    raise refusal(text + more, 422, self._credential)
                hf_raise_for_status(told)

    def _told(self, what: str, error: BaseException) -> ClusterError:
        """Return the error for what the client says, or hf_xet."""
        said = " ".join(str(error).split())
        text = f"{self._where}: {what}: {said}" if what else f"{self._where}: {said}"
        status = _STATUS.search(said)
        if status is not None:
            return refusal(text, int(status[1]), self._credential)
        if isinstance(error, hf_xet.XetAuthenticationError):
            return refusal(text, 401, self._credential)
        if isinstance(error, hf_xet.XetObjectNotFoundError):
            return NotFoundError(text)
        return super()._told(what, error)


class _XetUpload(Upload):
    """Passes through hf_xet, which sends what is full while more of it comes."""

    def __init__(self, objects: HfBucketObjects, key: str, sending: Any = None) -> None:
        self._objects, self._key = objects, key
        self._sending = sending or objects.sending()
        with objects._asked(key):
            self._stream = self._sending.start_upload_stream(sha256=hf_xet.SKIP_SHA256)

    def write(self, part: bytes) -> None:
        with self._objects._asked(self._key):
            for start in range(0, len(part), PIECE_BYTES):  # it takes none but bytes
                self._stream.write(bytes(memoryview(part)[start : start + PIECE_BYTES]))

    def finish(self) -> Any:
        """Return what is told of the content, all of which has been written."""
        with self._objects._asked(self._key):
            return self._stream.finish().xet_info

    def commit(self) -> str:
        sent = self.finish()
        with self._objects._asked(self._key):
            self._sending.wait_to_finish()
        repeated(lambda: self._objects.keep({self._key: sent}))
        return str(sent.hash)

    def abort(self) -> None:
        with self._objects._asked(self._key):
            self._sending.abort()


class _Held(HfBucketObjects):
    """What is sent together, and gets its names in one batch, or in a few."""

    def __init__(self, objects: HfBucketObjects) -> None:
        self.__dict__.update(copy.copy(objects).__dict__)
        self._together = self.sending()
        self._held: dict[str, Any] = {}

    def put(self, key: str, content: bytes) -> None:
        upload = self.upload(key)
        upload.write(content)
        upload.commit()

    def upload(self, key: str) -> Upload:
        return _HeldUpload(self, key, self._together)

    def find(self, key: str) -> Object | None:
        return None if key in self._held else super().find(key)

    def hold(self, key: str, sent: Any) -> None:
        """Keep what is told of a content until all others are there."""
        self._held[key] = sent

    def keep_held(self) -> None:
        with self._asked(""):
            self._together.wait_to_finish()
        held = list(self._held.items())
        for start in range(0, len(held), _AT_ONCE):  # what has its name is not named again
            repeated(partial(self.keep, dict(held[start : start + _AT_ONCE])))


class _HeldUpload(_XetUpload):
    _objects: _Held

    def commit(self) -> str:
        self._objects.hold(self._key, self.finish())
        return ""

    def abort(self) -> None:
        self.finish()  # all others would be lost with it; nothing names it


class _XetHasher:
    """Hashes as Xet does, which hf_xet does for files only: the content waits in one."""

    def __init__(self) -> None:
        with waiting_in_file():
            self._file, self._path = tempfile.mkstemp(prefix="mlflow-exec-")
        self._end = weakref.finalize(self, _remove, self._file, self._path)

    def update(self, piece: bytes, /) -> None:
        """See `Hasher`."""
        view = memoryview(piece)
        with waiting_in_file():
            while view:
                view = view[os.write(self._file, view) :]

    def hexdigest(self) -> str:
        """See `Hasher`; nothing can be added then."""
        try:
            return str(hf_xet.hash_files([self._path])[0].hash)
        finally:
            self._end()


def _remove(file: int, path: str) -> None:
    os.close(file)
    os.unlink(path)


def _object(size_bytes: int, xet_hash: str) -> Object:
    return Object(size_bytes, xet_hash, xet_hash, _XetHasher)


@cache
def _session(_: int) -> Any:
    """Return the one of a process by its id: what a forked one has of its parent does not run."""
    config = hf_xet.XetConfig()
    for name, value in _BOUNDS:
        if f"HF_XET_{name}".upper().replace(".", "_") not in os.environ:
            config = config.with_config(name, value)
    return hf_xet.XetSession(config)


class HfBucketStore(ObjectStore):
    """Files in a bucket of Hugging Face."""

    def __init__(
        self, location: Location, credential: Credential, objects: HfBucketObjects | None = None
    ) -> None:
        super().__init__(location, credential, lambda: objects or _BUCKETS.of(location, credential))

    def put(self, path: str, content: BinaryIO) -> None:
        """See `Store`; of large ones some wait here, where they hold nothing, for others."""
        size_bytes = Sent(content).length_bytes
        if size_bytes is not None and size_bytes < PART_BYTES:
            super().put(path, content)
        else:
            with _STREAMS.take(_STREAM_BYTES):
                super().put(path, content)

    @contextmanager
    def together(self) -> Iterator[Store]:
        """See `Store`; all of it is one upload, whose files get their names at the end."""
        if is_on(READ_BACK):
            yield self
            return
        with explained(self.location):
            held = repeated(lambda: _Held(_BUCKETS.of(self.location, self.credential)))
        try:
            yield HfBucketStore(self.location, self.credential, held)
        finally:
            with explained(self.location):
                held.keep_held()


_BUCKETS = Connections(HfBucketObjects)

"""Packed environments in HDFS, where later jobs, also of other machines, find them.

YARN notes the length and the time of a file when an application is submitted, and refuses one that
has changed until a node fetches it, which may be after hours in a queue. So an archive is never
replaced, nor is its time set: a newer one gets a name of its own, and the use of one is noted in an
empty file beside it.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from mlflow_exec.errors import ConflictError, NotFoundError, RejectedError
from mlflow_exec.schedulers.yarn.packing import Packing

_ARCHIVE = ".tar.gz"
_USED = ".used"
_UPLOADING = ".uploading"
_DAY_S = 86400.0
_OWNER_ONLY = "600"


class Hdfs(Protocol):
    """What is needed of HDFS; `mlflow_exec.clients.webhdfs.WebHdfs` is one."""

    filesystem: str

    def status(self, path: str) -> dict[str, Any] | None:
        """Return a path's ``FileStatus``; None if it does not exist."""

    def list(self, path: str) -> Iterable[dict[str, Any]]:
        """Return the ``FileStatus`` of what is in a folder; raises NotFoundError."""

    def make_folder(self, path: str, permission: str = "700") -> None:
        """Make a folder and those above it."""

    def write(self, path: str, content: bytes | Path, *, permission: str = "600") -> object:
        """Write a whole file."""

    def rename(self, src: str, dst: str) -> bool:
        """Rename in one step; False if there is something of the new name already."""

    def delete(self, path: str) -> bool:
        """Delete a file; False if there is none."""


def find(hdfs: Hdfs, folder: str, packing: Packing, max_age_s: float = 86400) -> str | None:
    """Return the URI of an uploaded archive, noting that it is used; None if it is to be built.

    Args:
        hdfs: Where to look.
        folder: The archives' folder, an absolute path.
        packing: What is needed.
        max_age_s: How long one is used whose requirements do not all name one version.
    """
    newest = max(_uploads(hdfs, folder, packing), key=_modified_s, default=None)
    if newest is None:
        return None
    if not packing.pinned and time.time() - _modified_s(newest) > max_age_s:
        return None
    path = f"{folder}/{newest['pathSuffix']}"
    _note_use(hdfs, path)
    # Whoever cleans may have looked before the use was noted.
    return _uri(hdfs, path) if hdfs.status(path) is not None else None


def put(
    hdfs: Hdfs, folder: str, packing: Packing, path: Path, max_age_s: float = 86400
) -> str:
    """Upload an archive unless one is there, and return the URI of the one to use.

    It is ``<folder>/<file_name>`` but where that one is too old: the newer one then stands beside
    it under another name, because waiting jobs may still need the older.

    Args:
        hdfs: Where to put it.
        folder: The archives' folder, an absolute path; made, for this user only.
        packing: What it is.
        path: The archive on this machine.
        max_age_s: See `find`.
    """
    found = find(hdfs, folder, packing, max_age_s)
    if found is not None:
        return found
    hdfs.make_folder(folder, "700")
    target = f"{folder}/{packing.file_name}"
    if hdfs.status(target) is not None:
        stem = packing.file_name.removesuffix(_ARCHIVE)
        target = f"{folder}/{stem}-{uuid.uuid4().hex[:12]}{_ARCHIVE}"
    upload = f"{target}.{uuid.uuid4().hex[:12]}{_UPLOADING}"
    try:
        hdfs.write(upload, path, permission=_OWNER_ONLY)
        _note_use(hdfs, target)
        with suppress(ConflictError):
            if hdfs.rename(upload, target):
                return _uri(hdfs, target)
    finally:
        hdfs.delete(upload)
    if hdfs.status(target) is None:
        raise RejectedError(f"HDFS {_uri(hdfs, target)}: the upload could not be given its name")
    return _uri(hdfs, target)  # another client's, which is the same


def clean(hdfs: Hdfs, folder: str, max_age_s: float, limit_bytes: int) -> int:
    """Remove archives that were not used for long, and those used longest ago over the limit.

    One that was used in the last day stays: its job may still wait for a node.

    Args:
        hdfs: Where they are.
        folder: The archives' folder, an absolute path.
        max_age_s: So long unused goes.
        limit_bytes: What all may use together.

    Returns:
        How many were removed.
    """
    now_s = time.time()
    listed = {entry["pathSuffix"]: entry for entry in _listed(hdfs, folder)}
    archives = [name for name in listed if name.endswith(_ARCHIVE)]
    last_use_s = {name: _last_use_s(name, listed) for name in archives}
    total = sum(int(listed[name]["length"]) for name in archives)
    removed = 0
    for name in sorted(archives, key=lambda name: last_use_s[name]):
        age_s = now_s - last_use_s[name]
        if age_s <= _DAY_S or (age_s <= max_age_s and total <= limit_bytes):
            continue
        marker = hdfs.status(f"{folder}/{name}{_USED}")
        if marker is not None and now_s - _modified_s(marker) <= _DAY_S:
            continue  # used since the folder was listed
        removed += hdfs.delete(f"{folder}/{name}")
        hdfs.delete(f"{folder}/{name}{_USED}")
        total -= int(listed[name]["length"])
    for name, entry in listed.items():
        stray = name.endswith(_USED) and name.removesuffix(_USED) not in listed
        if (stray or name.endswith(_UPLOADING)) and now_s - _modified_s(entry) > _DAY_S:
            hdfs.delete(f"{folder}/{name}")
    return removed


def _listed(hdfs: Hdfs, folder: str) -> list[dict[str, Any]]:
    try:
        return list(hdfs.list(folder))
    except NotFoundError:
        return []


def _uploads(hdfs: Hdfs, folder: str, packing: Packing) -> list[dict[str, Any]]:
    """Return the finished archives of a packing."""
    stem = packing.file_name.removesuffix(_ARCHIVE)
    return [
        entry
        for entry in _listed(hdfs, folder)
        if entry["pathSuffix"].startswith(stem)
        and entry["pathSuffix"].endswith(_ARCHIVE)
        and int(entry["length"]) > 0
    ]


def _last_use_s(name: str, listed: dict[str, dict[str, Any]]) -> float:
    marker = listed.get(f"{name}{_USED}")
    built_s = _modified_s(listed[name])
    return built_s if marker is None else max(built_s, _modified_s(marker))


def _modified_s(entry: dict[str, Any]) -> float:
    return float(entry["modificationTime"]) / 1000


def _note_use(hdfs: Hdfs, path: str) -> None:
    hdfs.write(f"{path}{_USED}", b"", permission=_OWNER_ONLY)


def _uri(hdfs: Hdfs, path: str) -> str:
    return f"{hdfs.filesystem.rstrip('/')}{path}"

"""Built environments on a disk that outlives the jobs, each in a folder of its own.

Every build gets a new folder, so that nothing of a build that was killed, or that still dies, is
ever part of another one. It counts from the moment that its marker is there, which is written last.
Whoever builds or uses one shares its lock; only who has the lock alone may remove it.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import os
import shutil
import stat
import subprocess
import time
from typing import Any, Dict, List, Optional, Tuple

from .environment_key import EnvironmentKey
from .file_lock import FileLock

_MARKER = "complete.json"
_LOCK = ".lock"
_ASK_VERSION = "import sys; sys.stdout.write(sys.version)"
_ASK_TIMEOUT_S = 60.0
_CONTENTS = ("bin", "conda-meta", "lib*/python*/site-packages")


class Entry:
    """One environment, finished or not.

    Attributes:
        path: Its folder.
        lock: Shared while it is built or used.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.lock = FileLock(path + _LOCK)

    @property
    def environment_dir(self) -> str:
        """The folder of the environment itself."""
        return os.path.join(self.path, "env")

    def marker(self) -> Optional[Dict[str, Any]]:
        """Return what was written when it was finished; None where it was not."""
        try:
            with open(os.path.join(self.path, _MARKER), encoding="utf-8") as file:
                found = json.load(file)
            numbers = (found["built_s"], found["size_bytes"])
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return found if all(isinstance(number, (int, float)) for number in numbers) else None

    def finish(self, key: EnvironmentKey) -> int:
        """Mark it as complete once all of it is on the disk; returns its size in bytes."""
        size_bytes = _used_bytes(self.path)
        marker = {
            "key": key.digest,
            "built_s": time.time(),
            "size_bytes": size_bytes,
            "python": _python_version(self.environment_dir),
            "contents": _contents(self.environment_dir),
        }
        _sync_disk(self.path)
        path = os.path.join(self.path, _MARKER)
        with open(path + ".part", "w", encoding="utf-8") as file:
            json.dump(marker, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".part", path)
        _sync_folder(self.path)
        return size_bytes

    def damage(self, marker: Dict[str, Any]) -> str:
        """Return in words what is wrong with it, nothing if all is well as far as can be seen."""
        if marker.get("contents") != _contents(self.environment_dir):
            return "packages were added to it or removed from it since it was built"
        if marker.get("python") != _python_version(self.environment_dir):
            return "its Python does not work any more"
        return ""

    def touch(self) -> None:
        """Note that it was used now."""
        with contextlib.suppress(OSError):
            os.utime(os.path.join(self.path, _MARKER))

    def last_use_s(self) -> float:
        """Return when it was used last, in seconds since 1970; 0 if that cannot be told."""
        try:
            return os.stat(os.path.join(self.path, _MARKER)).st_mtime
        except OSError:
            return 0.0

    def remove(self) -> None:
        """Remove it with its lock, which the caller holds; the marker goes first."""
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.path, _MARKER))
        shutil.rmtree(self.path, ignore_errors=True)
        self.lock.remove()


class EntryStore:
    """The environments of one user in a folder that several may share.

    Args:
        root: The folder.

    Raises:
        OSError: It is not there, cannot be written to, or ours in it belongs to somebody else.
    """

    def __init__(self, root: str) -> None:
        self.folder = os.path.join(root, str(os.geteuid()))
        with contextlib.suppress(FileExistsError):
            os.mkdir(self.folder, 0o700)
        info = os.lstat(self.folder)
        if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
            raise PermissionError(errno.EPERM, "it belongs to somebody else", self.folder)
        if info.st_mode & 0o077:
            os.chmod(self.folder, 0o700)

    def building(self, key: EnvironmentKey) -> FileLock:
        """Return the lock of who builds this environment."""
        return FileLock(os.path.join(self.folder, _short(key)) + _LOCK)

    def complete(self, key: EnvironmentKey) -> List[Tuple[Entry, Dict[str, Any]]]:
        """Return the finished environments of a key with their markers, the newest first."""
        found = []
        for entry in self._entries():
            if os.path.basename(entry.path).startswith(_short(key) + "-"):
                marker = entry.marker()
                if marker is not None and marker.get("key") == key.digest:
                    found.append((entry, marker))
        return sorted(found, key=lambda pair: pair[1]["built_s"], reverse=True)

    def create(self, key: EnvironmentKey) -> Entry:
        """Return a new one to build in; its lock is held.

        Raises:
            OSError: The disk takes no more, or has no locks.
        """
        while True:
            name = f"{_short(key)}-{os.urandom(4).hex()}"
            entry = Entry(os.path.join(self.folder, name))
            if entry.lock.try_shared():
                break
        try:
            os.mkdir(entry.path, 0o700)
        except BaseException:
            entry.lock.remove()
            raise
        return entry

    def sweep(self, limit_bytes: int, newest: Optional[Entry] = None) -> Tuple[int, int]:
        """Remove what nobody uses: unfinished, replaced by the newest, and over the limit.

        Args:
            limit_bytes: What all may use together; the one used longest ago goes first.
            newest: One that was just built.

        Returns:
            How many environments were removed, and their bytes.
        """
        total, count, freed = 0, 0, 0
        kept: List[Tuple[float, int, Entry]] = []
        for entry in self._entries():
            marker = entry.marker()
            size = _used_bytes(entry.path) if marker is None else int(marker["size_bytes"])
            if newest is not None and entry.path == newest.path:
                total += size
            elif marker is not None and not (newest and _same_key(entry, newest)):
                total += size
                kept.append((entry.last_use_s(), size, entry))
            elif _removed(entry, unfinished=marker is None):
                count, freed = count + 1, freed + size
        for _, size, entry in sorted(kept, key=lambda item: item[0]):
            if total <= limit_bytes:
                break
            if _removed(entry, unfinished=False):
                total, count, freed = total - size, count + 1, freed + size
        self._remove_stray_locks()
        return count, freed

    def _entries(self) -> List[Entry]:
        with os.scandir(self.folder) as found:
            return [
                Entry(item.path)
                for item in found
                if item.is_dir(follow_symlinks=False)
                and item.stat(follow_symlinks=False).st_uid == os.geteuid()
            ]

    def _remove_stray_locks(self) -> None:
        for name in os.listdir(self.folder):
            path = os.path.join(self.folder, name)
            if name.endswith(_LOCK) and not os.path.isdir(path[: -len(_LOCK)]):
                lock = FileLock(path)
                if lock.try_exclusive():
                    # Who builds takes the lock first and makes the folder then.
                    if os.path.isdir(path[: -len(_LOCK)]):
                        lock.release()
                    else:
                        lock.remove()


def _removed(entry: Entry, *, unfinished: bool) -> bool:
    """Remove an entry that nobody uses; an unfinished one only if it still is that."""
    if not entry.lock.try_exclusive():
        return False
    if unfinished and entry.marker() is not None:
        entry.lock.release()
        return False
    entry.remove()
    return True


def _short(key: EnvironmentKey) -> str:
    # The path is in the first line of every script of the environment, which has a limit.
    return key.digest[:32]


def _same_key(one: Entry, other: Entry) -> bool:
    names = (os.path.basename(entry.path).partition("-")[0] for entry in (one, other))
    return next(names) == next(names)


def _python_version(environment_dir: str) -> Optional[str]:
    """Return what the environment's Python says it is; None if it does not start."""
    python = os.path.join(environment_dir, "bin", "python")
    try:
        done = subprocess.run(
            [python, "-I", "-S", "-c", _ASK_VERSION],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_ASK_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace") if done.returncode == 0 else None


def _contents(environment_dir: str) -> str:
    """Return a digest of what is installed: names only, so that it costs next to nothing."""
    digest = hashlib.sha256()
    for pattern in _CONTENTS:
        for folder in sorted(glob.glob(os.path.join(glob.escape(environment_dir), pattern))):
            names = sorted(set(os.listdir(folder)) - {"__pycache__"})
            names.insert(0, os.path.relpath(folder, environment_dir))
            digest.update(os.fsencode("\0".join(names)) + b"\0\0")
    return digest.hexdigest()


def _used_bytes(folder: str) -> int:
    total = 0
    seen = set()
    for path, folders, files in os.walk(folder):
        for name in folders + files:
            with contextlib.suppress(OSError):
                info = os.lstat(os.path.join(path, name))
                if (info.st_dev, info.st_ino) not in seen:
                    seen.add((info.st_dev, info.st_ino))
                    total += info.st_blocks * 512
    return total


def _sync_disk(folder: str) -> None:
    """Write what the disk's cache holds, so that a lost machine leaves no half environment."""
    try:
        import ctypes

        syncfs = ctypes.CDLL(None, use_errno=True).syncfs
    except (ImportError, AttributeError, OSError):
        os.sync()
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        if syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), folder)
    finally:
        os.close(fd)


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

"""The environment of the entry point, taken from earlier jobs where they left the same one."""

from __future__ import annotations

import errno
import os
import time
from typing import Dict, Optional, Set

from .environment import Environment, EnvironmentBuilder, environment_in
from .environment_entries import Entry, EntryStore
from .environment_key import EnvironmentKey, key_of
from .file_lock import FileLock
from .job_order import EnvironmentCacheSpec, EnvironmentSpec, SetupError
from .packed_environment import packed
from .processes import Runner
from .requirements import Uncacheable

_POLL_S = 0.2
_SAY_EVERY_S = 30.0
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_WORDS = ("No space left on device", "Disk quota exceeded")
_NEARLY_FULL_BYTES = 32 * 1024 * 1024
_MIB = 1024 * 1024


class Environments:
    """Provides one job with its environment.

    Args:
        spec: What is wanted.
        cache: Where it is kept for later jobs; None where it is not.
        scratch_dir: An existing private folder.
        runner: Runs the installers.
        env: The variables for the installers.
    """

    def __init__(
        self,
        spec: EnvironmentSpec,
        cache: Optional[EnvironmentCacheSpec],
        scratch_dir: str,
        runner: Runner,
        env: Dict[str, str],
    ) -> None:
        self._spec = spec
        self._cache = cache if spec.manager not in ("local", "packed") else None
        self._scratch_dir = scratch_dir
        self._runner = runner
        self._env = env
        self._unfinished: Optional[Entry] = None
        self._used: Optional[Entry] = None
        self._said: Set[str] = set()

    def prepare(self, project_dir: str) -> Environment:
        """Return the environment, ready.

        Raises:
            SetupError: environment_setup, where it cannot be built.
            Stopped: A stop signal came, also while another job built the same one.
            DeadlineOver: The time is over.
        """
        started = time.monotonic()
        if self._cache is not None:
            try:
                return self._from_cache(self._cache, project_dir, started)
            except Uncacheable as reason:
                self._say(f"it is not cached: {reason}")
            except OSError as error:
                self._say(f"the cache {self._cache.path} cannot be used: {error}")
        if self._spec.path is not None:
            built = packed(self._spec.path, self._runner, self._env, self._scratch_dir)
        else:
            built = self._builder(project_dir).build()
        if self._spec.manager != "local":
            seconds = time.monotonic() - started
            self._say(f"{self._spec.manager}, ready after {seconds:.1f} s")
        return built

    def close(self) -> None:
        """Let others remove it from now on; what was not finished is removed here."""
        unfinished, self._unfinished = self._unfinished, None
        if unfinished is not None:
            unfinished.remove()
        used, self._used = self._used, None
        if used is not None:
            used.touch()
            used.lock.release()

    def hand_over(self) -> None:
        """Leave it in use by the program that is going to take this process's place."""
        if self._used is not None:
            self._used.touch()
            self._used.lock.outlive_exec()

    def _say(self, text: str) -> None:
        self._runner.log.say(f"environment: {text}")

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)

    def _builder(self, project_dir: str, target_dir: Optional[str] = None) -> EnvironmentBuilder:
        return EnvironmentBuilder(
            self._spec, project_dir, self._scratch_dir, self._runner, self._env, target_dir
        )

    def _from_cache(
        self, cache: EnvironmentCacheSpec, project_dir: str, started: float
    ) -> Environment:
        """Return the cached environment, built if need be.

        Raises:
            OSError: The cache cannot be used.
            Uncacheable: This environment cannot be kept.
        """
        builder = self._builder(project_dir)
        key = key_of(self._spec, project_dir, self._env, builder.tool(), builder.interpreter())
        store = EntryStore(_root(cache.path))
        found = self._find(store, key, cache.max_age_s, started)
        if found is not None:
            return found
        try:
            building = self._wait_to_build(store, key)
        except OSError as error:
            if error.errno not in _FULL or not store.sweep(0)[0]:
                raise
            building = self._wait_to_build(store, key)
        try:
            # Whoever built it meanwhile left it here.
            found = self._find(store, key, cache.max_age_s, started)
            return found or self._build(store, key, cache.limit_bytes, project_dir)
        finally:
            building.remove()

    def _find(
        self, store: EntryStore, key: EnvironmentKey, max_age_s: float, started: float
    ) -> Optional[Environment]:
        for entry, marker in store.complete(key):
            age_s = time.time() - float(marker.get("built_s", 0))
            if not key.pinned and age_s > max_age_s:
                self._say_once(
                    f"the cached one (key {_shown(key)}) is {age_s / 3600:.1f} h old, newer "
                    f"versions may have come"
                )
                continue
            if not entry.lock.try_shared():
                continue
            damage = entry.damage(marker) if entry.marker() == marker else "it was removed"
            if damage:
                self._say_once(f"the cached one (key {_shown(key)}) is not used: {damage}")
                entry.lock.release()
                continue
            entry.touch()
            self._used = entry
            seconds = time.monotonic() - started
            self._say(f"taken from the cache (key {_shown(key)}), {seconds:.1f} s")
            return environment_in(self._spec.manager, entry.environment_dir)
        return None

    def _wait_to_build(self, store: EntryStore, key: EnvironmentKey) -> FileLock:
        """Return the lock of who builds it, held, as soon as nobody else does."""
        lock = store.building(key)
        started = said = time.monotonic()
        if lock.try_exclusive():
            return lock
        self._say(f"another job builds the same one (key {_shown(key)}): waiting for it")
        while not lock.try_exclusive():
            self._runner.pause(_POLL_S)
            now = time.monotonic()
            if now - said >= _SAY_EVERY_S:
                said = now
                self._say(f"still waiting for another job to build it, {now - started:.0f} s")
        return lock

    def _build(
        self, store: EntryStore, key: EnvironmentKey, limit_bytes: int, project_dir: str
    ) -> Environment:
        """Build it in the cache; once more where the disk was full and something could go.

        Raises:
            OSError: The disk is full even so, or takes no files.
        """
        started = time.monotonic()
        try:
            return self._build_once(store, key, limit_bytes, project_dir, started)
        except (SetupError, OSError) as error:
            full = _is_full(error, store.folder)
            self._drop_unfinished()
            if not full:
                raise
        count, freed = store.sweep(0)
        if not count:
            raise OSError(errno.ENOSPC, "its disk is full, and all in it is in use", store.folder)
        self._say(f"the disk of the cache is full: removed {_amount(count, freed)}, once more")
        try:
            return self._build_once(store, key, limit_bytes, project_dir, started)
        except (SetupError, OSError) as error:
            full = _is_full(error, store.folder)
            self._drop_unfinished()
            if not full:
                raise
            raise OSError(errno.ENOSPC, "its disk is too small", store.folder) from error

    def _build_once(
        self,
        store: EntryStore,
        key: EnvironmentKey,
        limit_bytes: int,
        project_dir: str,
        started: float,
    ) -> Environment:
        entry = self._unfinished = store.create(key)
        built = self._builder(project_dir, entry.path).build()
        size_bytes = entry.finish(key)
        self._unfinished, self._used = None, entry
        seconds = time.monotonic() - started
        self._say(
            f"built in {seconds:.1f} s and cached (key {_shown(key)}), "
            f"{size_bytes / _MIB:.0f} MiB"
        )
        count, freed = store.sweep(limit_bytes, entry)
        if count:
            self._say(f"removed {_amount(count, freed)} from the cache")
        return built

    def _drop_unfinished(self) -> None:
        if self._unfinished is not None:
            self._unfinished.remove()
            self._unfinished = None


def _root(path: str) -> str:
    """Return the folder; one in a home is made, any other is the business of who runs the node."""
    root = os.path.expanduser(path)
    if path.startswith("~") and os.path.isabs(root):
        os.makedirs(root, mode=0o700, exist_ok=True)
    if not os.path.isabs(root) or not os.path.isdir(root):
        raise FileNotFoundError(errno.ENOENT, "there is no such folder", root)
    return root


def _is_full(error: Exception, folder: str) -> bool:
    """Tell whether a build failed for lack of space; not every installer says so."""
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    if any(words in str(error) for words in _FULL_WORDS):
        return True
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < _NEARLY_FULL_BYTES


def _shown(key: EnvironmentKey) -> str:
    return key.digest[:12] + "…"


def _amount(count: int, size_bytes: int) -> str:
    return f"{count} unused environment{'s' if count > 1 else ''}, {size_bytes / _MIB:.0f} MiB,"

"""The folder in which tests keep what takes long to build, shared by every checkout of a user.

Nothing in it is ever changed: an entry is keyed by what it was made from, written under another
name and renamed when it is whole, so a reader sees all of it or nothing.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_folder() -> Path:
    """Return the cache folder: $MLFLOW_EXEC_TEST_CACHE, or one below ~/.cache. Not created here."""
    given = os.environ.get("MLFLOW_EXEC_TEST_CACHE")
    return Path(given).absolute() if given else Path.home() / ".cache" / "mlflow-exec-tests"


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock named by a file; waits for another holder, ends with the process."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """Return `target`, made by `build(part)` when it is missing; concurrent callers build once.

    Args:
        target: the finished file or folder.
        build: writes a file or folder at the path that it is given; its errors pass through and
            leave no `target`.
    """
    if target.exists():
        return target
    with locked(target.with_name(target.name + ".lock")):
        if target.exists():
            return target
        part = target.with_name(target.name + ".part")
        discard(part)
        try:
            build(part)
        except BaseException:
            discard(part)
            raise
        part.rename(target)
    return target


def discard(path: Path) -> None:
    """Remove a file or folder if it is there; two may do that at the same time."""
    if path.is_dir() and not path.is_symlink():
        while path.exists():
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)

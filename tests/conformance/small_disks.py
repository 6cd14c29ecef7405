"""A store whose system has no room left."""

from __future__ import annotations

import io
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlflow_exec.errors import ArtifactError
from mlflow_exec.storage.base import Store
from mlflow_exec.testing.stores import content, put, tree
from tests.clusters.pytest_kubernetes import unavailable

SIZE_BYTES = 4 * 1024 * 1024


@contextmanager
def small_disk(folder: Path, size_bytes: int = SIZE_BYTES) -> Iterator[None]:
    """A disk of so many bytes at a folder, for everybody, until the end of the block."""
    if os.getuid() != 0:
        unavailable("mounting a small disk needs root")
    folder.mkdir(parents=True, exist_ok=True)
    options = f"size={size_bytes},mode=777"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # Samba still is in it


@contextmanager
def almost_full(folder: Path) -> Iterator[None]:
    """A disk on which others leave room for `SIZE_BYTES`, until the end of the block."""
    disk, others = os.statvfs(folder), folder / "of-others"
    with others.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, disk.f_bavail * disk.f_frsize - SIZE_BYTES)
    try:
        yield
    finally:
        others.unlink()


def assert_says_that_it_is_full(
    store: Store, said: str, await_room: Callable[[], object] = lambda: None
) -> None:
    """Send what there is no room for: an error says so, and what was kept before is still there.

    Args:
        store: At an empty place of a small disk.
        said: What the error says, as a pattern.
        await_room: Returns when the system knows of the room that there is: some learn it late.
    """
    await_room()
    put(store, "d/a", b"before")
    for path in ("d/a", "d/new"):
        with pytest.raises(ArtifactError, match=said) as told:
            store.put(path, io.BytesIO(random.randbytes(2 * SIZE_BYTES)))
        assert "\n" not in str(told.value)
    assert tree(store) == ["d/", "d/a"]
    assert content(store, "d/a") == b"before"
    await_room()
    put(store, "d/b", b"there is room for this")
    assert content(store, "d/b") == b"there is room for this"
    store.delete("")
    store.close()

"""The disk of cached environments: its limit, who goes first, and what is wrong with it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.unit.runtime.cached_environments import (
    GIB,
    NEWER_SIX,
    SIX,
    WAIT,
    CachedEnvironments,
    built,
    size_bytes,
    taken,
)
from tests.unit.runtime.job_in_cluster import Cluster

THIRD_SIX = "six==1.15.0"
# Five MB installed.
LARGE, AS_LARGE = "pygments==2.18.0", "pygments==2.17.2"


@pytest.fixture
def cached(cluster: Cluster) -> CachedEnvironments:
    return CachedEnvironments(cluster)


@contextmanager
def disk(folder: Path, options: str) -> Iterator[None]:
    """A small disk of its own at the folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_what_was_used_longest_ago_goes_first(cached: CachedEnvironments) -> None:
    first, second = cached.build(SIX), cached.build(NEWER_SIX)
    assert taken(cached.run(cached.order(SIX))), "now the second one was used longest ago"
    limit = size_bytes(first) + size_bytes(second) + size_bytes(second) // 2
    finished = cached.run(cached.order(THIRD_SIX, cache={"limit_bytes": limit}))
    assert built(finished)
    assert "environment: removed 1 unused environment, " in finished.text
    assert first.exists()
    assert not second.exists()
    assert len(cached.entries()) == 2
    assert cached.leftovers() == []


def test_within_the_limit_nothing_goes(cached: CachedEnvironments) -> None:
    first = cached.build(SIX)
    finished = cached.run(cached.order(NEWER_SIX, cache={"limit_bytes": GIB}))
    assert "removed" not in finished.text
    assert first.exists()


def test_an_environment_in_use_is_spared(cached: CachedEnvironments) -> None:
    used = cached.build(SIX)
    job = cached.start(cached.order(SIX, code=WAIT))
    job.says("it waits")
    cached.run(cached.order(NEWER_SIX, cache={"limit_bytes": 1}))
    assert used.exists(), "its job goes on"
    job.signal(signal.SIGTERM)
    job.wait()
    finished = cached.run(cached.order(THIRD_SIX, cache={"limit_bytes": 1}))
    assert "removed 2 unused environments" in finished.text
    assert not used.exists()
    assert len(cached.entries()) == 1


def test_a_full_disk_makes_room_and_tries_once_more(cached: CachedEnvironments) -> None:
    with disk(cached.root, "size=8m"):
        first = cached.build(LARGE, code="")
        finished = cached.run(cached.order(AS_LARGE, code=""))
        assert "No space left on device" in finished.text, "it was full"
        assert "the disk of the cache is full: removed 1 unused environment" in finished.text
        assert built(finished), finished.text
        assert not first.exists()
        assert len(cached.entries()) == 1, "nothing is left of the first try"
        assert taken(cached.run(cached.order(AS_LARGE, code="")))
        assert cached.leftovers() == []


@pytest.mark.parametrize("room", ["for nothing", "in use"])
def test_a_disk_that_stays_full_is_done_without(cached: CachedEnvironments, room: str) -> None:
    with disk(cached.root, "size=8m" if room == "in use" else "size=3m"):
        used = cached.start(cached.order(LARGE, code=WAIT)) if room == "in use" else None
        if used is not None:
            used.says("it waits")
        kept = cached.entries()
        finished = cached.run(cached.order(AS_LARGE, code="import pygments"))
        assert "cannot be used: [Errno 28]" in finished.text
        assert "environment: virtualenv, ready after" in finished.text
        assert cached.entries() == kept
        if used is not None:
            used.signal(signal.SIGTERM)
            used.wait()


def test_a_disk_that_is_too_small_even_when_empty(cached: CachedEnvironments) -> None:
    with disk(cached.root, "size=3m"):
        cached.build(SIX)
        finished = cached.run(cached.order(LARGE, code=""))
        assert "removed 1 unused environment" in finished.text
        assert "cannot be used: [Errno 28] its disk is too small" in finished.text
        assert cached.entries() == []


def test_a_disk_that_is_read_only_is_done_without(cached: CachedEnvironments) -> None:
    with disk(cached.root, "ro,size=8m"):
        finished = cached.run(cached.order())
        assert f"environment: the cache {cached.root} cannot be used: [Errno 30]" in finished.text
        assert "environment: virtualenv, ready after" in finished.text


def test_a_disk_that_became_read_only_is_done_without(cached: CachedEnvironments) -> None:
    with disk(cached.root, "size=8m"):
        cached.build()
        subprocess.run(["mount", "-o", "remount,ro", cached.root], check=True)
        finished = cached.run(cached.order())
        assert "cannot be used: [Errno 30] Read-only file system" in finished.text


def test_a_folder_that_is_not_there_is_not_made(cached: CachedEnvironments) -> None:
    absent = cached.root / "not-mounted"
    finished = cached.run(cached.order(cache={"path": str(absent)}))
    assert "cannot be used: [Errno 2] there is no such folder" in finished.text
    assert "environment: virtualenv, ready after" in finished.text
    assert not absent.exists()


def test_what_belongs_to_somebody_else_is_not_trusted(cached: CachedEnvironments) -> None:
    entry = cached.build()
    os.chown(entry, 65534, 65534)
    assert built(cached.run(cached.order()))
    assert entry.exists(), "and not ours to remove"
    os.chown(cached.folder, 65534, 65534)
    finished = cached.run(cached.order())
    assert "cannot be used: [Errno 1] it belongs to somebody else" in finished.text
    assert "environment: virtualenv, ready after" in finished.text


def test_a_folder_that_others_may_write_to_is_closed(cached: CachedEnvironments) -> None:
    cached.build()
    cached.folder.chmod(0o777)
    assert taken(cached.run(cached.order()))
    assert cached.folder.stat().st_mode & 0o777 == 0o700

"""Environments that earlier jobs have built: taken, waited for, built anew, by real jobs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.runtime.cached_environments import (
    NEWER_SIX,
    SIX,
    TELL,
    WAIT,
    CachedEnvironments,
    built,
    gated_uv,
    last_use,
    plain_uv,
    prefix_of,
    taken,
)
from tests.unit.runtime.job_in_cluster import Cluster
from tests.unit.runtime.test_environment import tiny_wheel

BROKEN_UV = "#!/bin/sh\nexit 9\n"


@pytest.fixture
def cached(cluster: Cluster) -> CachedEnvironments:
    return CachedEnvironments(cluster)


@pytest.mark.parametrize(
    ("manager", "uv"),
    [("virtualenv", False), ("virtualenv", True), ("uv", False)],
    ids=["venv and pip", "uv", "uv that the image lacks"],
)
def test_a_second_job_with_the_same_environment_installs_nothing(
    cached: CachedEnvironments, manager: str, uv: bool
) -> None:
    environment = {"manager": manager}
    first = cached.run(
        cached.order(environment=environment), cached.image(plain_uv() if uv else None)
    )
    assert built(first), first.text
    # Nothing could be installed any more: there is no index, and this uv does nothing.
    image = cached.image(BROKEN_UV if uv else None) | {"HTTPS_PROXY": "http://127.0.0.1:9"}
    second = cached.run(cached.order(environment=environment), image)
    assert taken(second), second.text
    assert prefix_of(first) == prefix_of(second)
    assert prefix_of(second).startswith(str(cached.root))
    assert cached.leftovers() == []


def test_what_is_cached_is_for_the_eyes_of_its_owner(cached: CachedEnvironments) -> None:
    entry = cached.build()
    for folder in (cached.folder, entry):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("kind", ["requirement", "python", "build dependency", "tool"])
def test_what_differs_is_another_environment(cached: CachedEnvironments, kind: str) -> None:
    image, how = cached.image(plain_uv()), {}
    order = cached.order()
    if kind == "requirement":
        order = cached.order(NEWER_SIX)
    elif kind == "build dependency":
        order = cached.order(environment={"build_dependencies": ["idna==3.7"]})
    elif kind == "tool":
        image = cached.image()
    else:
        other = cached.cluster.folder / "other-python"
        subprocess.run(
            [sys.executable, "-m", "venv", "--copies", "--without-pip", other], check=True
        )
        how = {"python": str(other / "bin/python")}
    first = cached.run(cached.order())
    second = cached.run(order, image, **how)
    assert built(first)
    assert built(second), second.text
    assert prefix_of(first) != prefix_of(second)
    assert len(cached.entries()) == 2


def test_two_jobs_at_the_same_time_build_it_once(
    cached: CachedEnvironments, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    first = cached.start(cached.order(), cached.image(gated_uv(gate)))
    first.says("at the gate")
    second = cached.start(cached.order())
    second.says("environment: another job builds the same one")
    gate.write_text("")
    assert built(first.wait())
    assert taken(second.wait()), second.wait().text
    assert len(cached.entries()) == 1


def test_when_the_builder_is_killed_the_waiting_job_builds(
    cached: CachedEnvironments, tmp_path: Path
) -> None:
    first = cached.start(cached.order(), cached.image(gated_uv(tmp_path / "gate")))
    first.says("at the gate")
    (half,) = cached.entries()
    assert (half / "env/bin/python").exists(), "it was killed in the middle"
    second = cached.start(cached.order())
    second.says("environment: another job builds the same one")
    first.signal(signal.SIGKILL)
    first.wait()
    cached.cluster.killed = True
    finished = second.wait()
    assert finished.code == 0, finished.text
    assert built(finished), finished.text
    (entry,) = cached.entries()
    assert entry != half
    assert cached.leftovers() == []


def test_a_build_that_fails_leaves_nothing_behind(cached: CachedEnvironments) -> None:
    finished = cached.start(cached.order("no-such-package-xyz==1")).wait()
    assert (finished.code, finished.end.category) == (82, "environment_setup")
    assert "no-such-package-xyz" in finished.end.message
    assert list(cached.folder.iterdir()) == []


def test_a_build_that_is_stopped_leaves_nothing_behind(
    cached: CachedEnvironments, tmp_path: Path
) -> None:
    job = cached.start(cached.order(), cached.image(gated_uv(tmp_path / "gate")))
    job.says("at the gate")
    assert len(cached.entries()) == 1
    job.signal(signal.SIGTERM)
    job.wait()
    assert list(cached.folder.iterdir()) == []


@pytest.mark.parametrize("while_it", ["builds", "waits"])
def test_a_signal_ends_a_job_that_builds_or_waits(
    cached: CachedEnvironments, tmp_path: Path, while_it: str
) -> None:
    gate = tmp_path / "gate"
    first = cached.start(cached.order(), cached.image(gated_uv(gate)))
    first.says("at the gate")
    second = cached.start(cached.order())
    second.says("environment: another job builds the same one")
    stopped, other = (first, second) if while_it == "builds" else (second, first)
    stopped.signal(signal.SIGTERM)
    assert stopped.wait(timeout_s=120).code == 143
    if other is first:
        gate.write_text("")
    assert built(other.wait()), other.wait().text
    assert len(cached.entries()) == 1
    assert cached.leftovers() == []


def test_the_deadline_ends_a_job_that_waits(cached: CachedEnvironments, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = cached.start(cached.order(), cached.image(gated_uv(gate)))
    first.says("at the gate")
    second = cached.cluster.run(cached.order(deadline_s=3), env=cached.image(plain_uv()))
    assert second.end.category == "deadline"
    assert "another job builds the same one" in second.text
    gate.write_text("")
    assert built(first.wait())


def unmark(entry: Path) -> None:
    (entry / "complete.json").unlink()


def garble(entry: Path) -> None:
    (entry / "complete.json").write_text('{"key": ')


def belittle(entry: Path) -> None:
    (entry / "complete.json").write_text("[]")


def take_a_package_out(entry: Path) -> None:
    (package,) = entry.glob("env/lib/python*/site-packages/six.py")
    package.unlink()


def break_the_python(entry: Path) -> None:
    python = entry / "env/bin/python"
    python.unlink()
    python.symlink_to("/nonexistent/python")


@pytest.mark.parametrize(
    "harm", [unmark, garble, belittle, take_a_package_out, break_the_python],
    ids=lambda harm: harm.__name__,
)  # fmt: skip
def test_what_is_not_whole_is_built_anew(cached: CachedEnvironments, harm: Any) -> None:
    entry = cached.build()
    harm(entry)
    assert cached.build() != entry
    assert not entry.exists()
    assert cached.leftovers() == []
    assert taken(cached.run(cached.order()))


def test_a_job_that_changes_its_environment_changes_no_later_one(
    cached: CachedEnvironments,
) -> None:
    changes = "import pathlib, six; pathlib.Path(six.__file__).with_name('idna').mkdir()"
    assert built(cached.run(cached.order(code=changes)))
    second = cached.run(cached.order())
    assert built(second), second.text
    assert "packages were added to it or removed from it" in second.text


def test_requirements_that_name_no_version_are_looked_up_anew_after_a_while(
    cached: CachedEnvironments,
) -> None:
    assert built(cached.run(cached.order("six")))
    assert taken(cached.run(cached.order("six")))
    old = cached.run(cached.order("six", cache={"max_age_s": 0.001}))
    assert built(old), old.text
    assert "newer versions may have come" in old.text
    assert len(cached.entries()) == 1
    cached.build(SIX)
    pinned = cached.run(cached.order(SIX, cache={"max_age_s": 0.001}))
    assert taken(pinned), pinned.text


def test_a_requirement_that_may_change_unseen_is_not_cached(cached: CachedEnvironments) -> None:
    wheel = tiny_wheel(cached.cluster.project)
    for _ in range(2):
        finished = cached.run(cached.order(f"./{wheel}", code="import tiny"))
        assert f"environment: it is not cached: './{wheel}' is a file or folder" in finished.text
        assert "virtualenv, ready after" in finished.text
    assert not cached.folder.exists()


def test_an_environment_lasts_over_retries_in_the_same_container(
    cached: CachedEnvironments,
) -> None:
    fails_once = TELL + "\nraise SystemExit(3)"
    order = cached.order(code=fails_once, retry={"owner": "entry", "retries": 1})
    finished = cached.start(order).wait()
    assert finished.end.category == "user_error"
    assert finished.text.count("environment: built in") == 1
    assert finished.text.count("\nsix 1.16.0") == 2


def test_a_folder_in_a_home_is_made(cached: CachedEnvironments) -> None:
    order = cached.order(cache={"path": "~/.cache/mlflow-exec/environments"})
    assert built(cached.run(order))
    made = cached.cluster.folder / ".cache/mlflow-exec/environments" / str(os.geteuid())
    (marker,) = made.glob("*/complete.json")
    assert json.loads(marker.read_text())["size_bytes"] > 0


def test_the_image_as_it_is_needs_no_cache(cached: CachedEnvironments) -> None:
    shutil.rmtree(cached.root)
    order = cached.order(code="", environment={"manager": "local", "dependencies": []})
    finished = cached.cluster.run(order)
    assert finished.code == 0, finished.text
    assert "environment:" not in finished.text


def test_an_environment_counts_as_used_until_its_job_ends(cached: CachedEnvironments) -> None:
    entry = cached.build()
    job = cached.start(cached.order(code=WAIT))
    job.says("it waits")
    os.utime(entry / "complete.json", (1, 1))
    job.signal(signal.SIGTERM)
    job.wait()
    assert last_use(entry) > 1

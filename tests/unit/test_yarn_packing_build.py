"""Packing an environment on this machine, by the real packers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ConfigError
from mlflow_exec.jobs import JobSpec
from mlflow_exec.schedulers.yarn.packing import Packing
from mlflow_exec.schedulers.yarn.packing_build import pack
from mlflow_exec.testing.collecting import Collected
from tests.clusters.processes import appears
from tests.unit.packed_environments import (
    OWN_PACKAGE,
    conda_from_here,
    conda_yaml,
    described,
    job,
    localized,
    names_in,
    packed,
)

PINNED = ("./own",)


@pytest.fixture(autouse=True)
def _uv(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let uv be found, which is beside this Python and perhaps nowhere else."""
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files; its name is longer than scripts' first lines may be."""
    folder = tmp_path / ("long" * 30)
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def archives(tmp_path: Path) -> Path:
    return tmp_path / "archives"


def without_uv(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin")


def run(prefix: Path, *argv: str) -> str:
    """Run a program of an environment with nothing but PATH telling where that is."""
    env = {"PATH": f"{prefix / 'bin'}:/usr/bin:/bin"}
    done = subprocess.run(
        argv, env=env, cwd="/", check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout.strip()


@pytest.mark.parametrize("uv", [True, False], ids=["uv", "venv and pip"])
def test_what_is_unpacked_elsewhere_runs_there(
    tmp_path: Path, temporary: Path, archives: Path, monkeypatch: pytest.MonkeyPatch, uv: bool
) -> None:
    if not uv:
        without_uv(monkeypatch)
    with job(tmp_path, OWN_PACKAGE, "./own", "six==1.16.0") as spec:
        archive = packed("venv-pack", spec, archives)
    there = localized(archive, tmp_path / "node")
    assert run(there, "own") == f"own 1.0 in {there} by {there}/bin/own"
    assert run(there, "python", "-c", "import six; print(six.__version__)") == "1.16.0"
    assert os.path.realpath(there / "bin" / "python") == os.path.realpath(sys.executable)
    assert str(temporary) not in (there / "bin" / "own").read_text()
    assert list(temporary.iterdir()) == []


def test_modules_are_compiled_once_and_not_by_each_node(tmp_path: Path, archives: Path) -> None:
    with job(tmp_path, OWN_PACKAGE, *PINNED) as spec:
        names = names_in(packed("venv-pack", spec, archives))
    assert any(name.endswith(".pyc") and "/own." in name for name in names)


def test_nothing_in_it_leads_to_an_installers_cache(
    tmp_path: Path, archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_LINK_MODE", "symlink")
    with job(tmp_path, {}, "six==1.16.0") as spec:
        archive = packed("venv-pack", spec, archives)
    there = localized(archive, tmp_path / "node")
    links = [path for path in there.rglob("*") if path.is_symlink()]
    away = [path.name for path in links if not path.resolve().is_relative_to(there)]
    assert set(away) <= {"python", "python3", os.path.basename(os.path.realpath(sys.executable))}


def test_only_its_owner_can_read_it(tmp_path: Path, archives: Path) -> None:
    archives.mkdir(mode=0o755)
    with job(tmp_path, OWN_PACKAGE, *PINNED) as spec:
        archive = packed("venv-pack", spec, archives)
    assert archive.stat().st_mode & 0o777 == 0o600
    assert archives.stat().st_mode & 0o777 == 0o700
    assert list(archives.iterdir()) == [archive], "no lock and no unfinished file is left"


def test_a_second_job_builds_nothing_as_long_as_it_may_not_have_changed(
    tmp_path: Path, archives: Path
) -> None:
    said: list[str] = []
    for lines, age_s, builds in (
        (PINNED, 0, 1), (PINNED, 10**8, 0), (("six",), 0, 1), (("six",), 3000, 0),
        (("six",), 4000, 1),
    ):  # fmt: skip
        with job(tmp_path, OWN_PACKAGE, *lines) as spec:
            packing = described("venv-pack", spec)
            existing = archives / packing.file_name
            if existing.exists():
                os.utime(existing, (time.time(), time.time() - age_s))
            said.clear()
            assert pack(packing, spec, archives, said.append, max_age_s=3600) == existing
        assert len([line for line in said if "building" in line]) == builds, (lines, age_s)


def test_people_are_told_which_python_the_nodes_need(tmp_path: Path, archives: Path) -> None:
    said: list[str] = []
    with job(tmp_path, OWN_PACKAGE, *PINNED) as spec:
        pack(described("venv-pack", spec), spec, archives, said.append)
    assert any(os.path.realpath(sys.executable) in line for line in said)


def path_with_uv(folder: Path, first: str) -> str:
    """Return a PATH whose uv does something else first, in the words of a shell."""
    real = shutil.which("uv")
    assert real is not None
    folder.mkdir()
    (folder / "uv").write_text(f'#!/bin/sh\n{first}\nexec "{real}" "$@"\n')
    (folder / "uv").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def gated(folder: Path, gate: Path) -> str:
    """Return a PATH whose uv waits at a gate, a named pipe, before it makes an environment."""
    os.mkfifo(gate)
    return path_with_uv(folder, f'[ "$1" != venv ] || cat "{gate}"')


def test_two_processes_build_the_same_one_once(
    tmp_path: Path, archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = tmp_path / "count"
    monkeypatch.setenv("PATH", path_with_uv(tmp_path / "tools", f'echo "$1" >>"{count}"'))
    with job(tmp_path, OWN_PACKAGE, *PINNED) as spec:
        packing = described("venv-pack", spec)
        builds = [Collected(building(packing, spec, archives)) for _ in range(2)]
        paths = [build.all(120)[-1] for build in builds]
    assert paths[0] == paths[1]
    assert count.read_text().split().count("venv") == 1


def building(packing: Packing, spec: JobSpec, archives: Path) -> Iterator[Path]:
    """Return an iteration that yields the archive when it is built."""
    yield pack(packing, spec, archives, lambda _: None)


def test_an_installer_that_fails_is_quoted_and_leaves_nothing(
    tmp_path: Path, temporary: Path, archives: Path
) -> None:
    broken = {**OWN_PACKAGE, "own/backend.py": "raise SystemExit('this backend is broken')"}
    with job(tmp_path, broken, *PINNED) as spec, pytest.raises(ConfigError) as caught:
        packed("venv-pack", spec, archives)
    assert "installing dependencies failed" in str(caught.value)
    assert "this backend is broken" in str(caught.value)
    assert "'environment': 'build'" in str(caught.value)
    assert list(archives.iterdir()) == list(temporary.iterdir()) == []


def test_a_secret_that_a_requirement_needs_is_given_to_the_installer_and_not_shown(
    tmp_path: Path, archives: Path
) -> None:
    telling = {
        **OWN_PACKAGE,
        "own/backend.py": "import os\nraise SystemExit('it is ' + os.environ['OWN_TOKEN'])",
    }
    secrets = {"OWN_TOKEN": Secret.of("t0ps3cret", "a test")}
    with job(tmp_path, telling, *PINNED) as spec, pytest.raises(ConfigError) as caught:
        pack(described("venv-pack", spec), spec, archives, lambda _: None, secrets=secrets)
    assert "it is ***" in str(caught.value)
    assert "t0ps3cret" not in str(caught.value)


def test_what_takes_too_long_is_ended(
    tmp_path: Path, temporary: Path, archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    monkeypatch.setenv("PATH", gated(tmp_path / "tools", gate))
    with job(tmp_path, OWN_PACKAGE, *PINNED) as spec:
        packing = described("venv-pack", spec)
        with pytest.raises(ConfigError, match="took too long"):
            pack(packing, spec, archives, lambda _: None, timeout_s=2)
    assert nobody_waits_at(gate)
    assert list(archives.iterdir()) == list(temporary.iterdir()) == []


_PACK = """
import sys
from pathlib import Path
from tests.unit.packed_environments import OWN_PACKAGE, job, packed

folder = Path(sys.argv[1])
with job(folder / "projects", OWN_PACKAGE, "./own") as spec:
    packed("venv-pack", spec, folder / "archives")
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_client_that_is_stopped_leaves_no_installer_behind(
    tmp_path: Path, temporary: Path, archives: Path, number: signal.Signals
) -> None:
    gate = tmp_path / "gate"
    env = {**os.environ, "TMPDIR": str(temporary), "PATH": gated(tmp_path / "tools", gate)}
    root = Path(__file__).parents[2]
    client = subprocess.Popen(
        [sys.executable, "-c", _PACK, tmp_path], env=env, cwd=root, stderr=subprocess.DEVNULL
    )
    with opened(gate):  # as soon as uv waits there
        client.send_signal(number)
        client.wait(60)
    assert appears(lambda: nobody_waits_at(gate), timeout_s=20)
    if number is signal.SIGINT:
        assert list(temporary.iterdir()) == list(archives.iterdir()) == []
    with job(tmp_path, OWN_PACKAGE, *PINNED) as spec:
        assert packed("venv-pack", spec, archives).exists(), "the next one is not in its way"


@contextmanager
def opened(gate: Path) -> Iterator[None]:
    """Hold a gate open for writing, once somebody waits there."""
    held: list[int] = []

    def holds() -> bool:
        with suppress(OSError):  # nobody reads there yet
            held.append(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
        return bool(held)

    assert appears(holds, timeout_s=120), "nobody has come to the gate"
    try:
        yield
    finally:
        os.close(held[0])


def nobody_waits_at(gate: Path) -> bool:
    try:
        os.close(os.open(gate, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return True
    return False


def test_who_waits_for_another_build_waits_no_longer_than_told(
    tmp_path: Path, archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    monkeypatch.setenv("PATH", gated(tmp_path / "tools", gate))
    said: list[str] = []
    with job(tmp_path, OWN_PACKAGE, *PINNED) as spec:
        packing = described("venv-pack", spec)
        first = Collected(building(packing, spec, archives))
        # The gate opens for writing as soon as the first one waits there.
        with opened(gate), pytest.raises(ConfigError, match="another process"):
            pack(packing, spec, archives, said.append, timeout_s=0.5)
        assert first.all(120) == [archives / packing.file_name]
    assert any("waiting" in line for line in said)


def test_a_python_that_this_machine_lacks_is_named(
    tmp_path: Path, archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (os.environ["PATH"], "/usr/bin:/bin"):  # with uv, which could bring one, and not
        monkeypatch.setenv("PATH", path)
        with (
            job(tmp_path, OWN_PACKAGE, *PINNED, python="3.99") as spec,
            pytest.raises(ConfigError) as caught,
        ):
            packed("venv-pack", spec, archives)
        assert "wants Python 3.99, which this machine does not have" in str(caught.value)


def test_archives_that_nobody_used_for_weeks_go(tmp_path: Path, archives: Path) -> None:
    archives.mkdir()
    now_s = time.time()
    for name, used_s, built_s in (
        ("unused.tar.gz", now_s - 10**6, now_s - 10**6),
        ("used.tar.gz", now_s - 3600, now_s - 10**6),
        ("abandoned.tar.gz.1.part", now_s - 10**6, now_s - 10**6),
        ("growing.tar.gz.2.part", now_s, now_s),
        ("of-somebody-else", now_s - 10**6, now_s - 10**6),
    ):
        (archives / name).touch()
        os.utime(archives / name, (used_s, built_s))
    with job(tmp_path, OWN_PACKAGE, *PINNED) as spec:
        new = packed("venv-pack", spec, archives)
    left = {"used.tar.gz", "growing.tar.gz.2.part", "of-somebody-else", new.name}
    assert {path.name for path in archives.iterdir()} == left


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with job(tmp_path, OWN_PACKAGE, *PINNED) as spec, pytest.raises(ConfigError, match="own"):
        packed("venv-pack", spec, tmp_path / "link")


# -- conda ------------------------------------------------------------------------------------


def test_a_conda_environment_unpacked_elsewhere_runs_there(
    tmp_path: Path, archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{conda_from_here(tmp_path)}:{os.environ['PATH']}")
    conda = {"manager": "conda", "conda_file": "conda.yaml"}
    with job(tmp_path, {"conda.yaml": conda_yaml("python=3.11.4")}, **conda) as spec:
        archive = packed("conda-pack", spec, archives)
    there = localized(archive, tmp_path / "node")
    python = run(there, "python", "-c", "import json, sys; print(sys.prefix, sys.executable)")
    assert python == f"{there} {there}/bin/python"
    assert (there / "bin" / "tool").read_text().startswith("#!/usr/bin/env python\n")
    assert (there / "bin" / "conda-unpack").exists()


def test_conda_that_this_machine_lacks_is_named(
    tmp_path: Path, archives: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_uv(monkeypatch)
    conda = {"manager": "conda", "conda_file": "conda.yaml"}
    with (
        job(tmp_path, {"conda.yaml": conda_yaml("python=3.11.4")}, **conda) as spec,
        pytest.raises(ConfigError, match="this machine has neither conda, mamba nor micromamba"),
    ):
        packed("conda-pack", spec, archives)

"""Links are followed inside the project; what a bundle cannot hold is refused by its name."""

from __future__ import annotations

import os
import socket
import stat
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlflow_exec.errors import SourceTooLargeError
from mlflow_exec.source import bundle
from tests.unit.source_trees import LIMIT_BYTES, contents, names, refusal, write

NOBODY = 65534


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write(tmp_path / "project", {"MLproject": "name: wine\n", "train.py": "print(1)\n"})


def test_links_are_stored_as_what_they_lead_to(project: Path) -> None:
    write(project, {"data/a.csv": "1", "bin/tool": "x"})
    (project / "bin/tool").chmod(0o755)
    (project / "alias.py").symlink_to("train.py")
    (project / "tool").symlink_to("bin/tool")
    (project / "input").symlink_to(project / "data")

    with bundle(project, limit_bytes=LIMIT_BYTES) as made:
        stored = contents(made.path)
        with zipfile.ZipFile(made.path) as archive:
            modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}

    assert stored["alias.py"] == stored["train.py"]
    assert stored["input/a.csv"] == b"1"
    assert modes["tool"] == stat.S_IFREG | 0o755


def test_a_link_that_leads_outside_is_refused(project: Path, tmp_path: Path) -> None:
    write(tmp_path, {"outside.csv": "1"})
    (project / "in.csv").symlink_to("../outside.csv")

    assert refusal(project) == (
        f"{project}: the link 'in.csv' leads outside, to '../outside.csv'; copy what it points to "
        "into the project, or leave the link out with a .mlflowignore file"
    )


def test_a_neighbour_whose_name_begins_alike_is_outside(project: Path, tmp_path: Path) -> None:
    write(tmp_path / "project-2", {"a.csv": "1"})
    (project / "in.csv").symlink_to("../project-2/a.csv")

    assert "leads outside" in refusal(project)


def test_a_link_that_leads_to_nothing_is_refused(project: Path) -> None:
    (project / "gone.csv").symlink_to("nowhere")
    assert "'gone.csv' leads to nothing" in refusal(project)

    (project / ".mlflowignore").write_text("gone.csv\n")
    assert "gone.csv" not in names(project)


def test_a_link_to_itself_is_refused(project: Path) -> None:
    (project / "me").symlink_to("me")

    assert "'me' leads to nothing" in refusal(project)


@pytest.mark.parametrize("target", [".", "sub", "sub/deeper"])
def test_links_that_run_in_a_circle_are_refused(project: Path, target: str) -> None:
    write(project, {"sub/deeper/a": "1"})
    (project / "sub/deeper/link").symlink_to(project / target)

    assert "the link on the way to 'sub/deeper/link" in refusal(project)


def test_two_links_to_one_folder_are_no_circle(project: Path) -> None:
    write(project, {"data/a": "1"})
    (project / "x").symlink_to("data")
    (project / "y").symlink_to("data")

    assert {"data/a", "x/a", "y/a"} <= set(names(project))


def test_folders_that_multiply_by_links_are_refused_before_the_disk_is_full(project: Path) -> None:
    write(project, {"level0/a": "1"})
    for level in range(1, 60):
        (project / f"level{level}").mkdir()
        for link in "xy":
            (project / f"level{level}" / link).symlink_to(f"../level{level - 1}")

    with pytest.raises(SourceTooLargeError):
        bundle(project, limit_bytes=100_000)


def test_pipes_and_sockets_are_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(project / "pipe")
    assert "'pipe' is no file but a named pipe" in refusal(project)

    (project / "pipe").unlink()
    monkeypatch.chdir(project)  # the path of a socket may have 107 characters only
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert "'socket' is no file but a socket" in refusal(project)


def test_devices_are_refused(project: Path) -> None:
    assert "'null' is no file but a device" in refusal(project, {"null": Path("/dev/null")})


@pytest.fixture
def someone() -> Iterator[Path]:
    """A folder that anybody may enter, unlike pytest's."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.fixture
def no_root_rights() -> Iterator[None]:
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("closed", "message"),
    [
        ("data/a.csv", "'data/a.csv' cannot be read (Permission denied)"),
        ("data", "the folder 'data/' cannot be read (Permission denied)"),
        (".gitignore", ".gitignore: cannot be read (Permission denied)"),
    ],
)
def test_what_may_not_be_read_is_refused_by_name(
    someone: Path, no_root_rights: None, closed: str, message: str
) -> None:
    euid = os.geteuid()
    os.seteuid(os.getuid())
    write(someone, {"data/a.csv": "1", ".gitignore": "x\n"})
    (someone / closed).chmod(0)
    os.seteuid(euid)

    assert message in refusal(someone)


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such names")
def test_a_name_that_is_not_utf8_is_refused(project: Path) -> None:
    Path(os.fsdecode(os.fsencode(project) + b"/caf\xe9")).write_text("1")

    assert "the name 'caf\\udce9' is not UTF-8; rename the file" in refusal(project)


@pytest.mark.parametrize("path", ["missing", "project/train.py"])
def test_a_project_that_is_no_folder_is_refused(project: Path, path: str) -> None:
    assert str(project.parent / path) in refusal(project.parent / path)

"""Bundling a project: which files, in which form, under which name."""

from __future__ import annotations

import hashlib
import os
import random
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_exec.errors import SourceError, SourceTooLargeError
from mlflow_exec.source import bundle, write_zip
from tests.unit.source_trees import LIMIT_BYTES, contents, names, refusal, write


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files, empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    return write(tmp_path / "project", {"MLproject": "name: wine\n", "train.py": "print(1)\n"})


# The bundle


def test_a_bundle_tells_its_hash_its_size_and_how_many_files_it_has(project: Path) -> None:
    with bundle(project, limit_bytes=LIMIT_BYTES) as made:
        content = made.path.read_bytes()

    assert made.sha256 == hashlib.sha256(content).hexdigest()
    assert made.size_bytes == len(content)
    assert made.file_count == 2


def test_the_temporary_file_is_gone_after_use(project: Path, temporary: Path) -> None:
    with bundle(project, limit_bytes=LIMIT_BYTES) as made:
        assert list(temporary.iterdir()) == [made.path]
    made.close()

    assert not list(temporary.iterdir())


def test_a_refused_project_leaves_no_temporary_file(project: Path, temporary: Path) -> None:
    write(project, {"noise": random.Random(1).randbytes(20_000)})

    with pytest.raises(SourceTooLargeError):
        bundle(project, limit_bytes=10_000)

    assert not list(temporary.iterdir())


def test_the_same_files_give_the_same_bytes(tmp_path: Path) -> None:
    files = {"b/x": "1", "b/a": "2", "a": "3", "é/ü": "4"}
    first = write(tmp_path / "one", files)
    second = write(tmp_path / "two", dict(reversed(files.items())))
    old_umask = os.umask(0o077)
    try:
        third = write(tmp_path / "three", files)
    finally:
        os.umask(old_umask)
    for path in second.rglob("*"):
        os.utime(path, (1, 1))

    hashes = set()
    for made in (bundle(p, limit_bytes=LIMIT_BYTES) for p in (first, second, third)):
        with made:
            hashes.add((made.sha256, made.path.read_bytes()))

    assert len(hashes) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda project: write(project, {"train.py": "print(2)\n"}),
        lambda project: (project / "train.py").rename(project / "main.py"),
        lambda project: (project / "train.py").chmod(0o755),
    ],
    ids=["content", "name", "executable bit"],
)
def test_other_files_give_another_hash(project: Path, change: object) -> None:
    with bundle(project, limit_bytes=LIMIT_BYTES) as before:
        assert callable(change)
        change(project)
    with bundle(project, limit_bytes=LIMIT_BYTES) as after:
        assert before.sha256 != after.sha256


def test_every_entry_has_the_same_time(project: Path) -> None:
    with bundle(project, limit_bytes=LIMIT_BYTES) as made, zipfile.ZipFile(made.path) as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_files_keep_only_the_executable_bit(project: Path) -> None:
    (project / "run.sh").write_text("true\n")
    (project / "run.sh").chmod(0o4710)
    (project / "train.py").chmod(0o666)

    with bundle(project, limit_bytes=LIMIT_BYTES) as made, zipfile.ZipFile(made.path) as archive:
        modes = {info.filename: info.external_attr >> 16 for info in archive.infolist()}

    assert modes["run.sh"] == stat.S_IFREG | 0o755
    assert modes["train.py"] == stat.S_IFREG | 0o644


NEVER = {"mlruns", "mlartifacts", "__pycache__", "pyvenv.cfg", "conda-meta"}
file_names = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1, max_size=8
).filter(lambda name: name not in NEVER and not name.startswith((".", "mlflow.db")))
trees = st.recursive(
    st.binary(max_size=200),
    lambda inner: st.dictionaries(file_names, inner, max_size=4),
    max_leaves=10,
)


def flat(tree: object, prefix: str = "") -> Iterator[tuple[str, bytes]]:
    if isinstance(tree, dict):
        for name, inner in tree.items():
            yield from flat(inner, f"{prefix}/{name}" if prefix else name)
    elif isinstance(tree, bytes):
        yield prefix, tree


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tree=st.dictionaries(file_names, trees, min_size=1, max_size=4))
def test_any_tree_comes_out_of_the_zip_as_it_went_in(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, object]
) -> None:
    files = dict(flat(tree))
    if not files:
        return
    project = write(tmp_path_factory.mktemp("tree"), files)

    with bundle(project, limit_bytes=LIMIT_BYTES) as made:
        assert contents(made.path) == files
        assert made.file_count == len(files)


def test_the_system_unzips_what_was_bundled(project: Path, tmp_path: Path) -> None:
    write(project, {'with space/it\'s "é"': "x"})
    (project / "train.py").chmod(0o755)
    target = tmp_path / "out"

    with bundle(project, limit_bytes=LIMIT_BYTES) as made:
        subprocess.run(
            [sys.executable, "-m", "zipfile", "-e", str(made.path), str(target)], check=True
        )

    assert (target / 'with space/it\'s "é"').read_text() == "x"


# What is left out


def test_ignore_files_leave_files_out_and_mlflowignore_has_the_last_word(project: Path) -> None:
    write(
        project,
        {
            ".gitignore": "*.csv\nsecret/\n",
            ".mlflowignore": "!small.csv\nnotes.md\n",
            "large.csv": "1",
            "small.csv": "1",
            "notes.md": "1",
            "secret/key": "1",
            "sub/.gitignore": "!large.csv\n",
            "sub/large.csv": "1",
        },
    )

    assert names(project) == [
        *[".gitignore", ".mlflowignore", "MLproject", "small.csv"],
        *["sub/.gitignore", "sub/large.csv", "train.py"],
    ]


def test_a_project_in_a_repository_has_the_files_that_git_would_add(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    write(tmp_path, {".gitignore": ".env\n/examples/wine/out/\n"})
    project = write(
        tmp_path / "examples" / "wine",
        {"MLproject": "name: wine", ".env": "KEY=1", "out/model": "1", "src/out/a": "1"},
    )
    command = ["git", "-c", "core.excludesFile=", "ls-files", "-coz", "--exclude-standard"]
    listed = subprocess.run(command, cwd=project, capture_output=True, check=True).stdout

    assert names(project) == sorted(listed.decode().split("\0")[:-1]) == ["MLproject", "src/out/a"]


@pytest.mark.parametrize(
    "path",
    [
        *[".git/config", "sub/.git", "mlruns/0/meta.yaml", "sub/mlartifacts/x", "mlflow.db"],
        *["mlflow.db-wal", "sub/__pycache__/a.pyc", ".ipynb_checkpoints/a.ipynb"],
        *["env/pyvenv.cfg", "deep/er/conda/conda-meta/history"],
    ],
)
def test_what_never_belongs_to_a_project_cannot_be_brought_back(project: Path, path: str) -> None:
    write(project, {path: "x", ".mlflowignore": "!*\n"})

    assert names(project) == [".mlflowignore", "MLproject", "train.py"]


def test_a_virtual_environment_is_left_out_whole(project: Path) -> None:
    write(project, {"tools/pyvenv.cfg": "", "tools/lib/python/site.py": "1"})
    (project / ".venv").symlink_to(project / "tools")

    assert names(project) == ["MLproject", "train.py"]


def test_a_file_that_only_looks_like_a_local_store_is_kept(project: Path) -> None:
    write(project, {"mlruns": "a script", "mlruns.md": "x"})

    assert "mlruns" in names(project)
    assert "mlruns.md" in names(project)


def test_a_project_without_any_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path, {".gitignore": "*\n", "train.py": "1"})

    assert refusal(tmp_path) == (
        f"{tmp_path}: there is no file to send; the folder is empty or its ignore files "
        "(.gitignore, .mlflowignore) leave everything out; bring files back with '!name'"
    )


# The limit


def test_the_limit_is_for_the_zip_file(project: Path) -> None:
    write(project, {"zeros": b"\0" * 2_000_000})

    with bundle(project, limit_bytes=10_000) as made:
        assert made.size_bytes < 10_000
    with bundle(project, limit_bytes=made.size_bytes) as again:
        assert again.sha256 == made.sha256
    with pytest.raises(SourceTooLargeError):
        bundle(project, limit_bytes=made.size_bytes - 1)


def test_too_large_a_project_is_told_its_largest_folders(project: Path) -> None:
    noise = random.Random(1).randbytes(300_000)
    sizes = {f"small{n}/f": noise[: 1000 + n] for n in range(20)}
    write(project, {"data/raw/images/1": noise, "src/a.bin": noise[:50_000], **sizes})

    with pytest.raises(SourceTooLargeError) as caught:
        bundle(project, limit_bytes=100_000)
    first, *folders, last = str(caught.value).splitlines()

    assert first.startswith(f"{project}: the project is larger than the limit of 97.7 KiB")
    assert "found 24 files of 3" in first
    assert [line.split()[-1] for line in folders[:3]] == ["data/raw/images", "src", "small19"]
    assert folders[0].split()[:2] == ["293.0", "KiB"]
    assert len(folders) == 10
    assert ".mlflowignore" in last


def test_a_hopelessly_large_project_is_refused_without_reading_it(project: Path) -> None:
    with open(project / "huge", "wb") as file:
        file.truncate(1 << 40)

    with pytest.raises(SourceTooLargeError, match=r"1024\.0 GiB"):
        bundle(project, limit_bytes=LIMIT_BYTES)


# Files from elsewhere


def test_extra_files_and_folders_get_the_path_they_are_given(project: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", {"a.csv": "1", "in/b.csv": "2", ".gitignore": "*"})

    made = names(project, {"inputs/data": other, "one.csv": other / "a.csv"})

    assert made == [
        *["MLproject", "inputs/data/.gitignore", "inputs/data/a.csv", "inputs/data/in/b.csv"],
        *["one.csv", "train.py"],
    ]


def test_an_extra_path_that_the_project_has_is_refused(project: Path) -> None:
    message = refusal(project, {"train.py": project / "MLproject"})

    assert "two files are to be stored as 'train.py'" in message


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "a//b", "", ".", "a/"])
def test_an_extra_path_stays_inside_the_zip(project: Path, name: str) -> None:
    assert "is no path inside the zip file" in refusal(project, {name: project / "MLproject"})


def test_an_extra_folder_may_not_lead_outside_itself(project: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other", {"a": "1"})
    (other / "link").symlink_to(project)

    assert "the link 'data/link' leads outside" in refusal(project, {"data": other})


# Packages


def test_a_package_has_the_project_and_the_given_files(project: Path, tmp_path: Path) -> None:
    (project / "train.py").chmod(0o755)
    out = tmp_path / "package.zip"

    with bundle(project, limit_bytes=LIMIT_BYTES) as made:
        digest = write_zip(out, made, {".mlflow_exec/entry.py": b"pass\n"})
        again = write_zip(tmp_path / "again.zip", made, {".mlflow_exec/entry.py": b"pass\n"})

    assert digest == again == hashlib.sha256(out.read_bytes()).hexdigest()
    assert list(contents(out)) == sorted(contents(out))
    assert contents(out) == {
        ".mlflow_exec/entry.py": b"pass\n",
        "MLproject": b"name: wine\n",
        "train.py": b"print(1)\n",
    }
    with zipfile.ZipFile(out) as archive:
        assert archive.getinfo("train.py").external_attr >> 16 == stat.S_IFREG | 0o755


def test_a_package_without_further_files_is_the_bundle(project: Path, tmp_path: Path) -> None:
    with bundle(project, limit_bytes=LIMIT_BYTES) as made:
        assert write_zip(tmp_path / "package.zip", made, {}) == made.sha256


def test_a_package_needs_no_project(tmp_path: Path) -> None:
    write_zip(tmp_path / "package.zip", None, {"b": b"2", "a": b"1"})

    assert contents(tmp_path / "package.zip") == {"a": b"1", "b": b"2"}


def test_a_package_does_not_replace_a_file_of_the_project(project: Path, tmp_path: Path) -> None:
    with (
        bundle(project, limit_bytes=LIMIT_BYTES) as made,
        pytest.raises(SourceError, match=r"'train\.py' is a name that mlflow-exec uses itself"),
    ):
        write_zip(tmp_path / "package.zip", made, {"train.py": b""})

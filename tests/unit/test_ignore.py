"""Git's ignore rules, judged by git itself."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlflow_exec.ignore import IgnoreFile, ignored, parse, read_above, read_in

NAMES = ["a", "b", "ab", "a.c", "build", "é", "x y", "[a]", "a\\b", "-", "z\nq"]
PIECES = [
    *["a", "b", "x", "y", "é", ".c", "build", "*", "?", "**", "***", "/", " ", "\\ ", "\\*", "\\a"],
    *["[ab]", "[!a]", "[^-b]", "[a-c]", "[]a]", "[b-]", "[\\]a]", "[[:alpha:]]", "[:a:]", "["],
    *["!", "#"],
]

lines = st.one_of(
    st.tuples(
        st.sampled_from(["", "!", "/", "**/", "#"]),
        st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join),
        st.sampled_from(["", "/", "/**", "/*", " ", "\r"]),
    ),
    st.tuples(
        st.sampled_from(["", "!", "/"]),
        st.sampled_from(NAMES),
        st.sampled_from(["", "/", "/*", "/**"]),
    ),
).map("".join)
ignore_files = st.lists(lines, min_size=1, max_size=5).map("\n".join)
folders = st.recursive(
    st.just("file"),
    lambda inner: st.dictionaries(st.sampled_from(NAMES), inner, max_size=4).flatmap(
        lambda tree: st.one_of(
            st.just(tree), ignore_files.map(lambda rules: {**tree, ".gitignore": rules})
        )
    ),
    max_leaves=12,
).filter(lambda tree: isinstance(tree, dict))


def build(path: Path, tree: object) -> None:
    if isinstance(tree, dict):
        path.mkdir(exist_ok=True)
        for name, inner in tree.items():
            build(path / name, inner)
    else:
        path.write_bytes(str(tree).encode())


def kept_by_git(top: Path) -> set[bytes]:
    listing = subprocess.run(
        ["git", "-c", "core.excludesFile=", "ls-files", "-coz", "--exclude-standard"],
        cwd=top,
        capture_output=True,
        check=True,
    )
    return set(listing.stdout.split(b"\0")) - {b""}


def kept(top: Path, base: bytes = b"", above: tuple[IgnoreFile, ...] = ()) -> set[bytes]:
    rules = (*above, *read_in(str(top), [".gitignore"], base))
    found: set[bytes] = set()
    for entry in os.scandir(top):
        path = base + os.fsencode(entry.name)
        if entry.name == ".git" or ignored(path, is_folder=entry.is_dir(), files=rules):
            continue
        found |= kept(Path(entry.path), path + b"/", rules) if entry.is_dir() else {path}
    return found


@settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(tree=folders)
def test_any_tree_is_read_as_git_reads_it(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[str, object]
) -> None:
    top = tmp_path_factory.mktemp("tree")
    subprocess.run(["git", "init", "-q"], cwd=top, check=True)
    build(top, tree)

    assert kept(top) == kept_by_git(top)


def test_an_ignore_file_that_is_a_link_is_not_read(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    build(tmp_path, {"rules": "a\n", "a": "file"})
    (tmp_path / ".gitignore").symlink_to("rules")

    assert kept(tmp_path) == kept_by_git(tmp_path) == {b".gitignore", b"rules", b"a"}


@pytest.mark.parametrize(
    ("rules", "path", "expected"),
    [
        ("*.csv", "data/a.csv", True),
        ("/a.csv", "data/a.csv", False),
        ("data/*.csv", "deep/data/a.csv", False),
        ("**/data/*.csv", "deep/data/a.csv", True),
        ("data/**/a.csv", "data/a.csv", True),
        ("*.csv\n!a.csv", "a.csv", False),
        ("!a.csv\n*.csv", "a.csv", True),
        ("a.csv/", "a.csv", False),
        ("# a.csv", "# a.csv", False),
        ("\\# a.csv", "# a.csv", True),
        ("a.csv   ", "a.csv", True),
        ("a.csv\\ ", "a.csv ", True),
        ("a.csv\r\nb", "a.csv", True),
        ("\ufeffa.csv", "a.csv", True),
        ("[[:upper:]]?.csv", "Ab.csv", True),
        ("[", "[", False),
        ("a\\", "a\\", False),
    ],
)
def test_a_line_means_what_it_means_in_git(rules: str, path: str, expected: bool) -> None:
    files = [IgnoreFile(b"", parse(rules.encode()))]

    assert ignored(path.encode(), is_folder=False, files=files) is expected


def test_what_a_folder_brings_back_is_that_folder_and_not_all_that_lies_in_it(
    tmp_path: Path,
) -> None:
    files = [IgnoreFile(b"", parse(b"*.txt")), IgnoreFile(b"sub/", parse(b"!keep"))]

    assert not ignored(b"sub/keep", is_folder=True, files=files)
    assert ignored(b"sub/keep/a.txt", is_folder=False, files=files)


def test_a_project_inside_a_repository_obeys_the_rules_above_it(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    project = tmp_path / "deep" / "project"
    project.mkdir(parents=True)
    (tmp_path / ".gitignore").write_text("/deep/project/secret\n")
    (tmp_path / "deep" / ".gitignore").write_text("*.csv\n")

    prefix, rules = read_above(str(project), [".gitignore"])

    assert prefix == b"deep/project/"
    assert ignored(prefix + b"secret", is_folder=False, files=rules)
    assert ignored(prefix + b"x.csv", is_folder=False, files=rules)
    assert not ignored(prefix + b"train.py", is_folder=False, files=rules)

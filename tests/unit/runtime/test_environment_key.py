"""What an environment is known by: what decides what is in it, and nothing else."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from mlflow_exec.runtime.environment_key import EnvironmentKey, key_of
from mlflow_exec.runtime.job_order import EnvironmentSpec
from mlflow_exec.runtime.requirements import Uncacheable

COMMIT = "0123456789abcdef0123456789abcdef01234567"
INDEX = "https://{}packages.example/simple"


def key(project: Path, *lines: str, env: dict[str, str] | None = None, **spec: Any) -> str:
    return whole_key(project, *lines, env=env, **spec).digest


def whole_key(
    project: Path, *lines: str, env: dict[str, str] | None = None, **spec: Any
) -> EnvironmentKey:
    wanted = EnvironmentSpec(**{"manager": "virtualenv", "dependencies": lines, **spec})
    variables = {"HOME": str(project / "home"), "PATH": "/usr/bin:/bin", **(env or {})}
    return key_of(wanted, str(project), variables, "pip", sys.executable)


def reason(project: Path, *lines: str, **spec: Any) -> str:
    with pytest.raises(Uncacheable) as caught:
        key(project, *lines, **spec)
    return str(caught.value)


# -- what is in the key -----------------------------------------------------------------------


def test_the_same_words_in_another_folder_are_the_same_environment(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for project in (one, other):
        project.mkdir()
        (project / "requirements.txt").write_text("numpy==2.0.0\n-c constraints.txt\n")
        (project / "constraints.txt").write_text("six==1.16.0\n")
    assert key(one, "-r requirements.txt") == key(other, "-r requirements.txt")


@pytest.mark.parametrize("name", ["requirements.txt", "inner/more.txt", "inner/limits.txt"])
def test_every_file_that_is_referred_to_counts(tmp_path: Path, name: str) -> None:
    (tmp_path / "inner").mkdir()
    files = {
        "requirements.txt": "numpy==2.0.0\n--requirement=inner/more.txt\n",
        "inner/more.txt": "six==1.16.0\n-c limits.txt  # beside this file\n",
        "inner/limits.txt": "idna<4\n",
    }
    for path, text in files.items():
        (tmp_path / path).write_text(text)
    before = key(tmp_path, "-r requirements.txt")
    (tmp_path / name).write_text(files[name] + "certifi==2024.7.4\n")
    assert key(tmp_path, "-r requirements.txt") != before


def test_files_that_refer_to_each_other_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("-r b.txt\nsix==1.16.0")
    (tmp_path / "b.txt").write_text("-r a.txt\nidna==3.7")
    assert whole_key(tmp_path, "-r a.txt").pinned


@pytest.mark.parametrize(
    "changes",
    [
        {"manager": "uv"},
        {"python": "3.11"},
        {"build_dependencies": ("setuptools==70.0.0",)},
        {"env": {"PIP_INDEX_URL": INDEX.format("")}},
        {"env": {"UV_INDEX_STRATEGY": "unsafe-best-match"}},
        {"env": {"PIP_PRE": "1"}},
        {"env": {"CMAKE_ARGS": "-DGPU=on"}},
    ],
    ids=str,
)
def test_what_decides_the_result_is_in_the_key(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert key(tmp_path, "six==1.16.0", **changes) != key(tmp_path, "six==1.16.0")


@pytest.mark.parametrize(
    "name", ["PIP_CACHE_DIR", "UV_CACHE_DIR", "PIP_CERT", "PIP_DEFAULT_TIMEOUT", "MLFLOW_RUN_ID",
             "UV_INDEX_INTERNAL_PASSWORD", "PIP_PROGRESS_BAR", "UV_KEYRING_PROVIDER"],
)  # fmt: skip
def test_what_changes_nothing_is_not_in_the_key(tmp_path: Path, name: str) -> None:
    assert key(tmp_path, "six==1.16.0", env={name: "x"}) == key(tmp_path, "six==1.16.0")


def test_credentials_are_not_in_the_key(tmp_path: Path) -> None:
    def keys(credentials: str) -> set[str]:
        url = INDEX.format(credentials)
        (tmp_path / "home/.config/pip").mkdir(parents=True, exist_ok=True)
        by_variable = key(tmp_path, "six==1.16.0", env={"PIP_EXTRA_INDEX_URL": url})
        by_line = key(tmp_path, f"--index-url {url}", "six==1.16.0")
        expanded = {"INDEX_LOGIN": credentials}
        by_name = key(tmp_path, f"-i {INDEX.format('${INDEX_LOGIN}')}", "six==1.16.0", env=expanded)
        (tmp_path / "home/.config/pip/pip.conf").write_text(f"[global]\nindex-url = {url}\n")
        by_file = key(tmp_path, "six==1.16.0")
        (tmp_path / "home/.config/pip/pip.conf").unlink()
        return {by_variable, by_line, by_name, by_file, key(tmp_path, "six==1.16.0")}

    assert keys("me:s3cret@") == keys("you:0ther@")
    assert len(keys("me:s3cret@")) == 5, "but the index is"


@pytest.mark.parametrize("name", ["home/.config/pip/pip.conf", "home/.config/uv/uv.toml",
                                  "uv.toml", "pyproject.toml", "limits.txt"])  # fmt: skip
def test_the_installers_own_files_are_in_the_key(tmp_path: Path, name: str) -> None:
    env = {"PIP_CONSTRAINT": str(tmp_path / "limits.txt")}
    before = key(tmp_path, "six==1.16.0", env=env)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("[tool.uv]\nindex-strategy = 'first-index'\n")
    assert key(tmp_path, "six==1.16.0", env=env) != before


def test_a_pyproject_of_other_tools_is_not_in_the_key(tmp_path: Path) -> None:
    before = key(tmp_path, "six==1.16.0")
    (tmp_path / "pyproject.toml").write_text("[tool.ruff]\nline-length = 90\n")
    assert key(tmp_path, "six==1.16.0") == before


# -- what cannot be kept ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "-e .", "-e.", "--editable ./inner", "--editable=git+https://h/r@" + COMMIT, ".", "./inner",
        "../other", "inner/pack", "/opt/pack-1.0.tar.gz", "tiny-1.0-py3-none-any.whl", "~/pack",
        "tiny @ file:///opt/tiny.whl", "file:///opt/tiny.whl", "git+https://h/r.git",
        "git+https://h/r.git@main", "tiny @ git+ssh://git@h/r.git@v1.0", "tiny @ ./tiny",
        "git+https://h/r.git@0123456", "-r https://h/requirements.txt", "-r absent.txt",
        "--find-links ./wheels", "-f wheels", "--config-settings a=b", "--root /", "[x",
    ],
)  # fmt: skip
def test_what_may_change_behind_the_same_words_is_not_kept(tmp_path: Path, line: str) -> None:
    said = reason(tmp_path, "six==1.16.0", line)
    assert re.search(r"'.*'|absent\.txt", said)


@pytest.mark.parametrize("line", ["-e .", "git+https://h/r.git"])
def test_nor_behind_a_file(tmp_path: Path, line: str) -> None:
    (tmp_path / "requirements.txt").write_text(f"six==1.16.0\n{line}\n")
    reason(tmp_path, "-r requirements.txt")
    reason(tmp_path, build_dependencies=("-r requirements.txt",))


def test_no_password_is_in_the_reason(tmp_path: Path) -> None:
    said = reason(tmp_path, "tiny @ git+https://me:s3cret@h/r.git")
    assert "s3cret" not in said
    assert "tiny @ git+https://h/r.git" in said


@pytest.mark.parametrize(
    "line",
    [
        f"git+https://h/r.git@{COMMIT}", f"tiny @ git+ssh://git@h/r.git@{COMMIT}#subdirectory=s",
        "https://h/tiny-1.0.zip#sha256=" + "0" * 64, "six==1.16.0 --hash=sha256:" + "0" * 64,
        'six[extra, more] == 1.16.0 ; python_version >= "3.8"', "six===1.16.0", "six (==1.16.0)",
        "six>=1,==1.16.0", "# only a comment", "", "--no-binary :all:", "-i https://h/simple",
        "six==1.16.0 \\\n  --hash=sha256:" + "0" * 64, "--find-links /opt/wheels",
    ],
)  # fmt: skip
def test_what_means_the_same_for_ever_is_kept_for_ever(tmp_path: Path, line: str) -> None:
    assert whole_key(tmp_path, line).pinned


@pytest.mark.parametrize("line", ["six", "six>=1.16.0", "six==1.*", "six~=1.16", "six!=1.15",
                                  "https://h/tiny-1.0.zip", "six[extra]", "Six.Pack"])  # fmt: skip
def test_what_may_be_newer_tomorrow_is_kept_for_a_while(tmp_path: Path, line: str) -> None:
    assert not whole_key(tmp_path, line).pinned


def test_a_constraint_names_the_version_too(tmp_path: Path) -> None:
    (tmp_path / "limits.txt").write_text("Some_Pack==1.16.0\nother<3\n")
    assert whole_key(tmp_path, "some-pack>=1", "-c limits.txt").pinned
    assert not whole_key(tmp_path, "some-pack", "other", "-c limits.txt").pinned


def test_build_dependencies_may_be_of_any_version(tmp_path: Path) -> None:
    assert whole_key(tmp_path, "six==1.16.0", build_dependencies=("pip", "setuptools")).pinned


# -- conda ------------------------------------------------------------------------------------

CONDA = """
name: train
channels:
  - conda-forge
dependencies:
  - python=3.11
  - numpy=2.0.0=py311_0  # exactly
  - pip
  - pip:
      - six==1.16.0
"""


def conda(project: Path, text: str) -> EnvironmentKey:
    (project / "conda.yaml").write_text(text)
    return whole_key(project, manager="conda", conda_file="conda.yaml")


def test_a_conda_file_is_in_the_key(tmp_path: Path) -> None:
    before = conda(tmp_path, CONDA)
    assert before.pinned
    after = conda(tmp_path, CONDA.replace("2.0.0", "2.0.1"))
    assert (after.digest != before.digest, after.pinned) == (True, True)
    assert not conda(tmp_path, CONDA.replace("=2.0.0=py311_0", ">=2")).pinned
    assert not conda(tmp_path, CONDA.replace("six==1.16.0", "six")).pinned


@pytest.mark.parametrize(
    "text",
    [
        CONDA.replace("six==1.16.0", "-e ."),
        CONDA.replace("six==1.16.0", "-r absent.txt"),
        "dependencies: [python=3.11]\n",
        "dependencies:\n  - {pip: [six]}\n",
        "dependencies: &all\n  - python\n",
    ],
)
def test_a_conda_file_that_is_not_understood_is_not_kept(tmp_path: Path, text: str) -> None:
    with pytest.raises(Uncacheable):
        conda(tmp_path, text)


def test_a_conda_files_requirements_count(tmp_path: Path) -> None:
    text = CONDA.replace("six==1.16.0", "-r requirements.txt")
    (tmp_path / "requirements.txt").write_text("six==1.16.0")
    before = conda(tmp_path, text)
    (tmp_path / "requirements.txt").write_text("six==1.17.0")
    assert conda(tmp_path, text).digest != before.digest

"""What decides what is in a packed environment: read from the bundle, nothing is built."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import pytest

from mlflow_exec.errors import ConfigError, MissingExtraError
from mlflow_exec.schedulers.yarn import packing
from mlflow_exec.schedulers.yarn.packing import Packing, describe
from tests.unit.packed_environments import conda_yaml, described, job

FILES: dict[str, str | bytes] = {
    "requirements.txt": "-r more/inner.txt\n./own[extra]  # of the project\nsix==1.16.0\n",
    "more/inner.txt": "-c limits.txt\nidna==3.7\n",
    "more/limits.txt": "certifi==2024.7.4\n",
    "own/pyproject.toml": "[project]\nname = 'own'\nversion = '1.0'\n",
    "own/src/own.py": "VERSION = 1\n",
    "wheels/other-1.0-py3-none-any.whl": b"PK",
    "data/unrelated.csv": "1",
}
WHEEL = "./wheels/other-1.0-py3-none-any.whl"


def packing_of(
    folder: Path, *lines: str, kind: str = "venv-pack", changed: Any = None, **environment: Any
) -> Packing:
    with job(folder, {**FILES, **(changed or {})}, *lines, **environment) as spec:
        return described(kind, spec)


def refusal(folder: Path, *lines: str, kind: str = "venv-pack", **environment: Any) -> str:
    with job(folder, FILES, *lines, **environment) as spec, pytest.raises(ConfigError) as caught:
        describe(kind, spec)
    return str(caught.value)


def test_the_same_requirements_are_the_same_environment_whatever_the_code(tmp_path: Path) -> None:
    one = packing_of(tmp_path, "-r requirements.txt", WHEEL)
    other = {"main.py": "print('another program')", "data/unrelated.csv": "2"}
    assert packing_of(tmp_path, "-r requirements.txt", WHEEL, changed=other) == one
    assert one.file_name == f"{one.key[:40]}.tar.gz"
    assert len(one.key) == 64


@pytest.mark.parametrize("name", sorted(set(FILES) - {"data/unrelated.csv"}))
def test_every_file_that_the_requirements_lead_to_counts(tmp_path: Path, name: str) -> None:
    before = packing_of(tmp_path, "-r requirements.txt", WHEEL)
    content = FILES[name]
    plain = content if isinstance(content, bytes) else content.encode()
    longer = plain + b"\nchardet==5.0.0\n"
    after = packing_of(tmp_path, "-r requirements.txt", WHEEL, changed={name: longer})
    assert after.key != before.key


def test_a_new_file_of_a_local_package_counts(tmp_path: Path) -> None:
    before = packing_of(tmp_path, "./own")
    assert packing_of(tmp_path, "./own", changed={"own/src/new.py": ""}).key != before.key
    assert packing_of(tmp_path, "./own", changed={"owner/src/new.py": ""}).key == before.key


@pytest.mark.parametrize(
    "change",
    [
        {"manager": "uv"},
        {"python": "3.99"},
        {"build_dependencies": ["setuptools==70.0.0"]},
        {"changed": {"uv.toml": "index-strategy = 'unsafe-best-match'"}},
        {"changed": {"pyproject.toml": "[tool.uv]\nno-binary = true"}},
    ],
    ids=["manager", "python", "build dependencies", "uv.toml", "pyproject.toml"],
)
def test_whatever_else_changes_it_counts(tmp_path: Path, change: dict[str, Any]) -> None:
    before = packing_of(tmp_path, "six==1.16.0")
    assert packing_of(tmp_path, "six==1.16.0", **change).key != before.key


@pytest.mark.parametrize(
    ("what", "value"),
    [
        ("sys.executable", "/opt/other/bin/python"),
        ("sysconfig.get_platform", lambda: "linux-riscv64"),
        ("version", lambda _: "99.0"),
    ],
    ids=["where Python is", "platform", "packer"],
)
def test_this_machine_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, value: Any
) -> None:
    before = packing_of(tmp_path, "six==1.16.0")
    monkeypatch.setattr(f"{packing.__name__}.{what}", value)
    assert packing_of(tmp_path, "six==1.16.0").key != before.key


def test_the_index_of_packages_counts_without_its_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = []
    for index in ("https://a.example/", "https://me:old@b.example/", "https://me:new@b.example/"):
        monkeypatch.setenv("PIP_INDEX_URL", index)
        keys.append(packing_of(tmp_path, "six==1.16.0").key)
    assert keys[0] != keys[1] == keys[2]


@pytest.mark.parametrize(
    ("lines", "pinned"),
    [
        (["six==1.16.0", "./own", WHEEL], True),
        (["six>=1.16", "-c more/limits.txt"], False),
        (["certifi", "-c more/limits.txt"], True),
        (["-r https://elsewhere.example/requirements.txt"], False),
        (["git+https://elsewhere.example/x.git@main"], False),
        (["/opt/wheels/x-1.0-py3-none-any.whl"], False),
        ([], True),
    ],
)
def test_it_is_pinned_where_every_line_means_one_version(
    tmp_path: Path, lines: list[str], pinned: bool
) -> None:
    assert packing_of(tmp_path, *lines).pinned is pinned


def test_a_project_in_a_subdirectory_has_its_files_there(tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {
        "inner/requirements.txt": "../shared\n",
        "shared/setup.py": "1",
        "requirements.txt": "not this one",
    }
    keys = []
    for change in ({}, {"requirements.txt": "nor now"}, {"shared/setup.py": "2"}):
        changed = {**files, **change}
        with job(tmp_path, changed, "-r requirements.txt", subdirectory="inner") as spec:
            keys.append(described("venv-pack", spec).key)
    assert keys[0] == keys[1] != keys[2]


def test_a_conda_file_counts_with_what_pip_installs(tmp_path: Path) -> None:
    def of(*items: Any, **changed: str) -> Packing:
        files = {"conda.yaml": conda_yaml(*items), **changed}
        return packing_of(
            tmp_path, kind="conda-pack", changed=files, manager="conda", conda_file="conda.yaml"
        )

    pip = {"pip": ["-r more/inner.txt"]}
    one = of("python=3.11.4", "pip", pip)
    assert one.pinned
    assert of("python=3.11.5", "pip", pip).key != one.key
    assert of("python=3.11.4", "pip", pip, **{"more/inner.txt": "idna==3.8"}).key != one.key
    assert not of("python>=3.11", "pip", pip).pinned
    assert not of("python=3.11.4", {"pip": ["six"]}).pinned


def test_a_channels_password_does_not_count(tmp_path: Path) -> None:
    keys = []
    for channel in ("https://me:old@conda.example/c", "https://me:new@conda.example/c"):
        files = {"conda.yaml": f"channels: ['{channel}']\ndependencies: [python=3.11.4]\n"}
        conda = {"manager": "conda", "conda_file": "conda.yaml"}
        keys.append(packing_of(tmp_path, kind="conda-pack", changed=files, **conda).key)
    assert keys[0] == keys[1]


def test_a_project_without_dependencies_needs_none(tmp_path: Path) -> None:
    with job(tmp_path, {}, manager="local") as spec:
        assert describe("venv-pack", spec) is None


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["-r absent.txt"], "no 'absent.txt'"),
        (["./absent"], "no './absent'"),
        (["-r requirements.txt", "-e ./own"], "'-e ./own' is an editable requirement"),
        (["--editable=./own"], "editable"),
    ],
)
def test_what_cannot_be_packed_is_refused_at_once(
    tmp_path: Path, lines: list[str], words: str
) -> None:
    assert words in refusal(tmp_path, *lines)


def test_the_packer_has_to_fit_the_project(tmp_path: Path) -> None:
    assert "use 'venv-pack'" in refusal(tmp_path, "six", kind="conda-pack")
    conda = {"manager": "conda", "conda_file": "more/inner.txt"}
    assert "use 'conda-pack'" in refusal(tmp_path, **conda)
    assert "known: venv-pack, conda-pack" in refusal(tmp_path, kind="zip-pack")


def test_a_project_that_does_not_travel_has_no_files_to_read(tmp_path: Path) -> None:
    with job(tmp_path, FILES, "-r requirements.txt") as spec:
        with pytest.raises(ConfigError, match="another 'source'"):
            describe("venv-pack", replace(spec, bundle=None))
        order = {"environment": {"manager": "virtualenv", "dependencies": ["six==1.16.0"]}}
        assert described("venv-pack", replace(spec, bundle=None, order=order)).pinned


def test_a_packer_that_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(packing, "version", absent)
    with job(tmp_path, FILES, "six") as spec, pytest.raises(MissingExtraError) as caught:
        describe("venv-pack", spec)
    assert "'venv_pack'" in str(caught.value)
    assert "pip install 'mlflow-exec[yarn-venv]'" in str(caught.value)


def test_it_writes_no_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with job(tmp_path, FILES, "-r requirements.txt") as spec:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "there is no such folder"))
        described("venv-pack", spec)

"""A folder that MLflow logs: all of it comes, or what did not is named; and names of others."""

from __future__ import annotations

import ntpath
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlflow_exec.clients import pauses
from mlflow_exec.plugins.artifacts import ExecArtifactRepository
from tests.artifactory_server import TOKEN, ArtifactoryServer, Fault, artifactory


@pytest.fixture
def repository(tmp_path: Path) -> ExecArtifactRepository:
    found = get_artifact_repository(f"sqlite:///{tmp_path}/artifacts.db")
    assert isinstance(found, ExecArtifactRepository)
    return found


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """A folder with one file."""
    folder = tmp_path / "given"
    folder.mkdir()
    (folder / "a.txt").write_text("a")
    return folder


def kept(repository: ExecArtifactRepository, path: str | None = None) -> list[str]:
    found: list[str] = []
    for entry in repository.list_artifacts(path):
        found += kept(repository, entry.path) if entry.is_dir else [entry.path]
    return found


def refusal(repository: ExecArtifactRepository, folder: Path) -> str:
    with pytest.raises(MlflowException) as told:
        repository.log_artifacts(str(folder))
    return str(told.value)


def test_a_folder_that_is_not_there_or_is_none_is_no_success(
    repository: ExecArtifactRepository, given: Path
) -> None:
    typo = given / "typo"
    assert refusal(repository, typo) == f"{typo}: a folder is needed; there is nothing"
    said = "a folder is needed; it is none; log_artifact keeps a file"
    assert said in refusal(repository, given / "a.txt")
    assert kept(repository) == []


def test_what_stands_behind_links_comes_too(
    repository: ExecArtifactRepository, given: Path, tmp_path: Path
) -> None:
    (tmp_path / "other" / "deep").mkdir(parents=True)
    (tmp_path / "other" / "deep" / "weights.bin").write_text("w")
    (given / "one").symlink_to(tmp_path / "other")
    (given / "two").symlink_to(tmp_path / "other")
    (given / "b.txt").symlink_to(given / "a.txt")
    repository.log_artifacts(str(given))
    assert kept(repository) == [
        "a.txt", "b.txt", "one/deep/weights.bin", "two/deep/weights.bin",
    ]  # fmt: skip


def test_links_in_a_circle_are_named_and_the_files_are_sent(
    repository: ExecArtifactRepository, given: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.txt").write_text("b")
    (given / "there").symlink_to(other)
    (other / "back").symlink_to(given)
    said = refusal(repository, given)
    assert "1 of 3 files were not uploaded" in said
    assert f"{given}/there/back: it is a link to a folder that it is in" in said
    assert kept(repository) == ["a.txt", "there/b.txt"]


def test_what_is_no_regular_file_is_named_and_the_others_are_sent(
    repository: ExecArtifactRepository, given: Path
) -> None:
    os.mkfifo(given / "pipe")
    (given / "gone").symlink_to(given / "nowhere")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(given / "socket"))
        said = refusal(repository, given)
    assert "3 of 4 files were not uploaded" in said
    assert f"{given}/pipe: it is no regular file" in said
    assert f"{given}/socket: it is no regular file" in said
    assert f"{given}/gone: No such file or directory" in said
    assert kept(repository) == ["a.txt"]


def test_a_folder_that_cannot_be_read_is_named(
    repository: ExecArtifactRepository, given: Path
) -> None:
    name = "d" * 250
    at = os.open(given, os.O_RDONLY)
    for _ in range(20):  # its path is longer than a system takes, also from root
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)
    said = refusal(repository, given)
    assert "1 of 2 files were not uploaded" in said
    assert "File name too long" in said
    assert kept(repository) == ["a.txt"]


@pytest.fixture
def jfrog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ArtifactoryServer]:
    monkeypatch.setenv("MLFLOW_EXEC_ARTIFACTORY_HOST", "127.0.0.1")
    monkeypatch.setenv("ARTIFACTORY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("ARTIFACTORY_NO_SSL", "true")
    monkeypatch.setattr("mlflow_exec.storage.artifactory_http.PATIENCE_S", 0.1)
    (tmp_path / "jfrog").mkdir()
    with artifactory(tmp_path / "jfrog") as server:
        yield server


def test_a_system_that_cannot_be_reached_is_not_waited_for_by_every_file(
    jfrog: ArtifactoryServer, given: Path
) -> None:
    for number in range(200):
        (given / f"{number}.txt").write_text(f"{number}")
    jfrog.faults = [Fault("PUT", 503, times=10_000)]
    said = refusal(get_artifact_repository(jfrog.uri("x")), given)
    assert "201 of 201 files were not uploaded" in said
    untried = int(said.splitlines()[-1].split()[0])
    assert said.splitlines()[-1].endswith("were not tried any more, as there is no answer")
    assert 201 - 2 * 16 <= untried < 201


def test_one_file_that_is_not_to_be_had_does_not_stop_the_others(
    jfrog: ArtifactoryServer, given: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pauses, "_FIRST_S", 0.05)  # so that it has failed before most are sent
    for number in range(200):
        (given / f"{number}.txt").write_text(f"{number}")
    jfrog.faults = [Fault("PUT", 503, only="/0.txt", times=10_000)]
    repository = get_artifact_repository(jfrog.uri("x"))
    said = refusal(repository, given)
    assert "1 of 201 files were not uploaded" in said
    assert len(kept(repository)) == 200


def test_a_name_that_leaves_the_folder_here_is_refused(
    repository: ExecArtifactRepository,
    given: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (given / "C:evil.txt").write_text("a name as any other")
    repository.log_artifacts(str(given))
    assert kept(repository) == ["C:evil.txt", "a.txt"]
    found = repository.download_artifacts("C:evil.txt", str(tmp_path))
    assert Path(found).read_text() == "a name as any other"
    monkeypatch.setattr("mlflow_exec.plugins.artifacts._PATHS", ntpath)  # as on Windows
    for path in ("", "C:evil.txt"):
        with pytest.raises(MlflowException, match=r"'C:evil\.txt': on this system .* a drive"):
            repository.download_artifacts(path, str(tmp_path))

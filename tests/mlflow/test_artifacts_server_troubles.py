"""What MLflow's server tells its clients where the place of its artifacts is full or refuses it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from requests import HTTPError

from tests.conformance.small_disks import SIZE_BYTES, small_disk
from tests.databases import PASSWORD
from tests.file_servers import FileServer, apache, change_password
from tests.mlflow.artifact_places import by_webdav
from tests.servers import MlflowServer, mlflow_server

# MLflow's own store of runs, which is in the process of the tests here.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")


@pytest.fixture(scope="module")
def dav() -> Iterator[FileServer]:
    with apache() as server, small_disk(server.folder / "artifacts/small"):
        yield server


@pytest.fixture(scope="module")
def password(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file that MLflow's server has the password from."""
    file = tmp_path_factory.mktemp("secret") / "password"
    file.write_text(PASSWORD)
    return file


@pytest.fixture(scope="module")
def started(
    dav: FileServer, password: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    destination, variables = by_webdav(dav, "small")
    del variables["MLFLOW_EXEC_WEBDAV_PASSWORD"]
    variables["MLFLOW_EXEC_WEBDAV_PASSWORD_FILE"] = str(password)
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(folder, environment=variables, destination=destination) as server:
        yield server


@pytest.fixture
def server(started: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    mlflow.set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", started.url)
    return started


@pytest.fixture
def run_id(server: MlflowServer) -> str:
    """A run that has an artifact."""
    client = MlflowClient()
    run_id: str = client.create_run("0").info.run_id
    client.log_text(run_id, "before", "d/kept")
    return run_id


def test_a_full_disk_is_told_to_the_client_and_the_server_lives(
    server: MlflowServer, run_id: str, tmp_path: Path
) -> None:
    client = MlflowClient()
    for name in ("kept", "new"):
        (tmp_path / name).write_bytes(random.randbytes(4 * SIZE_BYTES))
        with pytest.raises(HTTPError, match="507 Insufficient Storage") as told:
            client.log_artifact(run_id, str(tmp_path / name), "d")
        assert told.value.response.status_code == 409
    assert server.artifacts(run_id, "d") == ["d/kept"]
    assert server.artifact(run_id, "d/kept") == b"before"
    client.log_text(run_id, "there is room for this", "d/small")
    assert server.artifact(run_id, "d/small") == b"there is room for this"


def test_a_password_that_has_expired_is_told_to_the_client_and_counts_once_it_is_renewed(
    server: MlflowServer, run_id: str, dav: FileServer, password: Path
) -> None:
    client, renewed = MlflowClient(), "another-password-that-nobody-may-see"
    root = client.get_run(run_id).info.artifact_uri
    change_password(dav.folder.parent / "users", renewed)
    asked: list[Callable[[], object]] = [
        lambda: client.log_text(run_id, "after", "d/kept"),
        lambda: client.log_text(run_id, "after", "d/new"),
        lambda: mlflow.artifacts.load_text(f"{root}/d/kept"),
    ]
    for ask in asked:
        with pytest.raises(HTTPError, match="401 Unauthorized") as told:
            ask()
        assert told.value.response.status_code == 409
        assert PASSWORD not in str(told.value) + told.value.response.text
    password.write_text(renewed)
    assert server.artifacts(run_id, "d") == ["d/kept"]
    assert server.artifact(run_id, "d/kept") == b"before"
    client.log_text(run_id, "after", "d/new")
    assert server.artifact(run_id, "d/new") == b"after"


def test_what_stands_in_the_way_is_told_to_the_client(run_id: str) -> None:
    with pytest.raises(HTTPError, match="there is a file of that name"):
        MlflowClient().log_text(run_id, "below a file", "d/kept/below")

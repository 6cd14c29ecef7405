"""Artifacts in our stores through MLflow itself: its functions, its command line, its server.

A store of each kind: databases, folders that are far away, buckets.
"""

from __future__ import annotations

import json
import os
import random
import socket
import subprocess
import sys
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlflow_exec.testing.collecting import until
from mlflow_exec.testing.served_models import save_model
from mlflow_exec.testing.stores import ODD_NAMES
from tests.artifactory_server import ArtifactoryServer, artifactory
from tests.clusters.pytest_kubernetes import unavailable
from tests.databases import PASSWORD, USER, DatabaseServer, postgresql
from tests.file_servers import FileServer, SshServer, apache, ssh_server
from tests.mlflow.artifact_places import KINDS, Place
from tests.object_servers import ObjectServer, azurite, gofakes3
from tests.servers import MlflowServer, mlflow_server

# MLflow's own store of runs, which is in the process of the tests here.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

# The server of MLflow 3.5 cannot send files whose names are not of ASCII, and answers 500 to what a
# repository refuses.
IS_OLD = mlflow.__version__.startswith("3.5.")

ARTIFACTS_API = "/api/2.0/mlflow-artifacts/artifacts"


@pytest.fixture(scope="module")
def database() -> Iterator[DatabaseServer]:
    with postgresql() as server:
        yield server


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with gofakes3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(scope="module")
def jfrog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ArtifactoryServer]:
    with artifactory(tmp_path_factory.mktemp("artifactory")) as server:
        yield server


@pytest.fixture(scope="module")
def dav() -> Iterator[FileServer]:
    with apache() as server:
        yield server


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    with azurite(tmp_path_factory.mktemp("azure")) as server:
        yield server


def place_of(request: pytest.FixtureRequest, name: str) -> Place:
    """Return a place of the kind that a fixture has as its parameter."""
    server, place = KINDS[request.param]
    return place(request.getfixturevalue(server), name)


@pytest.fixture(params=["sqlite", "postgresql", "sftp", "s3", "artifactory"])
def root(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """An artifact location, which this process may use."""
    uri, variables = f"sqlite:///{tmp_path}/artifacts.db", dict[str, str]()
    if request.param != "sqlite":
        uri, variables = place_of(request, tmp_path.name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return uri


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    mlflow.set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/tracking.db")
    return MlflowClient()


def folder_of(path: Path, is_for_server: bool = False) -> Path:
    """Return a folder with files of all kinds of names; for MLflow's server, of those it takes."""
    names = ["plain.txt", "deep/er/file.txt", *ODD_NAMES]
    if is_for_server:  # MLflow's client does not encode these characters
        names = [name for name in names if not set("%#?") & set(name)]
        names = [name for name in names if name.isascii() or not IS_OLD]
    for name in names:
        file = path / "given" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (path / "given" / "large.bin").write_bytes(random.randbytes(3_000_000))
    (path / "given" / "empty").write_bytes(b"")
    return path / "given"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_a_run_logs_comes_back(root: str, tracked: MlflowClient, tmp_path: Path) -> None:
    experiment = tracked.create_experiment("e", artifact_location=root)
    given = folder_of(tmp_path)
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_artifact(str(given / "plain.txt"))
        mlflow.log_artifacts(str(given), "all")
        mlflow.log_dict({"a": 1}, "made/a.json")
    found = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="all", dst_path=str(tmp_path)
    )
    assert contents(Path(found)) == contents(given)
    assert sorted(f.path for f in tracked.list_artifacts(run.info.run_id)) == [
        "all", "made", "plain.txt",
    ]  # fmt: skip
    assert mlflow.artifacts.load_dict(f"{run.info.artifact_uri}/made/a.json") == {"a": 1}
    assert tracked.list_artifacts(run.info.run_id, "plain.txt") == []
    with pytest.raises(MlflowException, match="'none'"):
        tracked.download_artifacts(run.info.run_id, "none")


def test_a_model_is_logged_and_loaded(root: str, tracked: MlflowClient, tmp_path: Path) -> None:
    experiment = tracked.create_experiment("e", artifact_location=root)
    code = save_model(tmp_path, 3)
    with mlflow.start_run(experiment_id=experiment) as run:
        mlflow.log_artifacts(str(code), "my model")
    again = mlflow.artifacts.list_artifacts(f"runs:/{run.info.run_id}/my model")
    assert "my model/MLmodel" in [found.path for found in again]
    loaded = mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/my model")
    assert list(loaded.predict(pd.DataFrame({"x": [1.5]}))) == [3]


def test_gc_removes_the_artifacts_of_deleted_runs_and_no_others(
    root: str, tracked: MlflowClient, tmp_path: Path
) -> None:
    experiment = tracked.create_experiment("e", artifact_location=root)
    runs = []
    for text in ("kept", "deleted"):
        with mlflow.start_run(experiment_id=experiment) as run:
            mlflow.log_text(text, "d/file.txt")
        runs.append(run.info)
    tracked.delete_run(runs[1].run_id)
    subprocess.run(
        [sys.executable, "-m", "mlflow", "gc", "--backend-store-uri", mlflow.get_tracking_uri()],
        check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    assert mlflow.artifacts.load_text(f"{runs[0].artifact_uri}/d/file.txt") == "kept"
    assert get_artifact_repository(runs[1].artifact_uri).list_artifacts() == []


# Each starts a server of MLflow's, which takes as long as all tests of one.
IN_LARGE = [pytest.param(kind, marks=pytest.mark.large) for kind in ("sftp", "webdav", "azure")]


@pytest.fixture(scope="module", params=["postgresql", *IN_LARGE])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[MlflowServer]:
    """A server that keeps its clients' artifacts in one of ours."""
    destination, variables = place_of(request, "of-the-server")
    folder = tmp_path_factory.mktemp("server")
    with mlflow_server(folder, environment=variables, destination=destination) as server:
        yield server


@pytest.fixture
def proxying(server: MlflowServer, monkeypatch: pytest.MonkeyPatch) -> MlflowServer:
    mlflow.set_tracking_uri(None)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    return server


def test_the_server_keeps_what_its_clients_send_without_credentials_of_theirs(
    proxying: MlflowServer, tmp_path: Path
) -> None:
    given = folder_of(tmp_path, is_for_server=True)
    with mlflow.start_run() as run:
        mlflow.log_artifacts(str(given), "all")
    assert run.info.artifact_uri.startswith("mlflow-artifacts:")
    found = mlflow.artifacts.download_artifacts(
        run_id=run.info.run_id, artifact_path="all", dst_path=str(tmp_path)
    )
    assert contents(Path(found)) == contents(given)


def test_what_a_client_breaks_off_is_not_kept_by_the_server(proxying: MlflowServer) -> None:
    with mlflow.start_run() as run:
        mlflow.log_text("before", "d/kept")
    folder = run.info.artifact_uri.replace("mlflow-artifacts:", ARTIFACTS_API, 1)
    address = urlsplit(proxying.url)
    for name in ("kept", "new"):
        with socket.create_connection((str(address.hostname), int(address.port or 0))) as client:
            client.sendall(
                f"PUT {folder}/d/{name} HTTP/1.1\r\nHost: {address.netloc}\r\n"
                f"Content-Length: 12000000\r\n\r\n".encode() + bytes(6_000_000)
            )
    log = proxying.dir / "server.log"
    told = "\nstarlette.requests.ClientDisconnect\n"
    until(lambda: log.read_text().count(told) == 2, "it has given up both")
    listed = MlflowClient().list_artifacts(run.info.run_id, "d")
    assert [found.path for found in listed] == ["d/kept"]
    assert mlflow.artifacts.load_text(f"{run.info.artifact_uri}/d/kept") == "before"


def test_a_large_file_streams_through_the_server_into_artifactory(
    jfrog: ArtifactoryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large").write_bytes(random.randbytes(12_000_000))
    (tmp_path / "server").mkdir()
    place, variables = KINDS["artifactory"][1](jfrog, "of-the-server")
    with mlflow_server(tmp_path / "server", environment=variables, destination=place) as server:
        mlflow.set_tracking_uri(None)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        with mlflow.start_run() as run:
            mlflow.log_artifact(str(tmp_path / "large"))
        found = mlflow.artifacts.download_artifacts(
            run_id=run.info.run_id, artifact_path="large", dst_path=str(tmp_path / "back")
        )
    assert Path(found).read_bytes() == (tmp_path / "large").read_bytes()
    puts = [headers for method, _, headers in jfrog.requests if method == "PUT"]
    assert IS_OLD or "chunked" in [headers.get("Transfer-Encoding") for headers in puts]


@pytest.mark.parametrize("server", ["postgresql"], indirect=True)
@pytest.mark.parametrize(
    "place", ["sqlite:///{folder}/other.db", "postgresql://127.0.0.1:{port}/postgres/elsewhere"]
)
def test_the_server_opens_no_other_place_for_a_client(
    proxying: MlflowServer, database: DatabaseServer, tmp_path: Path, place: str
) -> None:
    uri = place.format(folder=tmp_path, port=database.port)
    client = MlflowClient()
    run = client.create_run(client.create_experiment(tmp_path.name, artifact_location=uri))
    with pytest.raises(urllib.error.HTTPError) as refused:
        proxying.api("GET", f"artifacts/list?run_id={run.info.run_id}")  # as its page does
    with refused.value as answer:
        told = answer.read().decode()
    assert answer.code == (500 if IS_OLD else 400)
    assert IS_OLD or "lies outside of the artifact root" in told
    assert not (tmp_path / "other.db").exists()


def test_a_password_in_a_uri_works_with_a_warning_and_is_never_shown(
    database: DatabaseServer,
    tracked: MlflowClient,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    uri = f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{database.port}/postgres/{tmp_path.name}"
    repository = get_artifact_repository(uri)
    assert PASSWORD not in repr(repository)
    assert "a password in a URI is shown" in caplog.text
    (tmp_path / "a.txt").write_text("a")
    repository.log_artifact(str(tmp_path / "a.txt"))
    assert [f.path for f in repository.list_artifacts()] == ["a.txt"]
    with pytest.raises(MlflowException) as told:
        repository.download_artifacts("none", str(tmp_path))
    assert PASSWORD not in str(told.value) + caplog.text


def test_a_disk_that_is_full_leaves_no_half_of_a_download(
    root: str, tracked: MlflowClient, tmp_path: Path
) -> None:
    repository = get_artifact_repository(root)
    (tmp_path / "large").write_bytes(random.randbytes(3_000_000))
    repository.log_artifact(str(tmp_path / "large"))
    into = tmp_path / "full"
    into.mkdir()
    if os.getuid() != 0:
        unavailable("mounting a small disk needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(into)], check=True)
    try:
        with pytest.raises(MlflowException, match="No space left on device"):
            repository.download_artifacts("large", str(into))
        assert list(into.iterdir()) == []
    finally:
        subprocess.run(["umount", str(into)], check=True)


MEASURED = """
import resource, sys
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
import mlflow
uri, file, into = sys.argv[1:]
repository = get_artifact_repository(uri)
repository.list_artifacts()
def peak_mb():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
idle_mb = peak_mb()
repository.log_artifact(file)
sent_mb = peak_mb()
repository.download_artifacts("large", into)
print(sent_mb - idle_mb, peak_mb() - idle_mb)
"""


def test_memory_does_not_grow_with_the_size_of_a_file(
    root: str, tracked: MlflowClient, tmp_path: Path
) -> None:
    large, into = tmp_path / "large", tmp_path / "into"
    into.mkdir()
    with large.open("wb") as file:
        file.truncate(256 * 1024**2)
    words = [sys.executable, "-W", "ignore", "-c", MEASURED, root, str(large), str(into)]
    done = subprocess.run(words, check=True, capture_output=True, text=True, timeout=300)
    assert (into / "large").stat().st_size == large.stat().st_size
    assert [float(grown) < 100 for grown in done.stdout.split()] == [True, True], done.stdout


def test_installing_it_costs_no_import_of_a_client() -> None:
    program = (
        "import json, sys; import mlflow.store.artifact.artifact_repository_registry; "
        "print(json.dumps([m for m in sys.modules if m.startswith('mlflow_exec.storage') "
        "or m.split('.')[0] in ('psycopg', 'pymysql', 'asyncssh', 'smbclient', 'boto3', 'azure')]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )  # fmt: skip
    assert json.loads(done.stdout) == []

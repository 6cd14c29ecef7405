"""A model version may name any place as its source; a real server reads no other than its own."""

from __future__ import annotations

import io
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from mlflow_exec.storage.opening import open_store
from tests.servers import FileServer, MlflowServer, file_server, mlflow_server

# MLflow's own store of runs, which is in the process of the tests here.
pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")

SECRET = b"what only the operator may read"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    """A server that keeps artifacts in a database file; its operator refuses one host himself."""
    folder = tmp_path_factory.mktemp("server")
    refused = {"MLFLOW_CREATE_MODEL_VERSION_SOURCE_VALIDATION_REGEX": "^(?!.*refused.example)"}
    own = f"sqlite:///{folder}/own.db"
    with mlflow_server(folder, environment=refused, destination=own) as server:
        yield server


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Places that the server could read by its rights, each with a secret in it."""
    folder = tmp_path_factory.mktemp("outside")
    for place in (f"sqlite:///{folder}/other.db/models", f"file-plugin:{folder}/models"):
        open_store(place).put("MLmodel", io.BytesIO(SECRET))
    return folder


@pytest.fixture(scope="module")
def away() -> Iterator[FileServer]:
    """A server that a client would have the tracking server connect to."""
    with file_server() as away:
        away.files["/models/MLmodel"] = (200, SECRET)
        yield away


SOURCES = {
    "sqlite": "sqlite:///{folder}/other.db/models",
    "sqlite, as MLflow joins it": "sqlite:/{folder}/other.db/models",
    "file-plugin": "file-plugin:{folder}/models",
    "file-plugin, above": "file-plugin:{folder}",
    "webdav": "webdav://127.0.0.1:{port}/models",
    "artifactory": "artifactory://127.0.0.1:{port}/artifactory/models/a",
    "webhdfs": "webhdfs://127.0.0.1:{port}/models",
    "postgresql": "postgresql://127.0.0.1:{port}/models",
    "mssql": "mssql://127.0.0.1:{port}/models",
    "hf": "hf://models/team/model",
    "xet": "xet://team/model/main",
    "s3": "fsspec-s3://bucket/models",
    "sftp": "fsspec-sftp://127.0.0.1:{port}/models",
}


@pytest.mark.parametrize("kind", SOURCES)
def test_the_source_of_a_version_is_not_read_outside_of_the_roots(
    server: MlflowServer, outside: Path, away: FileServer, kind: str
) -> None:
    source = SOURCES[kind].format(folder=outside, port=away.url.rpartition(":")[2])
    name = kind.replace(",", "").replace(" ", "-")
    server.api("POST", "registered-models/create", {"name": name})
    server.api("POST", "model-versions/create", {"name": name, "source": source})
    copied = {"name": name, "source": f"models:/{name}/1"}  # another way to the same
    server.api("POST", "model-versions/create", copied)
    for version in ("1", "2"):
        status, told = refused(lambda v=version: get_version(server, name, v))  # type: ignore[misc]
        assert status == 400, told
        assert SECRET not in told
        assert b"lies outside of the artifact root and destination" in told
    assert away.requests == []


def test_mlflows_server_registers_no_source_whose_scheme_has_a_plus(server: MlflowServer) -> None:
    """Therefore they have a spelling without, which is the same place."""
    server.api("POST", "registered-models/create", {"name": "plus"})
    given = {"name": "plus", "source": "fsspec+s3://bucket/models"}
    status, told = refused(lambda: server.api("POST", "model-versions/create", given))
    assert status == 400
    assert b"Invalid model version source" in told


def test_a_location_of_an_experiment_is_no_way_around_it(
    server: MlflowServer, outside: Path
) -> None:
    place = f"file-plugin:{outside}/models"
    made = server.api("POST", "experiments/create", {"name": "x", "artifact_location": place})
    run = server.create_run(made["experiment_id"])
    given = {"name": "of-a-run", "source": f"runs:/{run['run_id']}/a", "run_id": run["run_id"]}
    server.api("POST", "registered-models/create", {"name": "of-a-run"})
    server.api("POST", "model-versions/create", given)
    for read in (
        lambda: get_version(server, "of-a-run", "1"),
        lambda: server.artifact(run["run_id"], "../MLmodel"),
        lambda: server.artifact(run["run_id"], "MLmodel"),
        lambda: server.artifacts(run["run_id"], ""),
    ):
        status, told = refused(read)
        assert status == 400, told
        assert SECRET not in told


@pytest.mark.parametrize("path", ["../other.db", "..%2Fother.db", "%2e%2e/a", "sqlite:////a.db"])
def test_the_proxied_routes_lead_nowhere_else(server: MlflowServer, path: str) -> None:
    url = f"{server.url}/api/2.0/mlflow-artifacts/artifacts/{path}"
    status, told = refused(lambda: urllib.request.urlopen(url, timeout=60).read())
    assert status in (400, 404), told
    assert SECRET not in told


def test_a_version_below_the_root_is_read(server: MlflowServer) -> None:
    place = f"sqlite:///{server.dir}/own.db/models"
    open_store(place).put("MLmodel", io.BytesIO(b"a model"))
    server.api("POST", "registered-models/create", {"name": "own"})
    server.api("POST", "model-versions/create", {"name": "own", "source": place})
    assert get_version(server, "own", "1") == b"a model"


def test_the_operator_refuses_sources_already_when_they_are_registered(
    server: MlflowServer,
) -> None:
    server.api("POST", "registered-models/create", {"name": "refused"})
    given = {"name": "refused", "source": "postgresql://refused.example/a"}
    status, told = refused(lambda: server.api("POST", "model-versions/create", given))
    assert status == 400
    assert b"Invalid model version source" in told


def test_a_registry_in_a_folder_refuses_by_itself_what_the_server_would_not_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = f"file-plugin:{tmp_path}/own"
    backend = f"file-plugin:{tmp_path}/runs"
    with mlflow_server(tmp_path, backend=backend, destination=own) as server:
        mlflow.set_tracking_uri(None)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        client = MlflowClient()
        client.create_registered_model("m")
        for source in ("file-plugin:/etc", "mssql://h/a", "fsspec-s3://b/a", "xet://a/b"):
            with pytest.raises(MlflowException, match="the source of a model version") as told:
                client.create_model_version("m", source)
            assert told.value.get_http_status_code() == 400
        assert client.create_model_version("m", f"{own}/model").version == "1"
        assert client.create_model_version("m", "s3://bucket/of-others").version == "2"
        assert client.create_model_version("m", "models:/m/1").version == "3"
        assert len(client.search_model_versions("name='m'")) == 3
    mlflow.set_tracking_uri(None)
    # Without a server it is the user's own folder.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", backend)
    assert str(MlflowClient().create_model_version("m", "file-plugin:/data/a").version) == "4"


def get_version(server: MlflowServer, name: str, version: str) -> bytes:
    query = urllib.parse.urlencode({"name": name, "version": version, "path": "MLmodel"})
    url = f"{server.url}/model-versions/get-artifact?{query}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        content: bytes = answer.read()
    return content


def refused(call: Callable[[], object]) -> tuple[int, bytes]:
    """Return the status and the text of an answer that refuses."""
    with pytest.raises(urllib.error.HTTPError) as told:
        call()
    with told.value as answer:
        return answer.code, answer.read()



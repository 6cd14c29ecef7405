"""Places of artifacts on servers of the tests, with what MLflow is given to reach them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.artifactory_server import TOKEN, ArtifactoryServer
from tests.databases import PASSWORD, USER, DatabaseServer
from tests.file_servers import FileServer, SshServer
from tests.object_servers import BUCKET, ObjectServer

_SQL = {
    "MLFLOW_EXEC_SQL_HOST": "127.0.0.1",
    "MLFLOW_EXEC_SQL_USER": USER,
    "MLFLOW_EXEC_SQL_PASSWORD": PASSWORD,
}
_JFROG = {
    "MLFLOW_EXEC_ARTIFACTORY_HOST": "127.0.0.1",
    "ARTIFACTORY_AUTH_TOKEN": TOKEN,
    "ARTIFACTORY_NO_SSL": "true",
}

Place = tuple[str, dict[str, str]]
"""An artifact location as somebody would give it, and the variables that it needs."""


def in_postgresql(database: DatabaseServer, name: str) -> Place:
    return f"postgresql://127.0.0.1:{database.port}/postgres/{name}", _SQL


def by_sftp(files: SshServer, name: str) -> Place:
    return f"fsspec+sftp://{files.user}@127.0.0.1:{files.port}{files.folder}/{name}", {
        "MLFLOW_EXEC_SSH_HOST": "127.0.0.1",
        "MLFLOW_EXEC_SSH_PRIVATE_KEY": files.private_key,
        "MLFLOW_EXEC_SSH_HOST_KEY": files.host_key,
    }


def by_webdav(dav: FileServer, name: str) -> Place:
    return f"webdav://127.0.0.1:{dav.port}/artifacts/{name}", {
        "MLFLOW_EXEC_WEBDAV_HOST": "127.0.0.1",
        "MLFLOW_EXEC_WEBDAV_USER": USER,
        "MLFLOW_EXEC_WEBDAV_PASSWORD": PASSWORD,
    }


def in_s3(bucket: ObjectServer, name: str) -> Place:
    return f"fsspec+s3://{BUCKET}/{name}", {
        "MLFLOW_S3_ENDPOINT_URL": bucket.url,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "a-secret-key",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def in_azure(blobs: ObjectServer, name: str) -> Place:
    variables = {"AZURE_STORAGE_CONNECTION_STRING": blobs.connection_string}
    return f"fsspec+abfs://{BUCKET}/{name}", variables


def in_artifactory(jfrog: ArtifactoryServer, name: str) -> Place:
    return jfrog.uri(name), _JFROG


KINDS: dict[str, tuple[str, Callable[[Any, str], Place]]] = {
    "postgresql": ("database", in_postgresql), "sftp": ("files", by_sftp),
    "webdav": ("dav", by_webdav), "s3": ("bucket", in_s3), "azure": ("blobs", in_azure),
    "artifactory": ("jfrog", in_artifactory),
}  # fmt: skip
"""What keeps artifacts: the fixture of its server, and a place there."""

"""Artifacts in HDFS, over its REST interface."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from mlflow_exec.clients.hadoop_config import HadoopConfig, read_config
from mlflow_exec.clients.hadoop_http import Json, find_login
from mlflow_exec.clients.webhdfs import WebHdfs
from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import ConflictError, NotFoundError
from mlflow_exec.storage.folders import Folders, FolderStore, Status
from mlflow_exec.storage.sent import Sent
from mlflow_exec.storage.shared import Connections
from mlflow_exec.uris import Location

# As Hadoop's own tools make them, with its usual mask.
_FILE, _FOLDER = "644", "755"


class HdfsFolders(Folders):
    """One HDFS, as one user."""

    def __init__(self, location: Location, credential: Credential) -> None:
        self._location = location
        self._credential = credential.of_user(location.user)
        self._made: WebHdfs | None = None

    @property
    def _hdfs(self) -> WebHdfs:
        if self._made is None:
            configured = os.environ.get("HADOOP_CONF_DIR")
            config = read_config(None) if configured else HadoopConfig(Path(), "", {})
            login = find_login(
                config,
                user=self._credential.get("user"),
                principal=self._credential.get("principal"),
                keytab=self._credential.get("keytab"),
            )
            port = "" if self._location.port is None else f":{self._location.port}"
            filesystem = f"{self._location.scheme.name}://{self._location.host}{port}"
            self._made = WebHdfs(config, login, filesystem)
        return self._made

    def write(self, path: str, content: Sent) -> int:
        """See `Folders`."""
        return self._hdfs.write(path, cast(BinaryIO, content), permission=_FILE)

    def read(self, path: str, start: int) -> tuple[Status, Iterator[bytes]]:
        """See `Folders`."""
        status, pieces = self._hdfs.open(path, start)
        return _status(status), pieces

    def status(self, path: str) -> Status | None:
        """See `Folders`."""
        found = self._hdfs.status(path)
        return None if found is None else _status(found)

    def list(self, path: str) -> dict[str, Status]:
        """See `Folders`."""
        found = self._hdfs.list(path)
        return {entry["pathSuffix"]: _status(entry) for entry in found if entry["pathSuffix"]}

    def make_folder(self, path: str) -> None:
        """See `Folders`."""
        self._hdfs.make_folder(path, _FOLDER)

    def replace(self, old: str, new: str) -> None:
        """See `Folders`."""
        if not self._hdfs.rename(old, new, overwrite=True):
            raise ConflictError(f"HDFS: {new}: a folder of that name is there")

    def remove_file(self, path: str) -> None:
        """See `Folders`."""
        if not self._hdfs.delete(path, recursive=False):
            raise NotFoundError(f"HDFS: {path}: there is no such file")

    def remove_folder(self, path: str) -> None:
        """See `Folders`."""
        self._hdfs.delete(path)


class HdfsStore(FolderStore):
    """Files in HDFS."""

    def __init__(self, location: Location, credential: Credential) -> None:
        super().__init__(location, credential, lambda: _SHARED.of(location, credential))


_SHARED = Connections(HdfsFolders)


def _status(found: Json) -> Status:
    return Status(
        found["type"] == "DIRECTORY", int(found["length"]), int(found["modificationTime"]) / 1000
    )

"""The artifacts of one run: a request for each file, and none to find out where they are.

MLflow's client asks for the run, and before a file is read for the list that it is in, each time
anew. Who ends hundreds of runs, or submits hundreds of jobs, has the run already.
"""

from __future__ import annotations

import shutil
import tempfile
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from mlflow import MlflowClient
from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri


class RunArtifacts:
    """Reads and writes a run's artifacts; each kind of store has errors of its own."""

    def __init__(self, client: MlflowClient, artifact_uri: str) -> None:
        """Ask nobody yet.

        Args:
            client: For the run's tracking server.
            artifact_uri: Where the run keeps its artifacts, as it says itself.
        """
        self._tracking_uri = client.tracking_uri
        self._uri = artifact_uri

    @cached_property
    def _repository(self) -> Any:
        uri = add_databricks_profile_info_to_artifact_uri(self._uri, self._tracking_uri)
        return get_artifact_repository(uri, tracking_uri=self._tracking_uri)

    def paths(self, folder: str) -> list[str]:
        """Return the files and folders in a folder; none where there is no such folder."""
        return [item.path for item in self._repository.list_artifacts(folder)]

    def download(self, path: str, folder: str) -> Path:
        """Put a file into a folder of this machine; raises where there is none."""
        file = Path(folder) / PurePosixPath(path).name
        self._repository._download_file(path, str(file))
        return file

    def read(self, path: str) -> bytes:
        """Return a file's content; raises where there is none."""
        with tempfile.TemporaryDirectory(prefix="mlflow-exec-") as folder:
            return self.download(path, folder).read_bytes()

    def find(self, path: str) -> bytes | None:
        """Return a file's content; None if there is none, or it cannot be had."""
        try:
            return self.read(path)
        except Exception:  # of the store's own kind
            return None

    def write(self, path: str, content: bytes | Path) -> None:
        """Write a file, in the place of an earlier one; a path is copied from there."""
        place = PurePosixPath(path)
        with tempfile.TemporaryDirectory(prefix="mlflow-exec-") as folder:
            file = Path(folder) / place.name
            if isinstance(content, Path):
                shutil.copyfile(content, file)
            else:
                file.write_bytes(content)
            self._repository.log_artifact(str(file), str(place.parent))

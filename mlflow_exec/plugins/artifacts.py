"""The artifact stores of mlflow-exec, as MLflow has them; `mlflow_exec.schemes` has the schemes.

MLflow imports this with each client, so what a store needs is imported when one is opened.
"""

from __future__ import annotations

import os
import posixpath
import uuid
from collections.abc import AsyncIterable, Iterator
from concurrent.futures import Future, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
)
from mlflow.store.artifact import artifact_repo
from mlflow.store.artifact.artifact_repo import ArtifactRepository, verify_artifact_path
from mlflow.utils.file_utils import ArtifactProgressBar

from mlflow_exec.errors import ArtifactNotFoundError, ConfigError, MlflowExecError

# MLflow 3.5 has none: its server goes by a file then.
_Streams: type = getattr(artifact_repo, "StreamUploadMixin", object)
_FAILURES_TOLD = 10
_FILES_AT_ONCE = 16


class ExecArtifactRepository(ArtifactRepository, _Streams):  # type: ignore[misc]
    """Files behind a `Location`.

    Attributes:
        store: What keeps them, a `mlflow_exec.storage.base.Store`.
    """

    def __init__(
        self,
        artifact_uri: str,
        tracking_uri: str | None = None,
        registry_uri: str | None = None,
        **_: Any,
    ) -> None:
        from mlflow_exec.storage.opening import open_store

        with as_mlflow():
            self.store = open_store(artifact_uri)
        # Without a password: MLflow shows it in its messages.
        super().__init__(str(self.store.location), tracking_uri, registry_uri)

    @property
    def max_workers(self) -> int:
        """So many files are sent or fetched at a time; they wait more than they compute."""
        return _FILES_AT_ONCE

    def log_artifact(self, local_file: str, artifact_path: str | None = None) -> None:
        """Keep a file in a folder of artifacts."""
        _keep(self.store, local_file, artifact_path)

    def log_artifacts(self, local_dir: str, artifact_path: str | None = None) -> None:
        """Keep all files of a folder; those that failed are named at the end."""
        verify_artifact_path(artifact_path)
        folder = os.path.abspath(local_dir)
        uploads: dict[Future[None], str] = {}
        with as_mlflow(), self.store.together() as store:
            for root, _folders, names in os.walk(folder):
                below = Path(root).relative_to(folder).as_posix()
                into = posixpath.normpath(posixpath.join(artifact_path or "", below))
                for name in names:
                    local = os.path.join(root, name)
                    future = self.thread_pool.submit(
                        _keep, store, local, None if into == "." else into
                    )
                    uploads[future] = local
            self._finish(uploads)

    def _finish(self, uploads: dict[Future[None], str]) -> None:
        failures = []
        try:
            with ArtifactProgressBar.files("Uploading artifacts", total=len(uploads)) as bar:
                for future in as_completed(uploads):
                    error = future.exception()
                    if error is None:
                        bar.update()
                    else:
                        failures.append(f"{uploads[future]}: {error}")
        finally:
            for future in uploads:
                future.cancel()
        if failures:
            more = len(failures) - _FAILURES_TOLD
            told = failures[:_FAILURES_TOLD] + ([f"and {more} more"] if more > 0 else [])
            text = "\n".join(told)
            raise MlflowException(
                f"{len(failures)} of {len(uploads)} files were not uploaded to "
                f"{self.artifact_uri}:\n{text}",
                error_code=INTERNAL_ERROR,
            )

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Return what stands directly in a folder; nothing of a file."""
        with as_mlflow():
            entries = self.store.entries(_folder(path))
        return [FileInfo(entry.path, entry.is_folder, entry.size_bytes) for entry in entries]

    def _download_file(self, remote_file_path: str, local_path: str | Path) -> None:
        """Bring one file; it is there as a whole, or not at all."""
        part = os.path.join(os.path.dirname(local_path), f".{uuid.uuid4().hex}.part")
        try:
            with as_mlflow(), open(part, "wb") as file:
                for piece in self.store.read(_folder(remote_file_path)):
                    file.write(piece)
            os.replace(part, local_path)
        except BaseException:
            with suppress(OSError):
                os.unlink(part)
            raise

    def delete_artifacts(self, artifact_path: str | None = None) -> None:
        """Remove a file, or a folder with all in it; none being there is fine."""
        with as_mlflow():
            self.store.delete(_folder(artifact_path))

    # -- for MLflow's server --------------------------------------------------------------------

    def log_artifact_from_stream(
        self, stream: BinaryIO, artifact_file_name: str, artifact_path: str | None = None
    ) -> None:
        """Keep what can be read as a file, without one on this machine."""
        path = joined(artifact_path, posixpath.basename(artifact_file_name))
        with as_mlflow():
            self.store.put(path, stream)

    async def log_artifact_from_async_stream(
        self,
        chunks: AsyncIterable[bytes],
        artifact_file_name: str,
        artifact_path: str | None = None,
    ) -> None:
        """Keep what comes as a file, without one on this machine."""
        from mlflow_exec.plugins.async_streams import in_a_thread

        def put(stream: BinaryIO) -> None:
            self.log_artifact_from_stream(stream, artifact_file_name, artifact_path)

        await in_a_thread(put, chunks)


def _keep(store: Any, local_file: str, artifact_path: str | None) -> None:
    path = joined(artifact_path, os.path.basename(local_file))
    with as_mlflow(), open(local_file, "rb") as content:
        store.put(path, content)


def _folder(path: str | None) -> str:
    return (path or "").rstrip("/")


def joined(folder: str | None, name: str) -> str:
    """Return the path of a file in a folder of artifacts, as MLflow gives both."""
    verify_artifact_path(folder)
    return posixpath.join(folder or "", name)


@contextmanager
def as_mlflow() -> Iterator[None]:
    """Turn our errors into MLflow's, by whose codes its server answers."""
    try:
        yield
    except ArtifactNotFoundError as error:
        raise MlflowException(str(error), error_code=RESOURCE_DOES_NOT_EXIST) from error
    except ConfigError as error:
        raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
    except MlflowExecError as error:
        raise MlflowException(str(error), error_code=INTERNAL_ERROR) from error

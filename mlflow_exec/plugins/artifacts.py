"""The artifact stores of mlflow-exec, as MLflow has them; `mlflow_exec.schemes` has the schemes.

MLflow imports this with each client, so what a store needs is imported when one is opened.
"""

from __future__ import annotations

import os
import posixpath
import stat
import time
import uuid
from collections.abc import AsyncIterable, Callable, Iterator
from concurrent.futures import Future, as_completed
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from mlflow.entities import FileInfo
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    ABORTED,
    INTERNAL_ERROR,
    INVALID_PARAMETER_VALUE,
    RESOURCE_DOES_NOT_EXIST,
    TEMPORARILY_UNAVAILABLE,
)
from mlflow.store.artifact import artifact_repo
from mlflow.store.artifact.artifact_repo import ArtifactRepository, verify_artifact_path
from mlflow.utils.file_utils import ArtifactProgressBar

from mlflow_exec.errors import (
    ArtifactError,
    ArtifactNotFoundError,
    ConfigError,
    MlflowExecError,
    UnreachableError,
)
from mlflow_exec.plugins.pace import Pace

# MLflow 3.5 has none: its server goes by a file then.
_Streams: type = getattr(artifact_repo, "StreamUploadMixin", object)
_FAILURES_TOLD = 10
_FILES_AT_ONCE = 16
# How this system reads paths.
_PATHS = os.path


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
        """Keep all files of a folder, also those behind links; what failed is named at the end.

        Raises:
            MlflowException: There is no such folder, or not all of it was sent; once the system
                cannot be reached, the rest is not tried.
        """
        verify_artifact_path(artifact_path)
        folder = os.path.abspath(local_dir)
        if not os.path.isdir(folder):
            is_file = os.path.exists(folder)
            given = "it is none; log_artifact keeps a file" if is_file else "there is nothing"
            raise MlflowException(
                f"{local_dir}: a folder is needed; {given}",
                error_code=INVALID_PARAMETER_VALUE,
            )
        files, failures = files_below(folder)
        uploads: dict[Future[bool], str] = {}
        with as_mlflow(), self.store.together() as store:
            sending = _Sending(partial(_keep, store))
            for local in files:
                below = Path(local).parent.relative_to(folder).as_posix()
                into = posixpath.normpath(posixpath.join(artifact_path or "", below))
                future = self.thread_pool.submit(
                    sending.send, local, None if into == "." else into
                )
                uploads[future] = local
            self._finish(uploads, failures)

    def _finish(self, uploads: dict[Future[bool], str], failures: list[str]) -> None:
        total, untried = len(uploads) + len(failures), 0
        try:
            with ArtifactProgressBar.files("Uploading artifacts", total=len(uploads)) as bar:
                for future in as_completed(uploads):
                    error = future.exception()
                    if error is not None:
                        failures.append(f"{uploads[future]}: {error}")
                    elif future.result():
                        bar.update()
                    else:
                        untried += 1
        finally:
            for future in uploads:
                future.cancel()
        if failures:
            more = len(failures) - _FAILURES_TOLD
            told = failures[:_FAILURES_TOLD] + ([f"and {more} more"] if more > 0 else [])
            if untried:
                told.append(f"{untried} were not tried any more, as there is no answer")
            text = "\n".join(told)
            raise MlflowException(
                f"{len(failures) + untried} of {total} files were not uploaded to "
                f"{self.artifact_uri}:\n{text}",
                error_code=INTERNAL_ERROR,
            )

    def list_artifacts(self, path: str | None = None) -> list[FileInfo]:
        """Return what stands directly in a folder; nothing of a file."""
        with as_mlflow():
            entries = self.store.entries(_folder(path))
            for entry in entries:
                _check_local(entry.path)
        return [FileInfo(entry.path, entry.is_folder, entry.size_bytes) for entry in entries]

    def _download_file(self, remote_file_path: str, local_path: str | Path) -> None:
        """Bring one file; it is there as a whole, or not at all."""
        with as_mlflow():
            _check_local(remote_file_path)
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


class _Sending:
    """Sends files from many threads, until the system cannot be reached any more."""

    def __init__(self, keep: Callable[[str, str | None], None]) -> None:
        self._keep = keep
        self._pace = Pace(_FILES_AT_ONCE)
        self._sent_s = time.monotonic()
        self._is_away = False

    def send(self, local: str, into: str | None) -> bool:
        """Send a file; False where that is not tried any more."""
        with self._pace.turn():
            return self._send(local, into)

    def _send(self, local: str, into: str | None) -> bool:
        if self._is_away:
            return False
        began_s = time.monotonic()
        try:
            self._keep(local, into)
        except MlflowException as error:
            # Of a system that answers meanwhile, it is this file that is not to be had: a lock.
            if _is_unreachable(error) and self._sent_s <= began_s:
                self._is_away = True
            raise
        self._sent_s = time.monotonic()
        return True


def _is_unreachable(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, UnreachableError):
        error = error.__cause__
    return error is not None


def files_below(folder: str) -> tuple[list[str], list[str]]:
    """Return the files in a folder and in those below, also behind links, as MLflow's local store.

    Returns:
        The paths of the files, and of what else is there, each with the reason why it is none: a
        pipe, which could be read for ever, or what may not be read.
    """
    files, failures = [], []
    waiting: list[tuple[str, frozenset[tuple[int, int]]]] = [(folder, frozenset())]
    while waiting:
        path, above = waiting.pop()
        try:
            status = os.stat(path)
            key = (status.st_dev, status.st_ino)
            if stat.S_ISREG(status.st_mode):
                files.append(path)
            elif not stat.S_ISDIR(status.st_mode):
                failures.append(f"{path}: it is no regular file")
            elif key in above:
                failures.append(f"{path}: it is a link to a folder that it is in")
            else:
                names = sorted(os.listdir(path), reverse=True)
                chain = above | {key}
                waiting += [(os.path.join(path, name), chain) for name in names]
        except OSError as error:
            failures.append(f"{path}: {error.strerror or error}")
    return files, failures


def _check_local(path: str) -> None:
    """Refuse a name that others gave and that leaves the folder that it is joined to here."""
    if _PATHS.isabs(path) or _PATHS.splitdrive(path)[0]:
        raise ArtifactError(
            f"{path!r}: on this system that is no name in a folder, but names a drive; fetch it "
            f"on another one, or remove it"
        )


def _folder(path: str | None) -> str:
    return (path or "").rstrip("/")


def joined(folder: str | None, name: str) -> str:
    """Return the path of a file in a folder of artifacts, as MLflow gives both."""
    verify_artifact_path(folder)
    return posixpath.join(folder or "", name)


@contextmanager
def as_mlflow() -> Iterator[None]:
    """Turn our errors into MLflow's, by whose codes its server answers.

    Its clients ask again, for minutes and with the whole file, where it answers 500 or 503, and do
    not tell why at the end. So only what can be well a moment later has such a code.
    """
    try:
        yield
    except ArtifactNotFoundError as error:
        raise MlflowException(str(error), error_code=RESOURCE_DOES_NOT_EXIST) from error
    except ConfigError as error:
        raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error
    except MlflowExecError as error:
        code = TEMPORARILY_UNAVAILABLE if _is_unreachable(error) else ABORTED
        raise MlflowException(str(error), error_code=code) from error

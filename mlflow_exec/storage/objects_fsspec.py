"""Buckets that fsspec has a file system for: Azure's blobs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import ClusterError, MlflowExecError, NotFoundError, UnreachableError
from mlflow_exec.registry import load
from mlflow_exec.storage.kept import Object
from mlflow_exec.storage.objects import PART_BYTES, Objects, ObjectStore, Upload
from mlflow_exec.storage.refusals import refusal
from mlflow_exec.storage.shared import Connections
from mlflow_exec.uris import Location

_REMOVED_AT_ONCE = 16
_TRIES = 5
# Listings are asked for anew: others write, too.
_FRESH: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}


class FsspecObjects(Objects):
    """One bucket by a file system of fsspec."""

    def __init__(self, location: Location, credential: Credential) -> None:
        self._location = location
        self._credential = credential
        self._bucket = location.host
        with self._asked(""):
            self._fs = self.make()

    @abstractmethod
    def make(self) -> Any:
        """Return the file system; asks nothing."""

    def put(self, key: str, content: bytes) -> None:
        """See `Objects`."""
        with self._asked(key):
            self._fs.pipe_file(self._path(key), content)

    def upload(self, key: str) -> Upload:
        """See `Objects`."""
        return _FileUpload(self, key)

    def read(self, key: str, start: int, end: int) -> tuple[bytes, Object]:
        """See `Objects`."""
        for _ in range(_TRIES):
            found = self.find(key)
            if found is None:
                raise NotFoundError(f"{self._bucket}: {key}: there is no such object")
            if start >= found.size_bytes:
                return b"", found
            with self._asked(key):
                path, last = self._path(key), min(end, found.size_bytes)
                content = bytes(self._fs.cat_file(path, start=start, end=last))
            if len(content) == last - start and self.find(key) == found:
                return content, found
        raise UnreachableError(f"{self._bucket}: {key}: it is replaced again and again")

    def find(self, key: str) -> Object | None:
        """See `Objects`."""
        try:
            with self._asked(key):
                found = self._fs.info(self._path(key))
        except NotFoundError:
            return None
        if found["type"] == "directory":
            return None
        version = str(found.get("ETag") or found.get("etag") or found.get("last_modified") or "")
        return Object(int(found["size"]), version)

    def list(self, prefix: str) -> Iterator[tuple[str, int | None]]:
        """See `Objects`."""
        folder = self._path(prefix).rstrip("/")
        try:
            with self._asked(prefix):
                found = self._fs.ls(folder, detail=True)
        except NotFoundError:
            return
        for entry in found:
            path = str(entry["name"])
            is_folder = entry["type"] == "directory" or path.endswith("/")  # a marker of one
            if path.rstrip("/").rpartition("/")[0] == folder:
                yield path.rstrip("/").rpartition("/")[2], None if is_folder else entry["size"]

    def keys(self, prefix: str) -> Iterator[str]:
        """See `Objects`."""
        with self._asked(prefix):
            found = self._fs.find(self._path(prefix).rstrip("/"))
        start = len(self._bucket) + 1
        return (path[start:] for path in found if path[start:].startswith(prefix))

    def remove(self, keys: Iterable[str]) -> None:
        """See `Objects`."""
        with ThreadPoolExecutor(_REMOVED_AT_ONCE, "mlflow-exec-remove") as pool:
            for removed in [pool.submit(self._remove, key) for key in keys]:
                removed.result()

    def _remove(self, key: str) -> None:
        # Not `rm`, which takes names for patterns.
        with suppress(NotFoundError), self._asked(key):
            self._fs.rm_file(self._path(key))

    def _path(self, key: str) -> str:
        return f"{self._bucket}/{key}"

    @contextmanager
    def _asked(self, what: str) -> Iterator[None]:
        """Turn what the SDK below says into errors of ours."""
        try:
            yield
        except MlflowExecError:
            raise
        except Exception as error:
            raise self._told(what, error) from error

    def _told(self, what: str, error: Exception) -> ClusterError:
        status, id_ = _http(error)
        said = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
        text = f"{self._bucket}: {what}: {said}" if what else f"{self._bucket}: {said}"
        if id_ and id_ not in text:
            text += f" (request {id_})"
        if isinstance(error, FileNotFoundError):
            return NotFoundError(text, status=status)
        if isinstance(error, PermissionError) or "redential" in said:
            status = 403
        return refusal(text, status, self._credential)


def _http(error: BaseException | None) -> tuple[int | None, str]:
    """Return code and id of the answer that an SDK's exception, or one before it, tells of."""
    while error is not None:
        told = getattr(error, "response", None)
        status = getattr(error, "status_code", None)
        if isinstance(status, int):  # azure
            headers = getattr(told, "headers", None) or {}
            return status, str(headers.get("x-ms-request-id") or "")
        error = error.__cause__ or error.__context__
    return None, ""


class _FileUpload(Upload):
    """By a file of fsspec, which sends a part whenever it has so much."""

    def __init__(self, objects: FsspecObjects, key: str) -> None:
        self._objects, self._key = objects, key
        with objects._asked(key):
            self._file = objects._fs.open(
                objects._path(key), "wb", block_size=PART_BYTES, autocommit=True
            )

    def write(self, part: bytes) -> None:
        with self._objects._asked(self._key):
            self._file.write(part)

    def commit(self) -> None:
        with self._objects._asked(self._key):
            self._file.close()

    def abort(self) -> None:
        self._file.closed = True  # so that nothing is made of what was sent


class AzureObjects(FsspecObjects):
    """A container of Azure's blobs, by adlfs."""

    def make(self) -> Any:
        """See `FsspecObjects`."""
        get = self._credential.get
        given = {
            "connection_string": get("connection_string"), "account_name": get("account"),
            "account_key": get("key_secret"), "sas_token": get("token"),
        }  # fmt: skip
        return load("adlfs:AzureBlobFileSystem", "azure")(
            **{name: value for name, value in given.items() if value},
            anon=False, assume_container_exists=True, **_FRESH,
        )  # fmt: skip

    def list(self, prefix: str) -> Iterator[tuple[str, int | None]]:
        """See `Objects`; adlfs itself does not see a folder that a blob has the name of."""
        client = self._fs.service_client.get_container_client(self._bucket)

        async def found() -> list[tuple[str, int | None]]:
            walked = client.walk_blobs(name_starts_with=prefix or None, delimiter="/")
            return [
                (blob.name[len(prefix) :].rstrip("/"), getattr(blob, "size", None))
                async for blob in walked
            ]

        with self._asked(prefix):
            return iter(load("fsspec.asyn:sync", "azure")(self._fs.loop, found))


class AzureStore(ObjectStore):
    """Files in a container of Azure's blobs."""

    def __init__(self, location: Location, credential: Credential) -> None:
        super().__init__(location, credential, _AZURE.of(location, credential))


_AZURE = Connections(AzureObjects)

"""A container of Azure's blobs, by the client of adlfs, fsspec's file system for them.

adlfs finds the credential and runs the client; the requests are made here, as its files hold more
in memory, and ask more often.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from typing import Any, TypeVar

from mlflow_exec.credential_sources import Credential
from mlflow_exec.errors import (
    AccessDeniedError,
    ClusterError,
    ConflictError,
    NotFoundError,
    RejectedError,
    UnreachableError,
)
from mlflow_exec.registry import load
from mlflow_exec.storage.kept import Object
from mlflow_exec.storage.objects import Objects, ObjectStore
from mlflow_exec.storage.parts import PartsUpload, Upload
from mlflow_exec.storage.refusals import told_by
from mlflow_exec.storage.shared import Connections
from mlflow_exec.uris import Location

T = TypeVar("T")
_REMOVED_AT_ONCE = 16
_NO_RANGE = 416
_ABSENT = (404, 410)
_DENIED = (401, 403)
_LATER = (408, 425, 429)
# What adlfs itself writes, so that it takes a blob for a file without asking more.
_FILE = {"is_directory": "false"}


class AzureObjects(Objects):
    """One container."""

    def __init__(self, location: Location, credential: Credential) -> None:
        self._credential = credential
        self._bucket = location.host
        self._make = load("adlfs:AzureBlobFileSystem", "azure")
        self._sync = load("fsspec.asyn:sync", "azure")
        self._lock = threading.Lock()
        self._made: Any = None

    def put(self, key: str, content: bytes) -> None:
        """See `Objects`."""
        self.ask(
            key,
            lambda client: client.upload_blob(key, content, overwrite=True, metadata=_FILE),
        )

    def upload(self, key: str) -> Upload:
        """See `Objects`."""
        return _AzureUpload(self, key)

    def read(self, key: str, start: int, end: int) -> tuple[bytes, Object]:
        """See `Objects`."""

        async def content(client: Any) -> tuple[bytes, Any]:
            stream = await client.download_blob(key, offset=start, length=end - start)
            return bytes(await stream.readall()), stream.properties

        try:
            read, properties = self.ask(key, content)
        except RejectedError as error:
            found = self.find(key) if error.status == _NO_RANGE else None
            if found is None or found.size_bytes:
                raise
            return b"", found  # nothing is no range
        if _is_folder(properties):
            raise NotFoundError(f"{self._bucket}: {key}: it is a folder")
        size_bytes = int(str(properties.content_range).rpartition("/")[2])
        return read, Object(size_bytes, str(properties.etag))

    def find(self, key: str) -> Object | None:
        """See `Objects`."""
        try:
            found = self.ask(
                key, lambda client: client.get_blob_client(key).get_blob_properties()
            )
        except NotFoundError:
            return None
        return None if _is_folder(found) else Object(int(found.size), str(found.etag))

    def list(self, prefix: str) -> Iterator[tuple[str, int | None]]:
        """See `Objects`."""

        async def found(client: Any) -> list[tuple[str, int | None]]:
            walked = client.walk_blobs(
                name_starts_with=prefix or None, include=["metadata"], delimiter="/"
            )
            return [
                (blob.name[len(prefix) :].rstrip("/"), getattr(blob, "size", None))
                async for blob in walked
                if not _is_folder(blob)
            ]

        return iter(self.ask(prefix, found))

    def keys(self, prefix: str) -> Iterator[str]:
        """See `Objects`."""

        async def found(client: Any) -> list[str]:
            listed = client.list_blobs(name_starts_with=prefix or None, include=["metadata"])
            return [blob.name async for blob in listed if not _is_folder(blob)]

        return iter(self.ask(prefix, found))

    def remove(self, keys: Iterable[str]) -> None:
        """See `Objects`."""
        with ThreadPoolExecutor(_REMOVED_AT_ONCE, "mlflow-exec-remove") as pool:
            for removed in [pool.submit(self._remove, key) for key in keys]:
                removed.result()

    def _remove(self, key: str) -> None:
        with suppress(NotFoundError):
            self.ask(key, lambda client: client.delete_blob(key))

    # -- the client -------------------------------------------------------------------------

    def ask(self, what: str, action: Callable[[Any], Awaitable[T]]) -> T:
        """Do something with the client of the container, and return what is told.

        Args:
            what: For messages.
            action: Is given the client.
        """
        with self._asked(what):
            files = self._files()
            client = files.service_client.get_container_client(self._bucket)
            told: T = self._sync(files.loop, action, client)
            return told

    def _files(self) -> Any:
        with self._lock:
            if self._made is None:
                get = self._credential.get
                given = {
                    "connection_string": get("connection_string"), "account_name": get("account"),
                    "account_key": get("key_secret"), "sas_token": get("token"),
                }  # fmt: skip
                self._made = self._make(
                    **{name: value for name, value in given.items() if value},
                    anon=False, assume_container_exists=True, skip_instance_cache=True,
                )  # fmt: skip
            return self._made

    def _asked(self, what: str) -> AbstractContextManager[None]:
        """Turn what the SDK says into errors of ours."""
        return told_by(self._told, what)

    def _told(self, what: str, error: Exception) -> ClusterError:
        status, id_, code = _http(error)
        # What follows is the answer's XML, which says all of it once more.
        said = " ".join(str(error).split()).partition(" Content:")[0] or type(error).__name__
        text = f"{self._bucket}: {what}: {said}" if what else f"{self._bucket}: {said}"
        if id_ and id_ not in text:
            text += f" (request {id_})"
        signed = f"asked with the credential from {self._credential.source}"
        if code == "InvalidBlockList":  # the parts of all go once one of them is whole
            return ConflictError(
                f"{self._bucket}: {what}: another upload to that name finished first; upload it "
                f"again (request {id_})",
                status=status,
                reason=code,
            )
        if code == "ContainerNotFound":
            return RejectedError(text, status=status, reason=code)
        if status in _ABSENT:
            return NotFoundError(text, status=status)
        if status in _DENIED or "redential" in said:
            return AccessDeniedError(f"{text}; {signed}", status=status)
        if isinstance(error, ValueError) or isinstance(error.__cause__, ValueError):
            return RejectedError(f"{text}; {signed}")  # such as a key that is none
        if status is None or status in _LATER or status >= 500:
            return UnreachableError(text, status=status)
        return RejectedError(text, status=status)


def _http(error: BaseException | None) -> tuple[int | None, str, str]:
    """Return code, id and reason of the answer that an SDK's exception, or one before it, tells."""
    while error is not None:
        status = getattr(error, "status_code", None)
        if isinstance(status, int):
            headers = getattr(getattr(error, "response", None), "headers", None) or {}
            reason = getattr(error, "error_code", None) or headers.get("x-ms-error-code") or ""
            return status, str(headers.get("x-ms-request-id") or ""), getattr(
                reason, "value", str(reason)
            )
        error = error.__cause__ or error.__context__
    return None, "", ""


def _is_folder(blob: Any) -> bool:
    """Whether it stands for a folder, as in accounts that have such."""
    told = getattr(blob, "metadata", None) or {}
    return any(
        name.lower() in ("hdi_isfolder", "is_directory") and value == "true"
        for name, value in told.items()
    )


class _AzureUpload(PartsUpload):
    """Parts that are never made a blob of are removed by Azure after a week."""

    def __init__(self, objects: AzureObjects, key: str) -> None:
        super().__init__()
        self._objects, self._key = objects, key

    def send(self, number: int, part: bytes) -> str:
        id_ = uuid.uuid4().hex
        self._ask(lambda blob: blob.stage_block(id_, part, length=len(part)))
        return id_

    def finish(self, sent: Sequence[Any]) -> str:
        block = load("azure.storage.blob:BlobBlock", "azure")
        blocks = [block(id_) for id_ in sent]
        told = self._ask(lambda blob: blob.commit_block_list(blocks, metadata=_FILE))
        return str(told.get("etag") or "")

    def remove(self) -> None:
        pass

    def _ask(self, action: Callable[[Any], Awaitable[T]]) -> T:
        return self._objects.ask(
            self._key, lambda client: action(client.get_blob_client(self._key))
        )


class AzureStore(ObjectStore):
    """Files in a container of Azure's blobs."""

    def __init__(self, location: Location, credential: Credential) -> None:
        super().__init__(location, credential, lambda: _AZURE.of(location, credential))


_AZURE = Connections(AzureObjects)

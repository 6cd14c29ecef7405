"""A container of Azure's blobs, by Azure's own client.

Not by adlfs, fsspec's file system for them: it takes what a credential lacks from the environment,
so that a named one could be mixed with another; its files hold more in memory, and ask more often.
"""

from __future__ import annotations

import threading
import uuid
from base64 import b64encode
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from hashlib import md5
from typing import Any, TypeVar

import requests
from azure.core.credentials import AzureSasCredential
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.transport import RequestsTransport
from azure.storage.blob import BlobBlock, ContainerClient
from requests.adapters import HTTPAdapter

from mlflow_exec.clients.tls import tls_refusal
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
from mlflow_exec.storage.azure_urls import AzureUrls
from mlflow_exec.storage.kept import Object
from mlflow_exec.storage.objects import Objects, ObjectStore, remove_each
from mlflow_exec.storage.parts import PartsUpload, Upload
from mlflow_exec.storage.refusals import kind_of, told_by
from mlflow_exec.storage.shared import Connections
from mlflow_exec.uris import Location

T = TypeVar("T")
_CONNECTIONS = 64
_NO_RANGE = 416
_DENIED = (401, 403)
# It was changed on the way; it was replaced between two ranges, of which its client compares that.
_ONCE_MORE = ("Md5Mismatch", "ConditionNotMet")
# What adlfs writes, so that it takes a blob for a file without asking more.
_FILE = {"is_directory": "false"}


class AzureObjects(Objects):
    """One container."""

    def __init__(self, location: Location, credential: Credential) -> None:
        self._credential = credential
        self._bucket = location.host
        self._lock = threading.Lock()
        self._made: Any = None

    def put(self, key: str, content: bytes) -> None:
        """See `Objects`."""
        self.ask(
            key,
            lambda client: client.upload_blob(
                key, content, overwrite=True, metadata=_FILE, validate_content=True
            ),
        )

    def upload(self, key: str) -> Upload:
        """See `Objects`."""
        return _AzureUpload(self, key)

    def read(self, key: str, start: int, end: int) -> tuple[bytes, Object]:
        """See `Objects`."""

        def content(client: ContainerClient) -> tuple[bytes, Any]:
            stream = client.download_blob(
                key, offset=start, length=end - start, validate_content=True
            )
            return bytes(stream.readall()), stream.properties

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

        def found(client: ContainerClient) -> list[tuple[str, int | None]]:
            walked = client.walk_blobs(
                name_starts_with=prefix or None, include=["metadata"], delimiter="/"
            )
            return [
                (blob.name[len(prefix) :].rstrip("/"), getattr(blob, "size", None))
                for blob in walked
                if not _is_folder(blob)
            ]

        return iter(self.ask(prefix, found))

    def keys(self, prefix: str) -> Iterator[str]:
        """See `Objects`."""

        def found(client: ContainerClient) -> list[str]:
            listed = client.list_blobs(name_starts_with=prefix or None, include=["metadata"])
            return [blob.name for blob in listed if not _is_folder(blob)]

        return iter(self.ask(prefix, found))

    def remove(self, keys: Iterable[str]) -> None:
        """See `Objects`."""
        remove_each(self._remove, keys)

    def _remove(self, key: str) -> None:
        with suppress(NotFoundError):
            self.ask(key, lambda client: client.delete_blob(key))

    @property
    def urls(self) -> AzureUrls | None:
        """See `Objects`; nothing but the account's key signs."""
        get = self._credential.get
        string = get("connection_string")
        signs = "accountkey=" in string.lower() if string else get("key_secret")
        return AzureUrls(self, _FILE) if signs else None

    # -- the client -------------------------------------------------------------------------

    def ask(self, what: str, action: Callable[[ContainerClient], T]) -> T:
        """Do something with the client of the container, and return what is told.

        Args:
            what: For messages.
            action: Is given the client.
        """
        with self._asked(what):
            return action(self._client())

    def close(self) -> None:
        """See `Objects`; other stores have the connections, too."""

    def _client(self) -> ContainerClient:
        with self._lock:
            if self._made is None:
                self._made = self._connected()
            return self._made

    def _connected(self) -> ContainerClient:
        """Make a client by what the credential says, and by nothing else where it says a secret."""
        get, session = self._credential.get, requests.Session()
        session.auth = lambda request: request  # else ~/.netrc would be in the signature's place
        session.mount("https://", HTTPAdapter(pool_maxsize=_CONNECTIONS))
        session.mount("http://", HTTPAdapter(pool_maxsize=_CONNECTIONS))
        options = {
            "transport": RequestsTransport(session=session, session_owner=True),
            "connection_timeout": 15, "read_timeout": 60, "user_agent": "mlflow-exec",
            "retry_total": 0,  # it waits for 15 s at first; who asks here tries again himself
            "permit_redirects": False,  # a credential is for the host that it is given for
        }  # fmt: skip
        if string := get("connection_string"):
            return ContainerClient.from_connection_string(string, self._bucket, **options)
        account = get("account")
        if not account:
            raise AccessDeniedError(
                f"{self._bucket}: whose container it is has to be said: set "
                f"AZURE_STORAGE_ACCOUNT_NAME, or 'account' in the credential "
                f"(asked with that from {self._credential.source})"
            )
        secret: Any = get("key_secret")
        if secret is None and (token := get("token")):
            secret = AzureSasCredential(token)
        if secret is None and not self._credential.is_whole:
            secret = load("azure.identity:DefaultAzureCredential", "azure")()
        return ContainerClient(
            f"https://{account}.blob.core.windows.net", self._bucket, secret, **options
        )

    def _asked(self, what: str) -> AbstractContextManager[None]:
        """Turn what the SDK says into errors of ours."""
        return told_by(self._told, what)

    def _told(self, what: str, error: Exception) -> ClusterError:
        status, id_, code = _http(error)
        # What follows is the answer's XML, which says all of it once more.
        said = " ".join(str(error).split()).partition(" Content:")[0]
        said = said.removesuffix(" ErrorCode:None") or type(error).__name__
        text = f"{self._bucket}: {what}: {said}" if what else f"{self._bucket}: {said}"
        further = [f"HTTP {status}"] if status else []
        further += [f"request {id_}"] if id_ and id_ not in text else []
        text += f" ({', '.join(further)})" if further else ""
        signed = f"asked with the credential from {self._credential.source}"
        if code == "InvalidBlockList":  # the parts of all go once one of them is whole
            return ConflictError(
                f"{self._bucket}: {what}: another upload to that name finished first; upload it "
                f"again (request {id_})",
                status=status,
                reason=code,
            )
        refused = tls_refusal(  # Azure's client has it there, and not as a cause
            self._bucket, getattr(error, "inner_exception", None) or error,
            way_to_trust="set REQUESTS_CA_BUNDLE to a file with its authority",
            way_to_plain="the endpoint says whether it speaks TLS: http:// or https://",
        )  # fmt: skip
        if refused is not None:
            return refused
        if code in _ONCE_MORE:
            return UnreachableError(text, status=status, reason=code)
        if code == "ContainerNotFound":
            return RejectedError(text, status=status, reason=code)
        if status in _DENIED or isinstance(error, ClientAuthenticationError):
            return AccessDeniedError(f"{text}; {signed}", status=status)
        if isinstance(error, ValueError) or isinstance(error.__cause__, ValueError):
            return RejectedError(f"{text}; {signed}")  # such as a key that is none
        return kind_of(status)(text, status=status)


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
        # Azure compares it. The client itself would make it of bytes only, and this may be others.
        headers = {"Content-MD5": b64encode(md5(part, usedforsecurity=False).digest()).decode()}
        self._ask(lambda blob: blob.stage_block(id_, part, length=len(part), headers=headers))
        return id_

    def finish(self, sent: Sequence[Any]) -> str:
        blocks = [BlobBlock(id_) for id_ in sent]
        told = self._ask(lambda blob: blob.commit_block_list(blocks, metadata=_FILE))
        return str(told.get("etag") or "")

    def remove(self) -> None:
        pass

    def _ask(self, action: Callable[[Any], T]) -> T:
        return self._objects.ask(
            self._key, lambda client: action(client.get_blob_client(self._key))
        )


class AzureStore(ObjectStore):
    """Files in a container of Azure's blobs."""

    def __init__(self, location: Location, credential: Credential) -> None:
        super().__init__(location, credential, lambda: _AZURE.of(location, credential))


_AZURE = Connections(AzureObjects)

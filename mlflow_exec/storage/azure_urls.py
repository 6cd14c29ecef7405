"""URLs of Azure's blobs, signed by the key of their account ("service SAS")."""

from __future__ import annotations

import re
import uuid
from base64 import b64encode
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from azure.storage.blob import BlobBlock, generate_blob_sas

from mlflow_exec.errors import ConflictError, NotFoundError, RejectedError
from mlflow_exec.storage.signed_urls import SignedUrl, SignedUrls

if TYPE_CHECKING:
    from mlflow_exec.storage.objects_azure import AzureObjects

_UPLOAD_CHARS, _NUMBER_CHARS = 27, 5  # as many as our other blocks have: Azure wants them alike


class AzureUrls(SignedUrls):
    """The URLs of one container.

    An upload is only a name: its blocks begin with it, and become the blob at the end. Azure has no
    way to remove blocks without it; those of an upload that is given up are never seen, and gone
    after a week.
    """

    def __init__(self, objects: AzureObjects, file_metadata: Mapping[str, str]) -> None:
        """Keep the container, and the metadata of each blob that is made in it."""
        self._objects = objects
        self._metadata = dict(file_metadata)

    def get_url(self, key: str, life_s: int) -> SignedUrl:
        """See `SignedUrls`."""
        return SignedUrl(self._signed(key, "r", life_s))

    def put_url(self, key: str, life_s: int) -> SignedUrl:
        """See `SignedUrls`."""
        metadata = {f"x-ms-meta-{name}": value for name, value in self._metadata.items()}
        headers = {"x-ms-blob-type": "BlockBlob", **metadata}
        return SignedUrl(self._signed(key, "w", life_s), headers)

    def begin_parts(self, key: str) -> str:
        """See `SignedUrls`."""
        return uuid.uuid4().hex[:_UPLOAD_CHARS]

    def part_url(self, key: str, upload: str, number: int, life_s: int) -> SignedUrl:
        """See `SignedUrls`; it is good for all blocks of that blob, as signatures here are."""
        id_ = b64encode(_block(upload, number).encode()).decode()
        signed = self._signed(key, "w", life_s)
        return SignedUrl(f"{signed}&comp=block&blockid={quote(id_, safe='')}")

    def finish_parts(self, key: str, upload: str, etags: Mapping[int, str]) -> None:
        """See `SignedUrls`; blocks have no etags, so it is compared which have come."""
        if not re.fullmatch(f"[0-9a-f]{{{_UPLOAD_CHARS}}}", upload):
            raise RejectedError(f"{key}: {upload!r} is no upload; begin one anew")
        named = [_block(upload, number) for number in sorted(etags)]
        made_of, come = self._blocks(key)
        if named and made_of == named:  # by a request whose answer was lost
            return
        if set(named) != {id_ for id_ in come if id_.startswith(upload)}:
            raise ConflictError(
                f"{key}: not the {len(named)} parts that were named are there; maybe another "
                f"upload to that name finished first; upload it again"
            )
        blocks = [BlobBlock(id_) for id_ in named]
        self._objects.ask(
            key,
            lambda client: client.get_blob_client(key).commit_block_list(
                blocks, metadata=self._metadata
            ),
        )

    def abort_parts(self, key: str, upload: str) -> None:
        """See `SignedUrls`; Azure does, after a week."""

    def _blocks(self, key: str) -> tuple[list[str], list[str]]:
        """Return those that the blob is made of, and those that have come since."""
        try:
            made_of, come = self._objects.ask(
                key, lambda client: client.get_blob_client(key).get_block_list("all")
            )
        except NotFoundError:
            return [], []
        return [block.id for block in made_of], [block.id for block in come]

    def _signed(self, key: str, permission: str, life_s: int) -> str:
        def url(client: Any) -> str:
            plain = str(client.get_blob_client(key).url)
            token = generate_blob_sas(
                client.credential.account_name, client.container_name, key,
                account_key=client.credential.account_key, permission=permission,
                expiry=datetime.now(timezone.utc) + timedelta(seconds=life_s),
                # Over what is not encrypted, only where the endpoint is not either.
                protocol="https" if plain.startswith("https:") else "https,http",
            )  # fmt: skip
            return f"{plain}?{token}"

        return self._objects.ask(key, url)


def _block(upload: str, number: int) -> str:
    return f"{upload}{number:0{_NUMBER_CHARS}}"

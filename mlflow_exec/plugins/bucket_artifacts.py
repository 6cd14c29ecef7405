"""Artifacts in buckets that sign URLs: MLflow's server lets its clients go there themselves.

Clients ask for that by MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD and …_DOWNLOAD.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, cast

from mlflow.entities.multipart_upload import (
    CreateMultipartUploadResponse,
    MultipartUploadCredential,
    MultipartUploadPart,
)
from mlflow.store.artifact import artifact_repo
from mlflow.store.artifact.artifact_repo import MultipartUploadMixin

from mlflow_exec.errors import ConfigError
from mlflow_exec.plugins.artifacts import ExecArtifactRepository, as_mlflow, joined

if TYPE_CHECKING:
    from mlflow_exec.storage.objects import ObjectStore
    from mlflow_exec.storage.signed_urls import SignedUrls

_LIFE_S = 3600
_LONGEST_S = 7 * 24 * 3600
_MOST_PARTS = 10_000
# MLflow 3.5 has none of these.
_Downloads: type = getattr(artifact_repo, "MultipartDownloadMixin", type("_NoDownloads", (), {}))
_Uploads: type = getattr(artifact_repo, "PresignedUploadMixin", type("_NoUploads", (), {}))


class ExecBucketRepository(
    ExecArtifactRepository,
    MultipartUploadMixin,  # type: ignore[misc]
    _Downloads,  # type: ignore[misc]
    _Uploads,  # type: ignore[misc]
):
    """Files in a bucket, to which clients may be sent."""

    def create_multipart_upload(
        self, local_file: str, num_parts: int = 1, artifact_path: str | None = None
    ) -> CreateMultipartUploadResponse:
        """Begin an upload in parts, and sign a URL for each."""
        key = self._key(local_file, artifact_path)
        with as_mlflow():
            if not 0 < num_parts <= _MOST_PARTS:
                raise ConfigError(
                    f"{self.artifact_uri}: an upload has 1 to {_MOST_PARTS} parts; {num_parts} "
                    f"were asked for; MLFLOW_MULTIPART_UPLOAD_CHUNK_SIZE makes each larger"
                )
            upload = self.urls.begin_parts(key)
            signed = [
                self.urls.part_url(key, upload, number, _LIFE_S)
                for number in range(1, num_parts + 1)
            ]
        return CreateMultipartUploadResponse(
            upload_id=upload,
            credentials=[
                MultipartUploadCredential(
                    url=part.url, part_number=number, headers=dict(part.headers)
                )
                for number, part in enumerate(signed, 1)
            ],
        )

    def complete_multipart_upload(
        self,
        local_file: str,
        upload_id: str,
        parts: Iterable[MultipartUploadPart] = (),
        artifact_path: str | None = None,
    ) -> None:
        """Make the file of its parts."""
        named = [(int(part.part_number), str(part.etag)) for part in parts]
        key = self._key(local_file, artifact_path)
        with as_mlflow():
            if not named or sorted(number for number, _ in named) != [*range(1, len(named) + 1)]:
                raise ConfigError(
                    f"{self.artifact_uri}: {local_file!r}: the parts of an upload are numbered 1, "
                    f"2 and so on; {len(named)} with other numbers were named; upload it again"
                )
            self.urls.finish_parts(key, upload_id, dict(named))

    def abort_multipart_upload(
        self, local_file: str, upload_id: str, artifact_path: str | None = None
    ) -> None:
        """Remove the parts."""
        with as_mlflow():
            self.urls.abort_parts(self._key(local_file, artifact_path), upload_id)

    def get_download_presigned_url(self, artifact_path: str, expiration: int = 300) -> Any:
        """Sign a URL by which a file can be read."""
        from mlflow.entities.presigned_download import PresignedDownloadUrlResponse

        with as_mlflow():
            self._check_life(expiration)
            size_bytes = self.bucket.size_bytes(artifact_path)
            signed = self.urls.get_url(self.bucket.file_key(artifact_path), expiration)
        return PresignedDownloadUrlResponse(
            url=signed.url, headers=dict(signed.headers), file_size=size_bytes
        )

    def create_presigned_upload_url(self, artifact_path: str, expiration: int = 900) -> Any:
        """Sign a URL by which a file can be put."""
        from mlflow.entities.presigned_upload import CreatePresignedUploadResponse

        with as_mlflow():
            self._check_life(expiration)
            signed = self.urls.put_url(self.bucket.file_key(artifact_path), expiration)
        return CreatePresignedUploadResponse(
            presigned_url=signed.url, headers=dict(signed.headers)
        )

    @property
    def bucket(self) -> ObjectStore:
        """The store, which is one of objects."""
        return cast("ObjectStore", self.store)

    @property
    def urls(self) -> SignedUrls:
        """What signs."""
        urls = self.bucket.urls
        assert urls is not None, "made for buckets that sign"
        return urls

    def _check_life(self, life_s: int) -> None:
        """Refuse what some systems would sign for years, and others not at all."""
        if not 0 < life_s <= _LONGEST_S:
            raise ConfigError(
                f"{self.artifact_uri}: a URL lives for 1 to {_LONGEST_S} seconds; {life_s} were "
                f"asked for"
            )

    def _key(self, local_file: str, artifact_path: str | None) -> str:
        with as_mlflow():
            return self.bucket.file_key(joined(artifact_path, os.path.basename(local_file)))


def bucket_repository(
    artifact_uri: str, tracking_uri: str | None = None, registry_uri: str | None = None
) -> ExecArtifactRepository:
    """Return what keeps files in a bucket that signs with some credentials, and not with others.

    MLflow's server tells its clients by the class whether they may ask for URLs; those that were
    told so fail where they get none.
    """
    found = ExecBucketRepository(artifact_uri, tracking_uri, registry_uri)
    if found.bucket.urls is not None:
        return found
    return ExecArtifactRepository(artifact_uri, tracking_uri, registry_uri)

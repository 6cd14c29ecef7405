"""How the project reaches the job where the scheduler does not carry it itself."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

from mlflow_exec.credentials import Secret
from mlflow_exec.errors import ConfigError
from mlflow_exec.runs.artifacts import RunArtifacts
from mlflow_exec.runs.logs import FOLDER
from mlflow_exec.runs.project import Project
from mlflow_exec.runs.tracking import entry_can_write, is_proxied
from mlflow_exec.settings import BackendSettings
from mlflow_exec.source import Bundle

URL_VARIABLE = "MLFLOW_EXEC_SOURCE_URL"
_PRESIGNED_S = 24 * 3600


def check_artifact(
    artifact_root: str,
    tracking_uri: str,
    environment: Mapping[str, Any],
    *,
    carries_secrets: bool,
    otherwise: str,
) -> str:
    """Say how a job can fetch from an artifact store: ``proxied``, ``presigned`` or ``mlflow``.

    Args:
        artifact_root: The experiment's artifact location.
        tracking_uri: As the job sees it.
        environment: The job order's environment.
        carries_secrets: Whether the scheduler can hand the job a signed URL out of sight.
        otherwise: What else the scheduler offers, for the message.

    Raises:
        ConfigError: In no way; the message names the ways on.
    """
    if is_proxied(artifact_root) and entry_can_write(tracking_uri):
        return "proxied"
    scheme = urlsplit(artifact_root).scheme
    if scheme == "s3" and carries_secrets:
        return "presigned"
    if scheme in ("", "file"):
        raise ConfigError(
            f"source: artifact: the experiment's artifacts are in {artifact_root!r} on the "
            f"tracking server's own disk, where the job cannot fetch them; start the server with "
            f"--serve-artifacts, or {otherwise}"
        )
    if environment["manager"] == "local":
        return "mlflow"
    raise ConfigError(
        f"source: artifact: {scheme}:// needs MLflow to be fetched from, before the project's "
        f"environment is there; use an image with MLflow and --env-manager local, start the "
        f"tracking server with --serve-artifacts, or {otherwise}"
    )


def check_bundled(project: Project, packed: Bundle) -> None:
    """Refuse a file that a parameter names and an ignore file leaves out of the bundle.

    Raises:
        ConfigError: There is one; the message tells how to bring it back.
    """
    with zipfile.ZipFile(packed.path) as archive:
        names = archive.namelist()
    for name, parameter in project.entry_point["parameters"].items():
        value = parameter["value"]
        inside = value["bundled"] if isinstance(value, dict) else ""
        if inside and not any(n == inside or n.startswith(f"{inside}/") for n in names):
            raise ConfigError(
                f"parameter {name!r}: {inside} is left out of the project by .gitignore or "
                f".mlflowignore; bring it back by '!{inside}' in .mlflowignore"
            )


def directory_source(project: Project, settings: BackendSettings) -> dict[str, Any]:
    """Return the order's source for code that is in the image."""
    return {
        "kind": "directory",
        "path": getattr(settings, "source_path", "."),
        "copy": True,
        "subdirectory": project.subdirectory,
    }


def git_source(project: Project) -> dict[str, Any]:
    """Return the order's source for code that the job clones, at the commit that was read here.

    Raises:
        ConfigError: The project does not come from git.
    """
    if project.git is None:
        raise ConfigError(
            f"source: git: the project URI {project.uri!r} is not a git repository; give the "
            f"repository's URL (and --version), or another 'source'"
        )
    if "@" in urlsplit(project.git["uri"]).netloc and "://" in project.git["uri"]:
        given = urlsplit(project.git["uri"])
        # Over HTTP a user name alone is often a token.
        if given.password or given.scheme in ("http", "https"):
            raise ConfigError(
                "source: git: the project URI holds credentials, which everybody who sees the job "
                "could read; use 'git_secret'"
            )
    return {"kind": "git", **project.git, "subdirectory": project.subdirectory}


def upload(
    artifacts: RunArtifacts, artifact_uri: str, bundle: Bundle, way: str
) -> tuple[dict[str, Any], dict[str, Secret]]:
    """Put the bundle among the run's artifacts.

    Returns:
        What the order's source says of it, and the secrets that the job needs for it.
    """
    place = f"{FOLDER}/source-{bundle.sha256[:16]}.zip"
    artifacts.write(place, bundle.path)
    source: dict[str, Any] = {"kind": "archive", "sha256": bundle.sha256}
    if way == "proxied":
        return source | {"artifact_path": place}, {}
    if way == "presigned":
        url = _presign_s3(f"{artifact_uri.rstrip('/')}/{place}")
        secret = Secret.of(url, "a URL signed for this job")
        return source | {"url_env": URL_VARIABLE}, {URL_VARIABLE: secret}
    return source | {"mlflow_uri": f"{artifact_uri.rstrip('/')}/{place}"}, {}


def _presign_s3(uri: str) -> str:
    repository = get_artifact_repository(uri)
    bucket, key = repository.parse_s3_compliant_uri(uri)
    client = repository._get_s3_client()
    return str(
        client.generate_presigned_url(
            "get_object", Params={"Bucket": bucket, "Key": key}, ExpiresIn=_PRESIGNED_S
        )
    )

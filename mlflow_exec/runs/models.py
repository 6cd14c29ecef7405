"""The model of a deployment: pinned to what its URI means now, with what it needs."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import mlflow
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.utils.models import _parse_model_uri

from mlflow_exec import shipping
from mlflow_exec.credentials import without_credentials
from mlflow_exec.errors import ConfigError
from mlflow_exec.releases import Model, ModelPackage


class Pinned(NamedTuple):
    """What a model's URI means for ever; the fields are those of `Model`."""

    uri: str
    pinned_uri: str
    version: str


def pinned(uri: str, client: MlflowClient) -> Pinned:
    """Return what a model's URI means now.

    Raises:
        ConfigError: There is no such model, or the URI holds a password.
    """
    if without_credentials(uri) != uri:
        raise ConfigError("model_uri: it holds credentials, which everybody could read")
    try:
        if uri.startswith("models:/"):
            return Pinned(uri, *_registered(uri, client))
        if uri.startswith("runs:/"):
            run_id, _, path = uri.removeprefix("runs:/").strip("/").partition("/")
            client.get_run(run_id)
            return Pinned(uri, f"runs:/{run_id}/{path}", run_id[:8])
    except MlflowException as error:
        raise ConfigError(f"model_uri: {uri}: {error.message}") from error
    if urlsplit(uri).scheme in ("", "file"):
        given = Path(urlsplit(uri).path if uri.startswith("file:") else uri)
        folder = given.expanduser().absolute()
        if not (folder / "MLmodel").is_file():
            raise ConfigError(f"model_uri: {uri!r}: there is no file MLmodel in {str(folder)!r}")
        return Pinned(uri, folder.as_uri(), shipping.content_hash(folder)[0][:12])
    return Pinned(uri, uri, hashlib.sha256(uri.encode()).hexdigest()[:12])


def same(model: Pinned) -> Pinned:
    """Return what a URI meant before, if it still means that.

    Raises:
        ConfigError: It is a folder of this machine with other files by now.
    """
    if not model.pinned_uri.startswith("file:"):
        return model
    folder = Path(urlsplit(model.pinned_uri).path)
    if not (folder / "MLmodel").is_file() or not shipping.content_hash(folder)[0].startswith(
        model.version
    ):
        raise ConfigError(
            f"model_uri: the files in {str(folder)!r} are not those that were deployed; give a "
            f"model by '-m' / model_uri"
        )
    return model


def _registered(uri: str, client: MlflowClient) -> tuple[str, str]:
    parsed = _parse_model_uri(uri)
    if parsed.model_id is not None:
        client.get_logged_model(parsed.model_id)
        return f"models:/{parsed.model_id}", parsed.model_id
    if parsed.alias is not None:
        version = client.get_model_version_by_alias(parsed.name, parsed.alias).version
    elif parsed.version is not None:
        version = client.get_model_version(parsed.name, parsed.version).version
    else:
        stages = [parsed.stage] if parsed.stage else None
        latest = client.get_latest_versions(parsed.name, stages)
        if not latest:
            raise ConfigError(f"model_uri: {uri}: the model has no version")
        version = max(int(found.version) for found in latest)
    return f"models:/{parsed.name}/{version}", str(version)


@contextmanager
def prepared(model: Pinned, *, whole: bool, limit_bytes: int) -> Iterator[Model]:
    """Give a model with what its files say of it.

    Args:
        model: Which one.
        whole: Whether its files travel with the release; they are there as long as this holds.
        limit_bytes: How large they may be then.

    Raises:
        ConfigError: The model cannot be read, or is too large.
    """
    with tempfile.TemporaryDirectory(prefix="mlflow-exec-") as folder:
        path = _fetched(model.pinned_uri, folder, whole=whole)
        package = None
        if whole:
            sha256, size_bytes = shipping.content_hash(path)
            if size_bytes > limit_bytes:
                raise ConfigError(
                    f"model_uri: {model.uri}: it has {size_bytes} bytes, and {limit_bytes} can be "
                    f"sent along; log it to a tracking server that the target can reach, and give "
                    f"its URI there"
                )
            package = ModelPackage(path, sha256, size_bytes)
        lines = tuple(requirements_of(path))
        yield Model(*model, python_of(path), lines, package)


def _fetched(pinned_uri: str, folder: str, *, whole: bool) -> Path:
    """Return a folder with the model's files, or with those that say what it needs."""
    if pinned_uri.startswith("file:"):
        return Path(urlsplit(pinned_uri).path)
    try:
        if whole:
            return Path(mlflow.artifacts.download_artifacts(pinned_uri, dst_path=folder))
        there = {item.path for item in mlflow.artifacts.list_artifacts(pinned_uri)}
        names = {path.rpartition("/")[2] for path in there}
        found = mlflow.artifacts.download_artifacts(f"{pinned_uri}/MLmodel", dst_path=folder)
        if "requirements.txt" in names:  # not every model has them
            mlflow.artifacts.download_artifacts(f"{pinned_uri}/requirements.txt", dst_path=folder)
        return Path(found).parent
    except Exception as error:  # each artifact store has errors of its own
        raise ConfigError(f"model_uri: {pinned_uri}: it cannot be read: {error}") from error


def python_of(path: Path) -> str:
    """Return the minor version of Python that the model was logged with; empty if not told.

    Args:
        path: The folder with the model's files.

    Raises:
        ConfigError: They are not those of a model with the flavor python_function.
    """
    try:
        model = yaml.safe_load((path / "MLmodel").read_text(encoding="utf-8"))
        told = model["flavors"]["python_function"].get("python_version")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"model_uri: its file MLmodel has no flavor python_function, which is what is served: "
            f"{error}"
        ) from error
    return ".".join(str(told).split(".")[:2]) if told else ""


def requirements_of(path: Path) -> list[str]:
    """Return the lines of the model's ``requirements.txt``; not every model has one."""
    file = path / "requirements.txt"
    return file.read_text(encoding="utf-8").splitlines() if file.is_file() else []

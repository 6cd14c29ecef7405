"""Runs, models and artifacts in a folder: ``file-plugin:/path``, as of MLflow's test plugin.

That one is MLflow's file store under another name, which MLflow refuses by now unless it is
switched on. Here it is MLflow's own database store on a SQLite file in that folder, which is what
MLflow itself uses where nothing is set; so all of it works that works there.
"""

from __future__ import annotations

import os
from functools import wraps
from typing import Any

DATABASE = "mlflow.db"
"""The file in the folder."""
_SERVER_ROOT = "_MLFLOW_SERVER_ARTIFACT_ROOT"


def tracking_store(store_uri: str | None = None, artifact_uri: str | None = None) -> Any:
    """Return MLflow's store of runs in a folder, which is made; artifacts are in it, too.

    Args:
        store_uri: ``file-plugin:/path``.
        artifact_uri: Where artifacts are by default, if not in the folder.

    Raises:
        MlflowException: It names no folder, or one with runs of MLflow's file store.
    """
    from mlflow.tracking._tracking_service.utils import _get_sqlalchemy_store

    folder = _folder(store_uri)
    root = artifact_uri or os.environ.get(_SERVER_ROOT) or folder
    return _get_sqlalchemy_store(f"sqlite:///{folder}/{DATABASE}", root)


def registry_store(store_uri: str | None = None) -> Any:
    """Return MLflow's store of registered models in a folder; see `tracking_store`.

    In a server it takes no version of a model from a place of ours that the server does not open:
    MLflow has such a rule for the schemes of its own, and asks nobody about others.
    """
    from mlflow.tracking._model_registry.utils import _get_sqlalchemy_store

    store = _get_sqlalchemy_store(f"sqlite:///{_folder(store_uri)}/{DATABASE}")
    create = store.create_model_version

    @wraps(create)
    def checked(name: str, source: str, *arguments: Any, **named: Any) -> Any:
        _check_source(source)
        return create(name, source, *arguments, **named)

    store.create_model_version = checked
    return store


def _check_source(source: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.uri import get_uri_scheme

    from mlflow_exec.errors import LocationError
    from mlflow_exec.schemes import BY_NAME
    from mlflow_exec.server_policy import check_in_server, is_server
    from mlflow_exec.uris import Location

    # As MLflow finds who opens it: mssql+pyodbc, and all else with mssql, is for 'mssql'.
    ours = {"xet", *(get_uri_scheme(f"{name}://a") for name in BY_NAME)}
    scheme = get_uri_scheme(source).lower().replace("fsspec-", "fsspec+")
    if not is_server() or scheme not in ours:
        return
    try:
        check_in_server(Location.parse(source))
    except LocationError as error:
        raise MlflowException.invalid_parameter_value(
            f"the source of a model version: {error}"
        ) from error


def _folder(uri: str | None) -> str:
    from mlflow.exceptions import MlflowException

    from mlflow_exec.errors import LocationError
    from mlflow_exec.uris import Location

    try:
        location = Location.parse(uri or "")
    except LocationError as error:
        raise MlflowException.invalid_parameter_value(str(error)) from error
    folder = "/" + "/".join(location.names)
    if "?" in folder:
        raise MlflowException.invalid_parameter_value(
            f"{location}: SQLite cannot have a '?' in the path of its file; use another folder"
        )
    is_file_store = os.path.exists(os.path.join(folder, "0", "meta.yaml"))
    if is_file_store and not os.path.exists(os.path.join(folder, DATABASE)):
        raise MlflowException.invalid_parameter_value(
            f"{location}: the folder holds runs of MLflow's file store; move them into a database "
            f"by: mlflow migrate-filestore --source {folder} --target sqlite:///{folder}/{DATABASE}"
        )
    os.makedirs(folder, exist_ok=True)
    return folder

"""From a URI to the store behind it."""

from __future__ import annotations

from mlflow_exec import registry
from mlflow_exec.credential_sources import find_credential
from mlflow_exec.server_policy import check_in_server
from mlflow_exec.storage.base import Store
from mlflow_exec.uris import Location


def open_store(uri: str) -> Store:
    """Return the store of a location; asks nothing.

    Raises:
        LocationError: The URI is malformed, or not to be opened by a server.
        CredentialError: Its credential is not there, or may not be used.
        MissingExtraError: What it needs is not installed.
    """
    location = Location.parse(uri)
    check_in_server(location)
    credential = find_credential(location)
    scheme = location.scheme
    made: Store = registry.load(scheme.store, scheme.extra)(location, credential)
    return made

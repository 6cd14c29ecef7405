"""What an artifact location means here, what it is asked with, and whether that works."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress

from mlflow import MlflowClient
from mlflow.entities import ViewType

from mlflow_exec.credential_sources import NOTHING, Credential
from mlflow_exec.credentials import hide, holds_credentials, without_credentials
from mlflow_exec.errors import ArtifactError, MlflowExecError
from mlflow_exec.reports import Finding
from mlflow_exec.storage.base import Store
from mlflow_exec.storage.opening import open_store
from mlflow_exec.uris import Location


def diagnose_location(uri: str) -> Iterator[Finding]:
    """Yield what a URI means, where its credential is from, and what comes of a file there.

    One small file is written, listed, read and removed, in a folder of its own.
    """
    try:
        location = Location.parse(uri)
        yield Finding(True, "uri", f"{location}: {location.scheme.title}")
        store = open_store(uri)
        credential = store.credential
        yield Finding(True, "credential", _told(credential))
        yield Finding(True, "store", location.scheme.store)
    except Exception as error:  # whatever it is, it is what is looked for
        yield Finding(False, "location", _line(error))
        return
    yield from probe(store)


def _told(credential: Credential) -> str:
    """Return which fields are from where; where none is a secret, what takes its place."""
    names: dict[str, list[str]] = {}
    for name, value in sorted(credential.fields.items()):
        names.setdefault(value.source, []).append(name)
    told = [f"{', '.join(found)} from {source}" for source, found in names.items()]
    return "; ".join(told if credential.holds_secret else [*told, NOTHING.source])


def _line(error: Exception) -> str:
    """Return an error in one line; only ours say by themselves what they are about."""
    if isinstance(error, MlflowExecError):
        return str(error)
    return hide(" ".join(f"{type(error).__name__}: {error}".split()))


def probe(store: Store) -> Iterator[Finding]:
    """Yield what comes of a small file in a folder of its own, up to the first step that fails."""
    folder = f"mlflow-exec-doctor-{uuid.uuid4().hex}"
    path, content = f"{folder}/probe.txt", uuid.uuid4().bytes

    def listed() -> None:
        if [entry.path for entry in store.entries(folder)] != [path]:
            raise ArtifactError("what was written is not listed")

    def read() -> None:
        if b"".join(store.read(path)) != content:
            raise ArtifactError("what is read is not what was written")

    steps: dict[str, Callable[[], object]] = {
        "write": lambda: store.put(path, io.BytesIO(content)),
        "list": listed,
        "read": read,
        "delete": lambda: store.delete(folder),
    }
    for what, step in steps.items():
        try:
            step()
        except Exception as error:  # whatever it is, it is what is looked for
            yield Finding(False, what, _line(error))
            with suppress(Exception):
                store.delete(folder)
            return
        yield Finding(True, what, path)


def open_passwords(client: MlflowClient) -> Iterator[Finding]:
    """Yield the experiments whose artifact location holds a password, which everybody sees."""
    token = None
    while True:
        page = client.search_experiments(
            view_type=ViewType.ALL, max_results=1000, page_token=token
        )
        for experiment in page:
            if holds_credentials(experiment.artifact_location or ""):
                shown = without_credentials(experiment.artifact_location)
                yield Finding(
                    False, f"experiment {experiment.name!r}",
                    f"its artifact location holds a password: {shown}",
                    "Change that password; go on in an experiment at the same place with "
                    "?cred=NAME, see docs/artifacts.md.",
                )  # fmt: skip
        token = page.token
        if not token:
            return

"""What an artifact location means here, what it is asked with, and whether that works."""

from __future__ import annotations

import io
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress

from mlflow import MlflowClient
from mlflow.entities import ViewType

from mlflow_exec.credentials import holds_credentials, without_credentials
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
        names = ", ".join(sorted(credential.fields))
        yield Finding(True, "credential", f"{f'{names} from ' if names else ''}{credential.source}")
        yield Finding(True, "store", location.scheme.store)
    except MlflowExecError as error:
        yield Finding(False, "location", str(error))
        return
    yield from _probe(store)


def _probe(store: Store) -> Iterator[Finding]:
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
        except MlflowExecError as error:
            yield Finding(False, what, str(error))
            with suppress(MlflowExecError):
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

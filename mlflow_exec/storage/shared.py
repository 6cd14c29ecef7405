"""Connections that stores of one process have in common: MLflow makes a store for each call."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, TypeVar

from mlflow_exec.credential_sources import Credential
from mlflow_exec.uris import Location

T = TypeVar("T")
_KEPT = 100


class Connections(Generic[T]):
    """Those to one kind of system. Thread-safe; a forked process has its own."""

    def __init__(self, make: Callable[[Location, Credential], T]) -> None:
        """Keep what makes one; it asks nothing."""
        self._make = make
        self._lock = threading.Lock()
        self._made: dict[Any, T] = {}

    def of(self, location: Location, credential: Credential) -> T:
        """Return the one for what a location is reached by, as long as its credential is the same.

        Raises:
            CredentialError: The credential cannot be read now.
        """
        place = replace(location, names=location.split()[0], password=None)
        fields = sorted((name, credential.get(name)) for name in credential.fields)
        digest = hashlib.sha256(repr(fields).encode()).digest()
        key = (os.getpid(), place, credential.source, digest)
        with self._lock:
            found = self._made.get(key)
            if found is None:
                found = self._made[key] = self._make(location, credential)
                if len(self._made) > _KEPT:  # a credential that is changed often has many by then
                    del self._made[next(iter(self._made))]
            return found

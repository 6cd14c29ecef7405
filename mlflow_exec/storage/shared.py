"""Connections that stores of one process have in common: MLflow makes a store for each call."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Generic, TypeVar

from mlflow_exec.credential_sources import Credential
from mlflow_exec.uris import Location

T = TypeVar("T")
_KEPT = 100
_REMEMBERED_S = 3.0


class Connections(Generic[T]):
    """Those to one kind of system. Thread-safe; a forked process has its own."""

    def __init__(self, make: Callable[[Location, Credential], T]) -> None:
        """Keep what makes one; it asks nothing."""
        self._make = make
        self._begin()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
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
        key = (place, credential.source, digest)
        with self._lock:
            found = self._made.get(key)
            if found is None:
                found = self._made[key] = self._make(location, credential)
                if len(self._made) > _KEPT:  # a credential that is changed often has many by then
                    del self._made[next(iter(self._made))]
            return found


class OfProcess(Generic[T]):
    """One thing for as long as the process is the same: a forked one has to make its own."""

    def __init__(self, make: Callable[[], T]) -> None:
        """Make it, and keep how."""
        self._make = make
        self._made = os.getpid(), make()

    def get(self) -> T:
        """Return that of this process."""
        if self._made[0] != os.getpid():
            self._made = os.getpid(), self._make()
        return self._made[1]


class FailedBefore:
    """Tells all who wait for one connection that it has just failed, instead of each trying it."""

    def __init__(self) -> None:
        self._failed: tuple[float, Exception] | None = None

    def check(self) -> None:
        """Raise what was raised a moment ago."""
        if self._failed is not None and time.monotonic() < self._failed[0]:
            raise self._failed[1]

    def note(self, error: Exception) -> None:
        """Remember a failure for some seconds."""
        self._failed = time.monotonic() + _REMEMBERED_S, error

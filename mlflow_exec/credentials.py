"""Secret values: held without being shown, read only where they are used."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

_SECRET_NAME = re.compile(
    r"(PASSWORD|PASSWD|SECRET|TOKEN|CREDENTIAL|PRIVATE|API_?KEY|ACCESS_?KEY|_KEY$|^KEY$)",
    re.IGNORECASE,
)


class Secret:
    """A value that is never shown: not by ``repr``, ``str``, formatting, or pickling.

    ``source`` says where the value comes from, in words that may be printed. The value is read at
    each ``reveal()``, so a plan that holds a secret does not hold its value.
    """

    __slots__ = ("_read", "source")

    def __init__(self, source: str, read: Callable[[], str]) -> None:
        self.source = source
        self._read = read

    @classmethod
    def of(cls, value: str, source: str) -> Secret:
        """Wrap a value that is already known."""
        return cls(source, lambda: value)

    @classmethod
    def from_environment(cls, variable: str) -> Secret:
        """Refer to a variable of this process's environment."""
        return cls(f"environment variable {variable}", lambda: os.environ[variable])

    def reveal(self) -> str:
        """Return the value; only for the request that needs it."""
        return self._read()

    def __repr__(self) -> str:
        return f"Secret(*** from {self.source})"

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret cannot be pickled: it would show its value")


def looks_secret(name: str) -> bool:
    """Whether a variable's name says that its value is a secret (``HF_TOKEN``, ``DB_PASSWORD``)."""
    return _SECRET_NAME.search(name) is not None

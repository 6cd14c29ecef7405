"""What a system of objects tells of one that it keeps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol


class Hasher(Protocol):
    """Of hashlib's kind."""

    def update(self, piece: bytes, /) -> None:
        """Take a piece."""

    def hexdigest(self) -> str:
        """Return the hash of all pieces."""


@dataclass(frozen=True)
class Object:
    """What is kept under a key.

    Attributes:
        size_bytes: Its size.
        version: Differs once it is replaced.
        checksum: What `hasher` makes of its content; empty where the system tells none.
        hasher: Makes what hashes as the system does.
        mark: That of the upload in parts which it is of, see `Begun`; empty where it has none.
    """

    size_bytes: int
    version: str = ""
    checksum: str = ""
    hasher: Callable[[], Hasher] = field(default=hashlib.sha256, compare=False)
    mark: str = field(default="", compare=False)

    def is_content(self, content: bytes) -> bool:
        """Whether that is what is kept, as far as the system tells."""
        if not self.checksum:
            return True
        hasher = self.hasher()
        hasher.update(content)
        return hasher.hexdigest() == self.checksum

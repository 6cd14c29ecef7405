"""The seam of buckets that others may go to themselves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class SignedUrl:
    """Where something can be read or put, by whoever has it; so its `repr` does not show it.

    Attributes:
        url: With the signature.
        headers: Those that have to go with the request.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


class SignedUrls(ABC):
    """A bucket that lets others read and write single objects by URLs, which need no credential.

    Raises:
        ClusterError: As with `Objects`.
    """

    @abstractmethod
    def get_url(self, key: str, life_s: int) -> SignedUrl:
        """Return where an object can be read for so long."""

    @abstractmethod
    def put_url(self, key: str, life_s: int) -> SignedUrl:
        """Return where an object can be put for so long."""

    @abstractmethod
    def begin_parts(self, key: str) -> str:
        """Begin an upload in parts, and return its name."""

    @abstractmethod
    def part_url(self, key: str, upload: str, number: int, life_s: int) -> SignedUrl:
        """Return where a part, counted from 1, can be put for so long."""

    @abstractmethod
    def finish_parts(self, key: str, upload: str, etags: Mapping[int, str]) -> None:
        """Make the object of parts, by their numbers and what the bucket has called them."""

    @abstractmethod
    def abort_parts(self, key: str, upload: str) -> None:
        """Remove the parts."""
